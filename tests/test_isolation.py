"""SentencePiece in a child process: its crashes are errors, it stops at once, and nothing of it is left."""

from __future__ import annotations

import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gencli.errors import StoppedError, TokenizerError
from gencli.text import isolation, sentencepiece_child, tokenizer_training, trial
from gencli.text.corpus import open_corpus
from gencli.text.isolation import in_child, paced
from gencli.text.tokenizer import KINDS, Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from tests.conftest import Cli
from tests.trained import sentences, trained

PATH = "import sys; sys.path[:] = sys.argv[1:]\n"
CHILD = "import os, signal\nfrom gencli.text.sentencepiece_child import main\n"
LIBRARY = "import sentencepiece\n"
BUSY = "def busy(**_):\n    while True: pass\nsentencepiece.SentencePieceProcessor = busy"
TRAINER = "sentencepiece.SentencePieceTrainer.train = lambda **_: "


@pytest.fixture
def child_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes the child do something of its own before its work."""

    def prepare(code: str) -> None:
        monkeypatch.setattr(isolation, "_PROGRAM", f"{PATH}{CHILD}{LIBRARY}{code}\nmain()")

    return prepare


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(sentences(200), "utf-8")
    return path


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Return a file that SentencePiece's trainer is busy with for a good while."""
    draw = random.Random(5)
    syllables = [chr(0xAC00 + number) for number in range(2000)]
    words = ["".join(draw.choices(syllables, k=4)) for _ in range(200_000)]
    path = tmp_path / "large.txt"
    path.write_text("\n".join(" ".join(words[at : at + 10]) for at in range(0, len(words), 10)), "utf-8")
    return path


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started and that still run."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if is_running(int(child))]


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def child_of(process: subprocess.Popen[bytes]) -> int:
    """Return the one child of a process, once it is there."""

    def look() -> list[int]:
        assert process.poll() is None, process.communicate()
        return children_of(process.pid)

    (child,) = awaited(look)
    return int(child)


