"""`gencli` and `python -m gencli`."""

from __future__ import annotations

import contextlib
import os
import sys
import time

BEGAN = time.monotonic()

# How long an idle OpenMP thread spins before it sleeps. The default spins for so long that one other busy
# program on the machine makes training many times slower; this costs a few percent when nothing else runs.
SPINS = "5000"


def bug_told() -> int:
    """Print the traceback of an error that is gencli's own, made safe: its words may come from a file."""
    from traceback import format_exc

    from gencli.ui import show

    sys.stderr.write(show(format_exc()))
    return 1


def main() -> None:
    """Run the command line and exit with its code."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Numba would have colorama, where that is installed, write an escape sequence at the end of any command.
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    _open_what_is_closed()
    from gencli.cli.app import run

    try:
        code = run()
    except Exception:
        code = bug_told()
    if "RANK" in os.environ:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End a process of several at once: threads of torch.distributed may be left that abort an interpreter's end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _open_what_is_closed() -> None:
    """Put nothing in the place of a standard stream that the caller closed: no other file shall get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number and number:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


if __name__ == "__main__":
    main()
