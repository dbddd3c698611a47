"""Where a chat's turns come from: typed at a terminal with line editing and a history, or piped in line by line.

A turn of several lines: each line but the last ends with a backslash, or all stand between three double quotes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gencli.errors import InputError, MachineError
from gencli.storage import append_private, replace_file
from gencli.ui import Screen, show

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST, FURTHER = "> ", ". "  # what is drawn before a line
BLOCK, CONTINUED = '"""', "\\"
LONGEST_LINE = 16 << 20  # bytes
MOST_ENTRIES = 1000
MOST_HISTORY = 4 << 20  # bytes of the history's end that are read
_MARK = "\ufeff"  # with which some editors begin a file


class Lines(Protocol):
    """Lines, one after the other."""

    def line(self, mark: str) -> str:
        """Return the next line without its end; `mark` is drawn before it. Raises EOFError."""


def turn_of(lines: Lines) -> str:
    """Return the next turn. Raises EOFError if there is none; one that was begun ends where the lines end."""
    first = lines.line(FIRST)
    if first.lstrip().startswith(BLOCK):
        return _block(first.lstrip().removeprefix(BLOCK), lines)
    parts = [first]
    with contextlib.suppress(EOFError):
        while parts[-1].endswith(CONTINUED):
            parts[-1] = parts[-1].removesuffix(CONTINUED)
            parts.append(lines.line(FURTHER))
    return "\n".join(parts)


def _block(first: str, lines: Lines) -> str:
    """Return what stands between the marks, without the line ends beside them."""
    parts = [first]
    with contextlib.suppress(EOFError):
        while not parts[-1].rstrip().endswith(BLOCK):
            parts.append(lines.line(FURTHER))
    if parts[-1].rstrip().endswith(BLOCK):
        parts[-1] = parts[-1].rstrip().removesuffix(BLOCK)
        parts = parts[: len(parts) - (not parts[-1])]
    return "\n".join(parts[not first :])


class Piped:
    """The lines of stdin. Raises InputError, with its number, for one that is too long or not UTF-8."""

    def __init__(self) -> None:
        self._number = 0

    def line(self, _: str) -> str:
        """Return the next line. Raises EOFError."""
        data = sys.stdin.buffer.readline(LONGEST_LINE + 1)
        if not data:
            raise EOFError
        self._number += 1
        place = f"stdin, line {self._number}"
        if len(data) > LONGEST_LINE:
            raise InputError(f"a line is longer than {LONGEST_LINE >> 20} MB", where=place)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"byte {error.start} of the line is not UTF-8", where=place, hint="convert it: iconv -t utf-8"
            ) from error
        return text.removeprefix(_MARK if self._number == 1 else "").removesuffix("\n").removesuffix("\r")


class Keyboard:
    """Lines typed at the terminal, edited with readline where Python has it, and a history of turns in a file."""

    def __init__(self, history: Path | None, screen: Screen) -> None:
        self._file, self._screen = history, screen
        self._draws = sys.stdout.isatty()  # else the mark would stand among the answers
        try:
            import readline
        except ImportError:
            self._readline = None
            return
        self._readline = readline
        readline.set_auto_history(False)
        readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one turn
        for entry in self._entries():
            readline.add_history(entry)

    def line(self, mark: str) -> str:
        """Return the next line. Raises EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C."""
        if not self._draws:
            sys.stderr.write(show(mark))
            sys.stderr.flush()
        text = input(mark if self._draws else "")
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def had_text(self) -> bool:
        """Tell whether something was typed in the line that Ctrl-C threw away."""
        return self._readline is not None and bool(self._readline.get_line_buffer())

    def note(self, turn: str) -> None:
        """Take a turn into the history."""
        if self._readline is not None:
            self._readline.add_history(turn)
        if self._file is None:
            return
        try:
            append_private(self._file, json.dumps(turn, ensure_ascii=False) + "\n")
        except MachineError as error:
            self._screen.note(f"what you type is not kept: {error.message} ({self._file})")
            self._file = None

    def _entries(self) -> Sequence[str]:
        """Return what the history's file holds, and cut it short if it has grown too long."""
        if self._file is None or not self._file.is_file():
            return []
        try:
            with self._file.open("rb") as file:
                file.seek(max(0, self._file.stat().st_size - MOST_HISTORY))
                lines = file.read().decode("utf-8", "replace").splitlines(keepends=True)
            if len(lines) > 2 * MOST_ENTRIES:
                replace_file(self._file, "".join(lines[-MOST_ENTRIES:]), private=True)
        except (OSError, MachineError):
            return []
        return [entry for line in lines[-MOST_ENTRIES:] if (entry := _entry(line))]


def _entry(line: str) -> str:
    """Return the turn in a line of the history, nothing if the line is damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    text = entry.replace("\0", "") if isinstance(entry, str) else ""
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no text
