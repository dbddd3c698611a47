"""The README: its commands run as they stand, at toy size, and its table is the settings' own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_text
from tests.options_table import README, commands, options_table

TEXT = README.read_text(encoding="utf-8")
TOY = "--steps 3 --layers 1 --width 32 --context 32"


def console_lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def toy(line: str) -> str:
    """Return a README line made small: the length of a run is all that changes."""
    if "gencli bench" in line:
        return f"{line} --time 1s"
    if "--resume" in line:
        return line.replace("--time 20m", "--steps 5")
    line = line.replace("--time 10m --size micro", TOY).replace("--time 10m", TOY).replace("--time 2h", TOY)
    for name in ("qa", "mood", "polite", "sure", "short"):
        line = line.replace(f"-o models/{name}", f"-o models/{name} --steps 3")
    return line


def test_the_first_screen_installs_runs_and_tests() -> None:
    first = TEXT.split("```sh\n")[1].split("```")[0].splitlines()
    assert len(first) == 2 and TEXT.index("```sh") < 400
    assert first[0].endswith("gencli demo") and first[1].endswith("pytest")


def test_every_command_is_named() -> None:
    assert [command for command in commands() if f"gencli {command}" not in TEXT] == ["decode"] or all(
        f"gencli {command}" in TEXT for command in commands()
    )


def test_the_table_is_that_of_the_settings() -> None:
    assert options_table() in TEXT, "run: python -m tests.options_table"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Return a folder with the files that the README speaks of."""
    (tmp_path / "novels").mkdir()
    (tmp_path / "novels" / "one.txt").write_text(tiny_text(120), encoding="utf-8")
    pairs = "".join(f'{{"prompt": "{n} 더하기 1은?", "completion": "{n + 1}"}}\n' for n in range(240))
    (tmp_path / "pairs.jsonl").write_text(pairs, encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(pairs, encoding="utf-8")
    reviews = "".join(
        f"{word} {n},{label}\n" for n in range(30) for word, label in (("좋다", "긍정"), ("싫다", "부정"))
    )
    (tmp_path / "reviews.csv").write_text(f"text,label\n{reviews}", encoding="utf-8")
    better = "".join(f'{{"prompt": "{n}?", "chosen": "{n + 1}", "rejected": "no"}}\n' for n in range(20))
    (tmp_path / "better.jsonl").write_text(better, encoding="utf-8")
    (tmp_path / "rewards.py").write_text(next(code for code in python_blocks() if "def short" in code))
    (tmp_path / "bin").mkdir()
    for name, module in (("gencli", "gencli"), ("torchrun", "torch.distributed.run")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    return tmp_path


def test_the_commands_run_as_they_stand(workplace: Path) -> None:
    environment = {**os.environ, "PATH": f"{workplace / 'bin'}:{os.environ['PATH']}"}
    environment |= {"GENCLI_CACHE": str(workplace / "cache"), "COLUMNS": "100"}
    lines = console_lines()
    assert len(lines) >= 10
    for line in lines:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", toy(line)],
            cwd=workplace, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if "decode" in line:
            assert done.stdout == "나는 학교에 간다"
    for block in python_blocks():
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("옛날 옛적에") or "print(" not in block
