"""generate --input: many prompts in batches, bad rows among them, and runs that go on where one was cut off."""

from __future__ import annotations

import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gencli import storage
from gencli.cli import prompt_rows as reading
from gencli.cli.prompt_rows import PromptRow, prompt_rows
from gencli.cli.rows_file import open_rows_file
from gencli.decoding.many import batches_by_length, in_order, windows
from tests.conftest import WORDS, Cli

PROMPTS = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 5)) for n in range(11)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file of prompts, one a line."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(prompt + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


def options(model: Path, *more: object) -> list[object]:
    return ["generate", "-m", model, "-n", 6, "-s", 3, "-q", *more]


@given(st.lists(st.integers(0, 50)), st.integers(1, 9))
def test_windows_and_batches_hold_everything_once(items: list[int], size: int) -> None:
    found = list(windows(items, size))
    assert [one for window in found for one in window] == items
    assert all(0 < len(window) <= size for window in found)
    batches = list(batches_by_length(items, lambda one: one, size))
    assert [one for batch in batches for one in batch] == sorted(items)


@given(st.permutations(range(12)))
def test_results_come_in_order_and_none_waits_in_vain(finished: list[int]) -> None:
    taken: list[int] = []

    def results() -> Any:
        for number in finished:
            taken.append(number)
            yield number, f"result {number}"

    for place, result in enumerate(in_order(results(), range(12))):
        assert result == f"result {place}"
        assert taken == finished[: max(finished.index(n) for n in range(place + 1)) + 1]


def test_rows_come_in_the_order_of_the_prompts(cli: Cli, model_folder: Path, source: Path) -> None:
    records: Any = cli(*options(model_folder, "-i", source, "--batch-size", 3)).records
    assert [record["line"] for record in records] == list(range(1, 12))
    assert [record["prompt"] for record in records] == PROMPTS
    assert list(records[0]) == ["line", "sample", "prompt", "text", "confidence", "tokens", "finish", "seed"]
    first: Any = cli(*options(model_folder, PROMPTS[0], "--json")).records[0]
    assert first["text"] == records[0]["text"]


def test_a_sample_is_the_same_whatever_the_batch(cli: Cli, model_folder: Path, source: Path) -> None:
    def texts(*more: object) -> dict[tuple[int, int], str]:
        records: Any = cli(*options(model_folder, "-i", source, *more)).records
        return {(record["line"], record["sample"]): record["text"] for record in records}

    one = texts("--batch-size", 1)
    assert texts("--batch-size", 4) == texts("--batch-size", 32) == texts("--unordered") == one
    several = texts("--num-samples", 3, "--batch-size", 4)
    assert {key: text for key, text in several.items() if key[1] == 0} == one
    assert len(several) == 33 and len(set(several.values())) > 20


def test_unordered_rows_come_as_they_are_ready(cli: Cli, model_folder: Path, source: Path) -> None:
    lines = [
        [
            int(str(record["line"]))
            for record in cli(*options(model_folder, "-i", source, "--batch-size", 2, *more)).records
        ]
        for more in ([], ["--unordered"])
    ]
    assert lines[0] == sorted(lines[1]) != lines[1]