def awaited(done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first true value of `done`."""
    until = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)
    return value


# --- the same work as without a child


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [340, 600])
def test_the_model_is_the_one_made_without_a_child(
    tmp_path: Path, text_file: Path, kind: str, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(task: str, options: dict[str, Any], data: Iterable[bytes], **_: object) -> bytes:
        return sentencepiece_child.TASKS[task](io.BytesIO(b"".join(data)), **options)

    corpus = open_corpus([text_file])
    in_a_child = train_tokenizer(corpus, tmp_path / "a", vocabulary=vocabulary, kind=kind)
    monkeypatch.setattr(tokenizer_training, "in_child", here)
    alone = train_tokenizer(corpus, tmp_path / "b", vocabulary=vocabulary, kind=kind)
    assert in_a_child.tokenizer.model_bytes == alone.tokenizer.model_bytes
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_child_loads_nothing_that_takes_time() -> None:
    code = "import sys, gencli.text.sentencepiece_child, sentencepiece; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numba", "numpy", "rich", "typer", "subprocess"} & set(done.stdout.split())


def test_the_child_imports_nothing_from_the_folder_it_is_started_in(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sentencepiece", "json", "resource", "ctypes", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the wrong folder')", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert train_tokenizer(open_corpus([text_file]), tmp_path / "m", vocabulary=400).tokenizer


# --- crashes


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (TRAINER + "os.kill(os.getpid(), signal.SIGSEGV)", r"crashed on this text \(SIGSEGV\)"),
        (TRAINER + "os.abort()", r"crashed on this text \(SIGABRT\)"),
        (TRAINER + "os.kill(os.getpid(), signal.SIGKILL)", r"\(SIGKILL\)"),
        (TRAINER + "os._exit(0)", "no reason given"),
        (TRAINER + "1 / 0", "failed on this text: ZeroDivisionError"),
        (TRAINER + "sentencepiece.SentencePieceProcessor(model_proto=b'x')", "refuses this text"),
        ("os.abort()", "SIGABRT"),
    ],
)
def test_what_ends_the_trainer_is_told_and_leaves_no_file(
    cli: Cli, tmp_path: Path, text_file: Path, child_runs: Callable[[str], None], code: str, reason: str
) -> None:
    child_runs(code)
    with pytest.raises(TokenizerError, match=reason):
        train_tokenizer(open_corpus([text_file]), tmp_path / "model", vocabulary=400)
    assert cli("tokenize", text_file, "-m", tmp_path / "m").code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_what_the_library_prints_is_no_answer(
    tmp_path: Path, text_file: Path, child_runs: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    child_runs("os.write(1, b'noise'); os.write(2, b'noise' * 100_000)")
    with pytest.raises(TokenizerError, match="noise"):  # written before the child set its answers apart
        train_tokenizer(open_corpus([text_file]), tmp_path / "model", vocabulary=400)
    child_runs(
        "train = sentencepiece.SentencePieceTrainer.train\n"
        "def noisy(**options):\n    os.write(1, b'noise' * 100_000)\n    train(**options)\n"
        "sentencepiece.SentencePieceTrainer.train = noisy"
    )
    assert train_tokenizer(open_corpus([text_file]), tmp_path / "model", vocabulary=400).tokenizer
    assert capfd.readouterr() == ("", "")


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("command", ["tokenize", "pretrain"])
def test_a_signal_ends_the_training_of_a_tokenizer_at_once(
    tmp_path: Path, large_file: Path, number: int, command: str
) -> None:
    arguments = [command, str(large_file), "-m", str(tmp_path / "m"), "--kind", "unigram"]
    process = subprocess.Popen([sys.executable, "-m", "gencli", *arguments], stderr=subprocess.PIPE)
    with process:
        child = child_of(process)
        time.sleep(0.5)
        assert is_running(child)
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - began < 10
    assert process.returncode == 128 + number
    assert b"stopped" in said and b"Traceback" not in said
    assert not is_running(child)
    assert not [path for path in (tmp_path / "m").rglob("*") if path.is_file() and path.name != "lock"]


def test_a_signal_ends_the_reading_of_a_corpus(tmp_path: Path, text_file: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        raise StoppedError(signal.SIGTERM)

    with pytest.raises(StoppedError):
        train_tokenizer(open_corpus([text_file]), tmp_path / "model", vocabulary=400, check=check)
    assert calls == 1 and not children_of(os.getpid())


def test_a_stopped_report_says_that_the_tokenizer_is_there(
    cli: Cli, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, check: Callable[[], None], **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        check()

    monkeypatch.setattr("gencli.text.report.tokenizer_report", stopped)
    outcome = cli("tokenize", text_file, "-m", tmp_path / "m", "--vocab-size", 400)
    assert outcome.code == 143 and "kept: the new tokenizer" in outcome.err
    assert Tokenizer.open(tmp_path / "m" / "tokenizer.model")


def test_the_child_leaves_an_interrupt_to_the_parent(tmp_path: Path, large_file: Path) -> None:
    interrupted = 0

    def interrupt() -> None:
        nonlocal interrupted
        for child in children_of(os.getpid()):
            if b"sentencepiece" in Path(f"/proc/{child}/maps").read_bytes():  # it has begun its work
                os.kill(child, signal.SIGINT)
                interrupted += 1

    corpus = open_corpus([large_file])
    assert train_tokenizer(corpus, tmp_path / "model", vocabulary=5000, check=interrupt)
    assert interrupted


def test_the_child_dies_with_its_parent(tmp_path: Path, large_file: Path) -> None:
    arguments = ["tokenize", str(large_file), "-m", str(tmp_path / "m"), "--kind", "unigram"]
    with subprocess.Popen([sys.executable, "-m", "gencli", *arguments]) as process:
        child = child_of(process)
        time.sleep(0.3)
        process.kill()
        process.wait()
        awaited(lambda: not is_running(child), 2.0)


def test_who_waits_is_asked_ten_times_a_second() -> None:
    calls = []
    call = paced(lambda: calls.append(time.monotonic()))
    until = time.monotonic() + 0.35
    while time.monotonic() < until:
        call()
    assert 3 <= len(calls) <= 4


# --- trials


BROKEN = b"\x02\0"  # a part without a number, which gencli's own reader skips
HARMLESS = b"\x22\0"  # an empty part


@pytest.fixture
def crafted(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(more: bytes) -> Path:
        path = tmp_path / "tokenizer.model"
        path.write_bytes(trained().model_bytes + more)
        return path

    return write


def test_a_model_that_fails_the_library_is_refused(crafted: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = crafted(BROKEN)
    with pytest.raises(TokenizerError, match="SentencePiece refuses this tokenizer") as caught:
        Tokenizer.open(path, tmp_path / "cache")
    assert caught.value.where == str(path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sentencepiece.SentencePieceProcessor = lambda **_: os.abort()", "SIGABRT"),
        (BUSY, r"takes too long over this tokenizer \(SIGXCPU\)"),
        ("sentencepiece.SentencePieceProcessor = lambda **_: bytearray(3 << 30)", "MemoryError"),
        ("import time; main = lambda: time.sleep(60)", "takes too long"),
        ("sentencepiece.SentencePieceProcessor.encode = lambda *_: [10**6]", "ids beyond"),
    ],
)
def test_a_tokenizer_that_crashes_the_library_is_refused(
    cli: Cli, crafted: Callable[[bytes], Path], child_runs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, code: str, reason: str,
) -> None:  # fmt: skip
    path = crafted(b"")
    child_runs(code)
    monkeypatch.setattr(trial, "_SECONDS", 0.5 if "sleep" in code else 60.0)
    monkeypatch.setattr(trial, "_CPU_SECONDS", 1)
    with pytest.raises(TokenizerError, match=reason):
        Tokenizer.open(path)
    outcome = cli("encode", "x", "-m", path.parent)
    assert outcome.code == 3 and re.search(reason, outcome.err) and str(path) in outcome.err.replace("\n", "")
    assert not children_of(os.getpid())


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give a list that grows with every trial."""
    made: list[str] = []

    def counted(task: str, *arguments: Any, **options: Any) -> bytes:
        made.append(task)
        return in_child(task, *arguments, **options)

    monkeypatch.setattr(trial, "in_child", counted)
    yield made


def test_what_passed_is_not_tried_again(
    crafted: Callable[[bytes], Path], tmp_path: Path, trials: list[str]
) -> None:
    path, cache = crafted(b""), tmp_path / "cache"
    for _ in range(3):
        Tokenizer.open(path, cache)
    assert trials == ["probe"]
    marks = [path for path in cache.rglob("*") if path.is_file()]
    assert [mark.name for mark in marks] == [trained().digest] and marks[0].read_bytes() == b""
    path.write_bytes(path.read_bytes() + HARMLESS)
    Tokenizer.open(path, cache)
    assert trials == ["probe"] * 2


def test_without_a_place_to_remember_it_is_tried_each_time(
    crafted: Callable[[bytes], Path], tmp_path: Path, trials: list[str]
) -> None:
    path = crafted(b"")
    for cache in (None, path):  # a file can't be a folder of marks
        Tokenizer.open(path, cache)
        Tokenizer.open(path, cache)
    assert trials == ["probe"] * 4


def test_what_was_trained_here_needs_no_trial(
    cli: Cli, tmp_path: Path, text_file: Path, trials: list[str]
) -> None:
    assert cli("tokenize", text_file, "-m", tmp_path / "m", "--vocab-size", 400).code == 0
    assert cli("encode", "x", "-m", tmp_path / "m").code == 0
    assert trials == []
