"""A tokenizer.model that was not made here is tried in a child process before this one loads it.

SentencePiece is C++ and reads the file as it is. A crafted one that would crash it, or keep it busy for ever,
does so where it does no harm. What passed is remembered: one look at the cache, and no second trial.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from gencli.errors import MachineError
from gencli.storage import replace_file
from gencli.text.isolation import in_child

if TYPE_CHECKING:
    from pathlib import Path

_CPU_SECONDS = 10
_SECONDS = 60.0  # on a machine that has other things to do
_MEMORY = 2 << 30
_PROBES = (
    "",
    "Then the old cat walked over the river, quietly.",
    "나는 오늘 아침에 학교에 갑니다. 뷁쀍",
    "日本ひらがな Ελληνικά العربية हिन्दी",
    "e\u0301 \ufb01 \u00a0 \u200d \ufeff \ufffd \U0001f469\u200d\U0001f469",
    "</s><|user|><unk><pad><0x41> \u2581\u2585",
    "\0\x01\x1b[2J\t\r\n\n  x  =  1.50\n",
    "a" * 3000,
    " " * 3000,
    "가나다라" * 500,
)


def try_out(data: bytes, where: str, cache: Path | None) -> None:
    """Raise TokenizerError unless SentencePiece gets along with this model, now or when it was tried before.

    The folder `cache` remembers it; without one every call tries anew.
    """
    mark = None if cache is None else _mark(data, cache)
    if mark is not None and mark.exists():
        return
    options: dict[str, object] = {"texts": _PROBES, "cpu_seconds": _CPU_SECONDS, "memory": _MEMORY}
    in_child("probe", options, [data], subject="this tokenizer", where=where, seconds=_SECONDS)
    if cache is not None:
        remember(data, cache)


def remember(data: bytes, cache: Path) -> None:
    """Note that SentencePiece gets along with this model. Where nothing can be noted it is tried again."""
    with contextlib.suppress(MachineError):
        replace_file(_mark(data, cache), b"")


def _mark(data: bytes, cache: Path) -> Path:
    """Return the empty file that stands for a model which passed, with the library of this version."""
    import sentencepiece

    return cache / f"sentencepiece-{sentencepiece.__version__}" / hashlib.sha256(data).hexdigest()
