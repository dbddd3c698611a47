"""Run SentencePiece in a child process: a crash of the library is an error, and it can be stopped at any time."""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from gencli.errors import MachineError, TokenizerError

CHECK_SECONDS = 0.1
_LEAVE_SECONDS = 5.0
_READ_BYTES = 1 << 18
_LAST_WORDS = 300  # bytes of what the child writes on stderr

# The parent's search path is set first, so the child imports what the parent would: nothing from the folder
# that the command happens to run in.
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from gencli.text.sentencepiece_child import main; main()"


def nothing() -> None:
    """Do nothing: what is called while waiting where nobody wants to be asked."""


def paced(check: Callable[[], None]) -> Callable[[], None]:
    """Return a function for a busy loop: of its calls one every CHECK_SECONDS calls `check`."""
    last = -math.inf

    def call() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= CHECK_SECONDS:
            last = now
            check()

    return call


def in_child(
    task: str,
    options: dict[str, object],
    data: Iterable[bytes],
    *,
    subject: str,
    where: str = "",
    check: Callable[[], None] = nothing,
    seconds: float = math.inf,
) -> bytes:
    """Return what a task of `sentencepiece_child` makes of `data`, which is given to it block by block.

    `check` is called all the time; what it raises ends the child at once. Raises TokenizerError about the
    `subject` when the library refuses it, crashes, or takes longer than `seconds`; MachineError when no
    process can be started.
    """
    blocks = _with_header({"task": task, **options}, data)
    child = _started()
    try:
        answer, remarks = _talk(child, blocks, check, time.monotonic() + seconds)
        code = child.wait(_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        raise TokenizerError(f"SentencePiece takes too long over {subject}", where=where) from None
    finally:
        child.kill()
        with child:
            pass
    check()
    if code < 0:
        raise _crashed(-code, subject, where)
    if code or answer[:1] not in (b"+", b"-"):
        remark = remarks.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise TokenizerError(f"SentencePiece failed on {subject}: {remark or 'no reason given'}", where=where)
    if answer.startswith(b"-"):
        reason = answer[1:].decode("utf-8", "replace")
        raise TokenizerError(f"SentencePiece refuses {subject}: {reason}", where=where)
    return answer[1:]


def _with_header(request: dict[str, object], data: Iterable[bytes]) -> Iterator[bytes]:
    yield json.dumps(request).encode() + b"\n"
    yield from data


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _PROGRAM, *sys.path]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MachineError(f"can't start a process for SentencePiece: {reason}") from error


class _Sender:
    """Writes blocks into a pipe, as much as it takes at a time."""

    def __init__(self, pipe: IO[bytes], blocks: Iterator[bytes]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._blocks = blocks
        self._rest = memoryview(b"")

    def send(self) -> bool:
        """Write some of what is left; return False when nothing is, or when nobody reads any more."""
        if not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._rest = memoryview(block)
        try:
            self._rest = self._rest[os.write(self._pipe.fileno(), self._rest) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return False
        return True


def _talk(
    child: subprocess.Popen[bytes], blocks: Iterator[bytes], check: Callable[[], None], deadline: float
) -> tuple[bytes, bytes]:
    """Give the child all blocks; return what it wrote on stdout, and the end of what it wrote on stderr."""
    assert child.stdin and child.stdout and child.stderr
    check = paced(check)
    sender = _Sender(child.stdin, blocks)
    said = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as pipes:
        pipes.register(child.stdin, selectors.EVENT_WRITE)
        for descriptor in said:
            pipes.register(descriptor, selectors.EVENT_READ)
        while pipes.get_map():
            check()
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(child.args, CHECK_SECONDS)
            for key, _ in pipes.select(CHECK_SECONDS):
                if key.fileobj is child.stdin:
                    if not sender.send():
                        pipes.unregister(child.stdin)
                        child.stdin.close()
                elif block := os.read(key.fd, _READ_BYTES):
                    said[key.fd] += block
                    del said[child.stderr.fileno()][:-_LAST_WORDS]
                else:
                    pipes.unregister(key.fd)
    answer, remarks = said.values()
    return bytes(answer), bytes(remarks)


def _crashed(number: int, subject: str, where: str) -> TokenizerError:
    """Return the error that names the signal which ended the child."""
    name = signal.Signals(number).name
    if number == signal.SIGXCPU:
        return TokenizerError(f"SentencePiece takes too long over {subject} ({name})", where=where)
    hint = "was the memory of the machine full?" if number == signal.SIGKILL else ""
    return TokenizerError(f"SentencePiece crashed on {subject} ({name})", where=where, hint=hint)
