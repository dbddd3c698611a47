"""Many prompts from a file or a pipe: plain lines, or JSON lines with a "prompt"; a bad row is told, not raised."""

from __future__ import annotations

import itertools
import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gencli.cli.pipes import is_piped
from gencli.errors import InputError, MachineError, UsageError

LONGEST_LINE = 16 << 20  # bytes
STDIN = Path("-")
_MARK = b"\xef\xbb\xbf"  # with which some editors begin a file


@dataclass(frozen=True)
class PromptRow:
    """A line of the input, counted from 1: its prompt and its id, or why it can't be used."""

    line: int
    prompt: str = ""
    id: object = None
    error: str = ""


def prompt_rows(source: Path) -> Iterator[PromptRow]:
    """Yield the rows of a file, or of stdin for `-`; blank lines are passed over.

    A .jsonl holds objects with "prompt" (an "id" is passed on), a .txt holds a prompt a line; of any other
    name, and of stdin, the first line tells. Raises InputError for what isn't there or is no regular file,
    MachineError where permission lacks, UsageError if stdin is the terminal.
    """
    if source == STDIN:
        if not is_piped():
            raise UsageError("stdin is the terminal", hint="give --input a file, or pipe the prompts in")
        yield from _rows(sys.stdin.buffer, "")
        return
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise InputError(
                "the prompts are not in a regular file", where=str(source), hint="pipe them in: --input -"
            )
        with source.open("rb") as file:
            yield from _rows(file, source.suffix.lower())
    except PermissionError as error:
        raise MachineError("no permission to read the prompts", where=str(source)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"the prompts can't be read: {reason}", where=str(source)) from error


def _rows(stream: BinaryIO, suffix: str) -> Iterator[PromptRow]:
    as_json = {".jsonl": True, ".txt": False}.get(suffix)
    for number, data in _lines(stream):
        if data is None:
            yield PromptRow(number, error=f"the line is longer than {LONGEST_LINE >> 20} MB")
            continue
        if not data.strip():
            continue
        if as_json is None:
            as_json = data.lstrip().startswith(b"{")
        yield _row(number, data, as_json=as_json)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
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


def _row(number: int, data: bytes, *, as_json: bool) -> PromptRow:
    try:
        text = data.decode("utf-8")
        value = json.loads(text) if as_json else {"prompt": text}
    except UnicodeDecodeError as error:
        return PromptRow(number, error=f"byte {error.start} is not UTF-8")
    except ValueError as error:
        return PromptRow(number, error=f"not JSON: {error}")
    except RecursionError:
        return PromptRow(number, error="not JSON that can be read: nested too deep")
    if not isinstance(value, dict):
        return PromptRow(number, error="not a JSON object")
    prompt, name = value.get("prompt"), value.get("id")
    if not isinstance(prompt, str):
        told = 'no "prompt"' if "prompt" not in value else '"prompt" is not a text'
        return PromptRow(number, id=name, error=told)
    # half of a surrogate pair, which JSON can spell, could not be written again
    return PromptRow(number, prompt.encode("utf-8", "replace").decode("utf-8"), name)
