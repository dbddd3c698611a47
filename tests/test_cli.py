"""What a user sees: output on stdout, commentary on stderr, errors of a few lines with their exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gencli
from gencli.cli.generate import Pace
from gencli.model.folder import open_model
from gencli.ui import clock_text, curve, show
from tests.conftest import Cli, tiny_text

COMMANDS = [
    "tokenize",
    "pretrain",
    "finetune",
    "align",
    "generate",
    "chat",
    "classify",
    "evaluate",
    "encode",
    "decode",
    "inspect",
    "export",
    "bench",
    "verify",
    "demo",
]


def piped(arguments: list[str], data: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gencli", *arguments],
        input=data,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    outcome = cli(command, "-h")
    assert outcome.code == 0
    assert f"gencli {command}" in outcome.out and "Example" in outcome.out


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").out == f"gencli {gencli.__version__}\n"


FAILURES = [
    (["pretrain", "{tmp}/none.txt", "-m", "{tmp}/m"], 3),
    (["pretrain", "-m", "{tmp}/m"], 2),
    (["pretrain", "{text}"], 2),
    (["pretrain", "{text}", "-m", "{tmp}/m", "--time", "soon"], 2),
    (["pretrain", "{text}", "-m", "{tmp}/m", "--steps", "0"], 2),
    (["pretrain", "{text}", "-m", "{tmp}/m", "--size", "huge"], 2),
    (["pretrain", "{text}", "-m", "{tmp}/m", "--steps", "2", "--device", "cuda:77"], 4),
    (["pretrain", "{text}", "-m", "{tmp}/m", "--steps", "2", "--width", "30", "--heads", "4"], 2),
    (["pretrain", "{text}", "-m", "{model}", "--steps", "2"], 5),
    (["pretrain", "{text}", "-m", "{tmp}/new", "--resume"], 5),
    (["pretrain", "{empty}", "-m", "{tmp}/m", "--steps", "2"], 3),
    (["pretrain", "{text}", "-m", "{tmp}/m", "-c", "{tmp}/none.toml"], 3),
    (["pretrain", "{text}", "-m", "{text}/m", "--steps", "2"], 4),
    (["tokenize", "{binary}", "-m", "{tmp}/m"], 3),
    (["tokenize", "{cp949}", "-m", "{tmp}/m"], 3),
    (["tokenize", "{text}", "-m", "{model}"], 5),
    (["finetune", "{text}", "-m", "{model}", "-o", "{tmp}/o"], 3),
    (["finetune", "{badpairs}", "-m", "{model}", "-o", "{tmp}/o"], 3),
    (["finetune", "{pairs}", "-m", "{model}", "-o", "{model}"], 2),
    (["finetune", "{pairs}", "-m", "{tmp}/none", "-o", "{tmp}/o"], 3),
    (["generate", "x", "-m", "{tmp}/none"], 3),
    (["generate", "x", "-m", "{model}", "-t", "-1"], 2),
    (["generate", "x", "-m", "{model}", "--top-kk", "1"], 2),
    (["generate", "x", "-m", "{model}", "-f", "{text}"], 2),
    (["generate", "-f", "{tmp}/none", "-m", "{model}"], 3),
    (["generate", "-f", "{cp949}", "-m", "{model}"], 3),
    (["classify", "x", "-m", "{tmp}/none"], 3),
    (["classify", "x", "-m", "{model}"], 3),
    (["classify", "x", "-i", "{text}", "-m", "{model}"], 2),
    (["classify", "-i", "{tmp}/none", "-m", "{model}"], 3),
    (["chat", "-m", "{tmp}/none"], 3),
    (["chat", "-m", "{model}", "--keep", "-1"], 2),
    (["chat", "-m", "{model}", "--load", "{tmp}/none"], 3),
    (["chat", "-m", "{model}", "--system", "x"], 2),
    (["evaluate", "-m", "{model}"], 2),
    (["evaluate", "{tmp}/none.txt", "-m", "{model}"], 3),
    (["decode", "-m", "{model}", "99999999"], 3),
    (["decode", "-m", "{model}", "eins"], 3),
    (["encode", "x", "-m", "{tmp}/none"], 3),
    (["inspect", "-m", "{tmp}/none"], 3),
    (["verify", "{tmp}/none"], 3),
    (["verify"], 2),
    (["demo", "-o", "{model}"], 5),
    (["pretrian"], 2),
]


@pytest.mark.parametrize(
    ("arguments", "code"), FAILURES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_failure_is_a_few_lines_with_its_exit_code(
    cli: Cli, arguments: list[str], code: int, tmp_path: Path, model_folder: Path, corpus_file: Path
) -> None:
    files = {
        "empty": b"", "binary": b"\x89PNG\r\n\x1a\n" + bytes(200), "cp949": ("한국어 글 " * 50).encode("cp949"),
        "badpairs": b'{"promt": "a", "completion": "b"}\n', "pairs": b'{"prompt": "a", "completion": "b"}\n' * 4,
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    names = {
        "tmp": tmp_path,
        "model": model_folder,
        "text": corpus_file,
        **{name: tmp_path / name for name in files},
    }
    before = sorted(path.name for path in model_folder.rglob("*"))
    outcome = cli(*(argument.format(**names) for argument in arguments))
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6, outcome.err
    assert sorted(path.name for path in model_folder.rglob("*") if path.name != "lock") == [
        n for n in before if n != "lock"
    ]


def test_encode_and_decode_return_the_text_byte_for_byte(model_folder: Path) -> None:
    text = "나는 학교에 간다\n\n\t탭  두 칸 </s> 😀 <|user|>\r\n끝".encode()
    model = ["-m", str(model_folder)]
    ids = piped(["encode", *model], text)
    assert ids.returncode == 0 and re.fullmatch(rb"[\d ]+\n", ids.stdout)
    assert piped(["decode", *model], ids.stdout).stdout == text


def test_generate_writes_text_alone_to_stdout(cli: Cli, model_folder: Path) -> None:
    outcome = cli("generate", "강 ", "-m", model_folder, "-n", 5, "-s", 1)
    assert outcome.out.startswith("강 ") and outcome.out.endswith("\n")
    assert "tokens" in outcome.err
    assert cli("generate", "강 ", "-m", model_folder, "-n", 5, "-s", 1, "-q").err == ""
    drawn = cli("generate", "강 ", "-m", model_folder, "-n", 5)
    seed = re.search(r"seed (\d+)", drawn.err)
    assert seed and cli("generate", "강 ", "-m", model_folder, "-n", 5, "-s", seed.group(1)).out == drawn.out


def test_generate_as_json_and_in_samples(cli: Cli, model_folder: Path) -> None:
    outcome = cli("generate", "강", "-m", model_folder, "-n", 4, "-s", 1, "--num-samples", 3, "--json")
    assert [record["row"] for record in sorted(outcome.records, key=lambda r: int(str(r["row"])))] == [
        0,
        1,
        2,
    ]
    for record in outcome.records:
        assert {"event", "prompt", "text", "tokens", "finish", "seed", "tokens_per_second"} <= record.keys()
        assert record["prompt"] == "강" and record["seed"] == 1 and 1 <= int(str(record["tokens"])) <= 4
    plain = cli("generate", "강", "-m", model_folder, "-n", 4, "-s", 1, "--num-samples", 3).out
    assert all(f"강{record['text']}\n" in plain for record in outcome.records)


def test_the_pace_is_that_of_the_tokens_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 6.0)
    assert Pace(began=1.0, first=5.0).rate(1) == 0.25
    assert Pace(began=1.0, first=5.0).rate(11) == 10.0


def test_text_beyond_the_context_is_announced_once(cli: Cli, model_folder: Path) -> None:
    outcome = cli("generate", "강 " * 80, "-m", model_folder, "-n", 150, "-s", 1, "--top-k", 0)
    assert outcome.code == 0
    assert outcome.err.count("outgrew the context") == 1


def test_prompts_come_from_an_argument_a_file_or_a_pipe(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("바다", encoding="utf-8")
    options = ["-m", str(model_folder), "-n", "3", "-s", "1", "-q"]
    expected = cli("generate", "바다", *options).out
    assert cli("generate", "-f", tmp_path / "prompt", *options).out == expected
    for arguments in (["generate", *options], ["generate", "-", *options]):
        assert piped(arguments, "바다\n".encode()).stdout.decode() == expected


@pytest.mark.parametrize("command", [["generate", "x", "-n", "5", "-s", "1"], ["inspect"]])
def test_a_closed_pipe_ends_quietly(model_folder: Path, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gencli", *command, "-q", "-m", str(model_folder)]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_on_a_terminal_the_model_cannot_send_escapes(model_folder: Path) -> None:
    prompt = "a\x1b[2Jb\x9bc\u202ed"
    arguments = [sys.executable, "-m", "gencli", "generate", prompt, "-m", str(model_folder), "-n", "1", "-q"]
    main, other = pty.openpty()
    with subprocess.Popen(
        arguments, stdout=other, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as process:
        os.close(other)
        seen = b""
        while True:
            try:
                data = os.read(main, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
        process.wait()
    os.close(main)
    assert b"\x1b" not in seen and rb"a\x1b[2Jb\x9bc\x202ed" in seen


def test_a_pipe_closed_in_the_middle_of_a_large_write_is_noticed(model_folder: Path) -> None:
    command = f"{sys.executable} -m gencli encode -m {model_folder} | head -c 10; exit ${{PIPESTATUS[0]}}"
    text = "강 산 바다 " * 40_000
    for unbuffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(
            ["bash", "-c", command], input=text.encode(), capture_output=True, env=environment, check=False
        )
        assert ended.returncode == 141 and len(ended.stdout) == 10


def test_raw_text_goes_into_a_pipe(model_folder: Path) -> None:
    out = piped(["generate", "a\x1b[2Jb", "-m", str(model_folder), "-n", "1", "-q"]).stdout
    assert out.startswith(b"a\x1b[2Jb")


def test_inspect_tells_shape_lineage_and_disk_use(cli: Cli, model_folder: Path) -> None:
    facts = cli("inspect", "-m", model_folder, "--json").records[0]
    opened = open_model(model_folder)
    model, tokenizer, disk = facts["model"], facts["tokenizer"], facts["disk"]
    assert isinstance(model, dict) and isinstance(tokenizer, dict) and isinstance(disk, dict)
    assert model["parameters"] == opened.shape.parameters
    assert tokenizer["sha256"] == opened.tokenizer.digest
    assert disk["model.safetensors"] == (model_folder / "model.safetensors").stat().st_size
    assert f"{opened.shape.parameters:,}" in cli("inspect", "-m", model_folder).out


def test_evaluate_counts_the_bytes_of_the_file(cli: Cli, model_folder: Path, corpus_file: Path) -> None:
    record = cli("evaluate", corpus_file, "-m", model_folder, "--json").records[0]
    assert record["bytes"] == corpus_file.stat().st_size
    tokens, loss, bits = (float(str(record[key])) for key in ("tokens", "loss", "bits_per_byte"))
    assert bits == pytest.approx(loss * tokens / 0.6931471805599453 / corpus_file.stat().st_size, rel=1e-3)
    assert "bits/byte" in cli("evaluate", corpus_file, "-m", model_folder).out


def test_tokenize_reports_every_script(cli: Cli, corpus_file: Path, tmp_path: Path) -> None:
    outcome = cli("tokenize", corpus_file, "-m", tmp_path / "m", "--vocab-size", 400, "--json")
    record = outcome.records[0]
    scripts = record["scripts"]
    assert isinstance(scripts, dict) and {"hangul", "latin"} <= scripts.keys()
    assert record["round_trip_failures"] == 0
    again = cli("tokenize", corpus_file, "-m", tmp_path / "m")
    assert again.code == 5 and "--overwrite" in again.err
    shown = cli("tokenize", corpus_file, "-m", tmp_path / "m", "--overwrite", "--vocab-size", 400)
    assert shown.code == 0 and "bytes per token" in shown.out and "next: gencli pretrain" in shown.err


def test_stdin_is_a_corpus(tmp_path: Path) -> None:
    done = piped(["tokenize", "-", "-m", str(tmp_path / "m"), "--json"], tiny_text().encode())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 60


def test_the_model_may_come_from_the_environment(model_folder: Path) -> None:
    assert piped(["encode", "강"], GENCLI_MODEL=str(model_folder)).returncode == 0


@pytest.mark.parametrize(
    "code", [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x202E, 0x2066, 0xE0041]
)
def test_characters_that_steer_a_terminal_become_visible(code: int) -> None:
    assert show(f"가{chr(code)}b") == (f"가{chr(code)}b" if chr(code) in "\n\t" else f"가\\x{code:02x}b")


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert show("한글 abc 漢字 😀 é [red]") == "한글 abc 漢字 😀 é [red]"


def test_the_curve_falls_from_left_to_right() -> None:
    lines = curve([(i / 100, 5 - i / 25) for i in range(101)], width=20, height=4)
    assert len(lines) == 4 and lines[0].startswith("   4.96") and lines[-1].startswith("   1.04")
    marks = [[i for i, ch in enumerate(line[9:]) if ord(ch) > 0x2800] for line in lines]
    assert marks[0][0] == 0 and marks[-1][-1] == 19
    assert curve([]) == [] and curve([(0, 1.0), (1, 1.0)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (725, "12:05"), (11220, "3:07:00")]
)
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
