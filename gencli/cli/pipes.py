"""Text that a command takes whole: from a pipe or from a file, as UTF-8 and within bounds."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import BinaryIO

from gencli.errors import InputError, MachineError

MOST_BYTES = 256 << 20


def is_piped() -> bool:
    """Tell whether standard input is something else than a terminal."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def piped_text(what: str) -> str:
    """Return all of standard input. Raises InputError if it is not UTF-8 or has no end."""
    return _decoded(_bounded(sys.stdin.buffer, what, "stdin"), what, "stdin")


def text_of(path: Path, what: str) -> str:
    """Return the text in a file. Raises InputError for what isn't there or is no file of UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{what} is not in a regular file", where=str(path), hint="pipe it in instead")
        with path.open("rb") as file:
            data = _bounded(file, what, str(path))
    except PermissionError as error:
        raise MachineError(f"no permission to read {what}", where=str(path)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{what} can't be read: {reason}", where=str(path)) from error
    return _decoded(data, what, str(path))


def _bounded(stream: BinaryIO, what: str, where: str) -> bytes:
    data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{what} is longer than {MOST_BYTES >> 20} MB", where=where, hint="give it in parts")
    return data


def _decoded(data: bytes, what: str, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"{where}, byte {error.start}"
        raise InputError(f"{what} is not UTF-8", where=place, hint="convert it: iconv -t utf-8") from error
