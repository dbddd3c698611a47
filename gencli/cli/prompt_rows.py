"""Many prompts from a file or a pipe: plain lines, or JSON lines with a "prompt"; a bad row is told, not raised."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gencli.cli.pipes import is_piped
from gencli.errors import InputError, MachineError, UsageError

LONGEST_LINE = 16 << 20  # bytes
STDIN = Path("-")
_BLOCK = 1 << 16
_MARK = b"\xef\xbb\xbf"  # with which some editors begin a file


@dataclass(frozen=True)
class PromptRow:
    """A line of the input, counted from 1: its prompt and its id, or why it can't be used."""

    line: int
    prompt: str = ""
    id: object = None
    error: str = ""


def prompt_rows(source: Path) -> Iterator[PromptRow]:
    """Yield the rows of a file, or of stdin for `-`; blank lines are passed over. As `arriving_rows` else."""
    for rows in arriving_rows(source, 1):
        yield from rows


def arriving_rows(
    source: Path,
    most: int,
    *,
    keys: Sequence[str] = ("prompt",),
    blanks: bool = False,
    what: str = "the prompts",
) -> Iterator[list[PromptRow]]:
    """Yield the rows of a file, or of stdin for `-`, in lists of at most `most`, fewer if the next must be waited for.

    A .jsonl holds objects with a text under one of the `keys` (an "id" is passed on), a .txt holds a text a
    line; of any other name, and of stdin, the first line tells. With `blanks` an empty line is a row that
    can't be used, and else it is none. Raises InputError for what isn't there or is no regular file,
    MachineError where permission lacks, UsageError if stdin is the terminal.
    """
    with _opened(source, what) as stream:
        lines = LineStream(stream)
        window: list[PromptRow] = []
        for row in _rows(lines, source.suffix.lower() if source != STDIN else "", keys, blanks):
            window.append(row)
            if len(window) == most or lines.must_wait():
                yield window
                window = []
        if window:
            yield window


@contextlib.contextmanager
def _opened(source: Path, what: str) -> Iterator[BinaryIO]:
    """Give the stream of a file or of stdin; `what` it holds is named in errors."""
    if source == STDIN:
        if not is_piped():
            raise UsageError("stdin is the terminal", hint=f"give --input a file, or pipe {what} in")
        yield sys.stdin.buffer
        return
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise InputError(
                f"{what} are not in a regular file", where=str(source), hint="pipe them in: --input -"
            )
        with source.open("rb") as file:
            yield file
    except PermissionError as error:
        raise MachineError(f"no permission to read {what}", where=str(source)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{what} can't be read: {reason}", where=str(source)) from error


class LineStream:
    """Lines of a stream, and whether the next one is there already."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held, self._place = stream, b"", 0

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, at most `limit` bytes of it; nothing at the end of the stream."""
        parts, size = [], 0
        while True:
            end = self._held.find(b"\n", self._place, self._place + limit - size) + 1
            end = end or min(len(self._held), self._place + limit - size)
            parts.append(self._held[self._place : end])
            size += end - self._place
            self._place = end
            if size == limit or parts[-1].endswith(b"\n"):
                return b"".join(parts)
            self._held, self._place = self._read(), 0
            if not self._held:
                return b"".join(parts)

    def must_wait(self) -> bool:
        """Tell whether the next line is still to come: no end of one is held, and nothing can be read at once."""
        if self._held.find(b"\n", self._place) >= 0:
            return False
        try:
            return not select.select([self._stream.fileno()], [], [], 0)[0]
        except (OSError, ValueError):  # a stream without a descriptor has all there is
            return False

    def _read(self) -> bytes:
        data: bytes = getattr(self._stream, "read1", self._stream.read)(_BLOCK)
        return data


def _rows(stream: LineStream, suffix: str, keys: Sequence[str], blanks: bool) -> Iterator[PromptRow]:
    as_json = {".jsonl": True, ".txt": False}.get(suffix)
    for number, data in _lines(stream):
        if data is None:
            yield PromptRow(number, error=f"the line is longer than {LONGEST_LINE >> 20} MB")
            continue
        if not data.strip():
            if blanks:
                yield PromptRow(number, error="the line is empty")
            continue
        if as_json is None:
            as_json = data.lstrip().startswith(b"{")
        yield _row(number, data, keys if as_json else ())


def _lines(stream: LineStream) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number, without its end; None for one that is too long."""
    for number in itertools.count(1):
        data = stream.readline(LONGEST_LINE + 1)
        if not data:
            return
        if number == 1:
            data = data.removeprefix(_MARK)
        too_long = len(data) > LONGEST_LINE and not data.endswith(b"\n")
        while too_long and data and not data.endswith(b"\n"):
            data = stream.readline(LONGEST_LINE)
        yield number, None if too_long else data.removesuffix(b"\n").removesuffix(b"\r")


def _row(number: int, data: bytes, keys: Sequence[str]) -> PromptRow:
    """Return the row of a line: plain text without `keys`, else a JSON object with a text under one of them."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text) if keys else {"prompt": text}
    except UnicodeDecodeError as error:
        return PromptRow(number, error=f"byte {error.start} is not UTF-8")
    except ValueError as error:
        return PromptRow(number, error=f"not JSON: {error}")
    except RecursionError:
        return PromptRow(number, error="not JSON that can be read: nested too deep")
    if not isinstance(value, dict):
        return PromptRow(number, error="not a JSON object")
    key = next((key for key in keys if key in value), keys[0] if keys else "prompt")
    prompt, name = value.get(key), value.get("id")
    if not isinstance(prompt, str):
        told = f'no "{key}"' if key not in value else f'"{key}" is not a text'
        return PromptRow(number, id=name, error=told)
    # half of a surrogate pair, which JSON can spell, could not be written again
    return PromptRow(number, prompt.encode("utf-8", "replace").decode("utf-8"), name)