def test_a_bad_row_is_told_and_the_rest_goes_on(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "\xea\xb0\x95", "id": "first"}\n\n{"promt": "x"}\n[1]\nnot json\n'
        b'{"prompt": 5}\n{"prompt": "\xff"}\n' + b"[" * 100_000 + b'\n{"prompt": "\\ud800 \xec\x82\xb0"}\r\n'
    )
    arguments = [argument for argument in options(model_folder, "-i", path) if argument != "-q"]
    outcome = cli(*arguments)
    records: Any = outcome.records
    assert outcome.code == 0
    assert [record["line"] for record in records] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert [record["line"] for record in records if "error" in record] == [3, 4, 5, 6, 7, 8]
    assert records[0]["id"] == "first" and records[0]["prompt"] == "강" and records[-1]["prompt"] == "? 산"
    assert 'no "prompt"' in records[1]["error"] and "not UTF-8" in records[5]["error"]
    assert "8 prompts, 6 failed" in outcome.err and "line 3" in outcome.err


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"prompt": 1}\n{}\n'])
def test_an_input_without_a_prompt_is_bad_input(
    cli: Cli, model_folder: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    outcome = cli(*options(model_folder, "-i", path))
    assert outcome.code == 3 and str(path) in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6
    assert all("error" in record for record in outcome.records)


def test_a_line_without_end_is_told_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 10)
    path = tmp_path / "prompts.txt"
    path.write_text("0123456789\n" * 2 + "x" * 95 + "\nend")
    rows = list(prompt_rows(path))
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert [bool(row.error) for row in rows] == [False, False, True, False]
    assert rows[-1] == PromptRow(4, "end")


def test_prompts_come_through_a_pipe(model_folder: Path) -> None:
    command = [sys.executable, "-m", "gencli", *map(str, options(model_folder, "--input", "-"))]
    as_lines, as_json = (
        subprocess.run(command, input=data.encode(), capture_output=True, timeout=60, check=True).stdout
        for data in ("강\n산\n", '{"prompt": "강"}\n{"prompt": "산"}\n')
    )
    assert as_lines == as_json and as_lines.count(b"\n") == 2


