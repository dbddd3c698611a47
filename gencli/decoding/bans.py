"""Which ids may come next so that a banned text never appears, in whatever pieces a model would spell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

BoolArray = npt.NDArray[np.bool_]


class Bans:
    """Texts that may not be written; `piece_bytes[id]` is the UTF-8 that an id stands for."""

    def __init__(self, texts: Sequence[str], piece_bytes: Sequence[bytes]) -> None:
        self._texts = [text.encode("utf-8") for text in texts if text]
        self._pieces = piece_bytes
        self._reach = max((len(text) for text in self._texts), default=1) - 1
        self._rows: dict[tuple[int, ...], BoolArray] = {}

    def __bool__(self) -> bool:
        """Tell whether anything is banned."""
        return bool(self._texts)

    def allowed(self, tail: bytes) -> BoolArray:
        """Return whether each id [V] may follow a text that ends with `tail`, as a shared read-only array."""
        begun = tuple(_begun(tail, text) for text in self._texts)
        if begun not in self._rows:
            heads = [(text[:size], text) for text, size in zip(self._texts, begun, strict=True)]
            row = [not any(text in head + piece for head, text in heads) for piece in self._pieces]
            self._rows[begun] = np.array(row, dtype=np.bool_)
            self._rows[begun].setflags(write=False)
        return self._rows[begun]

    def advance(self, tail: bytes, identity: int) -> bytes:
        """Return as much of the text's end, after one more id, as can be the beginning of a banned text."""
        longer = tail + self._pieces[identity]
        return longer[max(0, len(longer) - self._reach) :]


def _begun(tail: bytes, text: bytes) -> int:
    """Return the length of the longest end of `tail` that is a beginning of `text`, not all of it."""
    longest = min(len(tail), len(text) - 1)
    return next((size for size in range(longest, 0, -1) if tail.endswith(text[:size])), 0)
