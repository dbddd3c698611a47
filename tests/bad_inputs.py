"""Rows of inputs that are bad or odd: how the file is made, the command that meets it, and what a user then reads."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.conftest import Cli, Outcome

Make = Callable[[Path], object]
SECONDS = 30.0  # more than any row takes; a row that hangs ends here


@dataclass(frozen=True)
class Row:
    """One input of the list: `make` puts it at a path, `command` names it as {bad}; each of `told` is on stderr."""

    name: str
    make: Make
    command: str
    code: int
    told: tuple[str, ...]
    file: str

    def __str__(self) -> str:
        return self.name


def row(
    name: str, content: bytes | str | Make, command: str, code: int, *told: str, file: str = "bad.txt"
) -> Row:
    """Return a row; `content` is that of the file, or what makes it."""
    if isinstance(content, str):
        content = content.encode()
    make = content if callable(content) else _writer(content)
    return Row(name, make, command, code, told, file)


def _writer(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def met(row: Row, cli: Cli, tmp_path: Path, **places: object) -> Outcome:
    """Make the input, run the command, and check what holds for every row; return what the command left.

    The exit code and the words are those of the row; a failure is two to six lines without a traceback, and
    nothing on stdout; and no file that was there has changed.
    """
    bad = tmp_path / row.file
    row.make(bad)
    folders = [tmp_path, *(place for place in places.values() if isinstance(place, Path))]
    before = {folder: contents(folder) for folder in folders}
    names = {"bad": bad, "tmp": tmp_path, "new": tmp_path / "new", **places}
    with time_limit(SECONDS):
        outcome = cli(*(part.format(**names) for part in row.command.split()))
    assert outcome.code == row.code, outcome.err
    assert "Traceback" not in outcome.err
    for words in row.told:
        assert words in outcome.err, outcome.err
    if row.code:
        assert outcome.out == ""
        assert 2 <= len(outcome.err.strip().splitlines()) <= 6, outcome.err
    for folder, files in before.items():
        after = contents(folder)
        assert {path: after.get(path) for path in files} == files
    return outcome


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of every regular file in a folder (or of a file), caches and locks left out."""
    files = [folder] if folder.is_file() else folder.rglob("*")
    return {
        path: path.read_bytes()
        for path in files
        if path.is_file() and not path.is_symlink() and path.name != "lock" and "cache" not in path.parts
    }


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, even if it waits for something that never comes."""

    def expired(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
