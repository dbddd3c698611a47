"""An even sample of a text that does not fit: one pass, bounded memory, no random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Sample:
    """Texts in their order, at which byte of all texts each starts, and how many bytes of how many they have.

    Bytes are those of UTF-8.
    """

    texts: list[str]
    starts: list[int]
    nbytes: int
    total_bytes: int


def bytes_of(text: str) -> int:
    """Return how many bytes of UTF-8 a text has."""
    return len(text if text.isascii() else text.encode("utf-8", "surrogatepass"))


def even_sample(texts: Iterable[str], limit_bytes: int) -> Sample:
    """Keep every text, or every 2nd, 4th, 8th... of them so that all have at most `limit_bytes` of UTF-8.

    Whenever the kept ones grow past the limit, every second of them is dropped and the step doubles. At
    least one text is kept, however long.
    """
    kept: list[str] = []
    starts: list[int] = []
    sizes: list[int] = []
    held = total = 0
    step = 1
    for index, text in enumerate(texts):
        size = bytes_of(text)
        start, total = total, total + size
        if index % step:
            continue
        kept.append(text)
        starts.append(start)
        sizes.append(size)
        held += size
        while held > limit_bytes and len(kept) > 1:
            kept, starts, sizes = kept[::2], starts[::2], sizes[::2]
            held = sum(sizes)
            step *= 2
    return Sample(kept, starts, held, total)