def test_a_run_that_was_cut_off_goes_on(cli: Cli, model_folder: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "rows.jsonl"
    arguments = options(model_folder, "-i", source, "--num-samples", 2, "--batch-size", 4, "-o", output)
    assert cli(*arguments).out == ""
    whole = output.read_bytes()
    assert len(whole.splitlines()) == 22
    lines = whole.splitlines(keepends=True)
    job = json.loads(lines[0])["job"]
    for cut in (0, 3, len(lines[0]), len(lines[0]) + 1, len(b"".join(lines[:7])) + 20, len(whole) - 1):
        output.write_bytes(whole[:cut])
        with open_rows_file(output, job):
            assert output.read_bytes() == whole[: whole.rfind(b"\n", 0, cut) + 1]
        output.write_bytes(whole[:cut])
        assert cli(*arguments).code == 0
        assert sorted(output.read_bytes().splitlines()) == sorted(lines[n].rstrip() for n in range(22))
        assert output.read_bytes().startswith(whole[:cut].rpartition(b"\n")[0])
    output.write_bytes(b"".join(lines[:5]) + bytes(100))  # as a power loss may leave it
    assert cli(*arguments).code == 0 and output.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_process_loses_no_row(
    cli: Cli, model_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    source, output, whole = (tmp_path / name for name in ("prompts.txt", "rows.jsonl", "whole.jsonl"))
    source.write_text("".join(f"{WORDS[n % len(WORDS)]} {n}\n" for n in range(400)), encoding="utf-8")
    arguments = ["generate", "-m", model_folder, "-n", 40, "-s", 3, "-i", source, "--batch-size", 8]
    command = [sys.executable, "-m", "gencli", *map(str, arguments), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while time.monotonic() < until and (not output.exists() or output.stat().st_size < 2000):
        time.sleep(0.005)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert (b"goes on" in told) == (number == signal.SIGINT) and b"Traceback" not in told
    kept = output.read_bytes()
    assert 0 < kept.count(b"\n") < 400
    assert cli(*arguments, "-o", output).code == 0
    assert cli(*arguments, "-o", whole).code == 0
    assert output.read_bytes() == whole.read_bytes() and output.read_bytes().startswith(kept)


def test_a_finished_output_is_left_as_it_is(
    cli: Cli, model_folder: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    arguments = ["generate", "-m", model_folder, "-n", 4, "-i", source, "-o", output]
    assert "seed" in cli(*arguments).err
    whole = output.read_bytes()
    again = cli(*arguments)  # the seed is that of the rows
    assert again.code == 0 and output.read_bytes() == whole and "11 of them were there already" in again.err
    other = cli(*arguments, "-s", 1)
    assert other.code == 5 and "seed" in other.err and output.read_bytes() == whole
    for changed in (["-n", 5], ["--top-k", 3], ["--precision", "int8"]):
        other = cli(*arguments, *changed)
        assert other.code == 5 and "other settings" in other.err and output.read_bytes() == whole
    assert cli(*arguments, "--batch-size", 2, "-q").code == 0 and output.read_bytes() == whole
    another = shutil.copytree(model_folder, tmp_path / "another")
    assert cli(*arguments, "-m", another).code == 0 and output.read_bytes() == whole  # the same weights
    weights = load_file(another / "model.safetensors")
    save_file({name: array * 2 for name, array in weights.items()}, another / "model.safetensors")
    other = cli(*arguments, "-m", another)
    assert other.code == 5 and "another model" in other.err and output.read_bytes() == whole
    source.write_text("another\n" + "\n".join(PROMPTS[1:]))
    other = cli(*arguments)
    assert other.code == 5 and "line 1" in other.err and output.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"a": 1}\n', b'{"line": "x"}\n', b"[1]\n"])
def test_a_file_of_something_else_is_not_written_to(
    cli: Cli, model_folder: Path, source: Path, tmp_path: Path, content: bytes
) -> None:
    output = tmp_path / "mine.txt"
    output.write_bytes(content)
    outcome = cli(*options(model_folder, "-i", source, "-o", output))
    assert outcome.code == 3 and "something else" in outcome.err and output.read_bytes() == content
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6


def test_a_full_disk_is_told_and_the_rows_go_on_later(
    cli: Cli, model_folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.jsonl"
    arguments = options(model_folder, "-i", source, "-o", output)
    writes = 0

    def refuse(operation: str, path: Path, target: Path | None = None) -> None:
        nonlocal writes
        writes += operation == "write"
        if writes > 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "watch", refuse)
        outcome = cli(*arguments)
    assert outcome.code == 4 and "no space left" in outcome.err
    assert len(output.read_bytes().splitlines()) == 3
    assert cli(*arguments).code == 0 and len(output.read_bytes().splitlines()) == 11


def test_two_processes_do_not_write_to_one_file(
    cli: Cli, model_folder: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    with open_rows_file(output, "job"):
        outcome = cli(*options(model_folder, "-i", source, "-o", output))
    assert outcome.code == 5 and "another process" in outcome.err


def test_choices_for_many_prompts(cli: Cli, model_folder: Path, source: Path) -> None:
    records: Any = cli(*options(model_folder, "-i", source, "--choices", "강,sea")).records
    assert [record["line"] for record in records] == list(range(1, 12))
    for record in records[:3]:
        alone: Any = cli(*options(model_folder, record["prompt"], "--choices", "강,sea", "--json")).records[0]
        assert alone["choices"] == record["choices"] and alone["text"] == record["text"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["x", "-i", "{source}"], 2),
        (["-f", "{source}", "-i", "{source}"], 2),
        (["x", "-o", "{tmp}/rows"], 2),
        (["x", "--unordered"], 2),
        (["x", "--min-new-tokens", "50"], 2),
        (["-i", "{tmp}/none.txt"], 3),
        (["-i", "{tmp}"], 3),
        (["-i", "{source}", "-o", "{tmp}"], 4),
        (["-i", "{source}", "-o", "/dev/null"], 3),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, model_folder: Path, source: Path, tmp_path: Path, more: list[str], code: int
) -> None:
    outcome = cli(*options(model_folder, *(part.format(source=source, tmp=tmp_path) for part in more)))
    assert outcome.code == code and outcome.out == "", outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6


def test_log_probabilities_come_with_each_row(cli: Cli, model_folder: Path, source: Path) -> None:
    records: Any = cli(*options(model_folder, "-i", source, "--logprobs", 2)).records
    assert all(len(record["logprobs"]) == record["tokens"] for record in records)
    assert json.dumps(records[0]["logprobs"][0]["alternatives"])
