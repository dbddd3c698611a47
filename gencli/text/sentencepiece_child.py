"""The program of a child process that runs SentencePiece: if the library crashes, nothing else does.

`isolation` starts it and speaks with it over its standard input and output:

    in     a line of JSON, {"task": ..., options}, then what the task reads, to the end
    out    "+" and the result, or "-" and why the library refuses

It imports nothing but SentencePiece and what every Python has, so it starts at once.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main() -> None:
    """Do one task and leave; what interrupts the parent is the parent's to decide on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _limit(resource.RLIMIT_CORE, 0, 0)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints is no answer
    request = json.loads(sys.stdin.buffer.readline())
    try:
        answer = b"+" + TASKS[request.pop("task")](sys.stdin.buffer, **request)
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        answer = b"-" + reason.encode("utf-8", "replace")
    with os.fdopen(answers, "wb") as out:
        out.write(answer)
    os._exit(0)  # the library has nothing to tidy up that could be worth a crash


def train(lines: BinaryIO, *, options: dict[str, Any]) -> bytes:
    """Return the model that SentencePiece's trainer makes of the lines."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line[:-1] for line in lines), model_writer=model, **options
    )
    return model.getvalue()


def probe(file: BinaryIO, *, texts: Sequence[str], cpu_seconds: int, memory: int) -> bytes:
    """Load a model and turn texts into ids and back, with little time and memory. Raises RuntimeError."""
    import sentencepiece

    _limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)  # SIGXCPU, then SIGKILL
    _limit(resource.RLIMIT_AS, memory, memory)
    processor = sentencepiece.SentencePieceProcessor(model_proto=file.read())
    pieces = processor.get_piece_size()
    for text in texts:
        ids = processor.encode(text)
        if not all(0 <= index < pieces for index in ids):
            raise RuntimeError(f"it gives ids beyond its {pieces} pieces")
        processor.decode(ids)
    processor.decode(list(range(pieces)))
    return b""


TASKS: dict[str, Callable[..., bytes]] = {"train": train, "probe": probe}


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or keep the user's own where that is lower and may not be raised."""
    own = resource.getrlimit(kind)[1]
    if own != resource.RLIM_INFINITY:
        soft, hard = min(soft, own), min(hard, own)
    resource.setrlimit(kind, (soft, hard))


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it is gone, where it can."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
