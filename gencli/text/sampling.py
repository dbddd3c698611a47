"""An even sample of a text that does not fit: one pass, bounded memory, no random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Sample:
    """Texts in their order, and how many bytes of UTF-8 they have out of how many."""

    texts: list[str]
    nbytes: int
    total_bytes: int


def even_sample(texts: Iterable[str], limit_bytes: int) -> Sample:
    """Keep every text, or every 2nd, 4th, 8th... of them so that all have at most `limit_bytes` of UTF-8.

    Whenever the kept ones grow past the limit, every second of them is dropped and the step doubles. At
    least one text is kept, however long.
    """
    kept: list[str] = []
    sizes: list[int] = []
    held = total = 0
    step = 1
    for index, text in enumerate(texts):
        size = len(text if text.isascii() else text.encode("utf-8", "surrogatepass"))
        total += size
        if index % step:
            continue
        kept.append(text)
        sizes.append(size)
        held += size
        while held > limit_bytes and len(kept) > 1:
            kept, sizes = kept[::2], sizes[::2]
            held = sum(sizes)
            step *= 2
    return Sample(kept, held, total)
