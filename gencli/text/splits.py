"""The same text in smaller pieces: another way to write it each time, so that a model learns what pieces share.

Subword regularisation (Kudo 2018) in the manner of BPE-dropout (Provilkov et al. 2020): of the merges that made
a piece some are left out. A piece falls into the two that were merged, and each of these may fall apart again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gencli.text.tokenizer import LAYOUT

if TYPE_CHECKING:
    from gencli.text.tokenizer import Tokenizer

Parts = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Splits:
    """Replaces ids that stand for two others by these, each with the chance `share`. The text stays the same."""

    parts: Parts
    share: float

    def drawn(self, ids: Sequence[int], random: np.random.Generator) -> list[int]:
        """Return other ids of the same text."""
        drawn: list[int] = []
        waiting = list(reversed(ids))
        chances: list[float] = []
        while waiting:
            index = waiting.pop()
            if index in self.parts:
                chances = chances or random.random(64).tolist()
                if chances.pop() < self.share:
                    waiting += reversed(self.parts[index])
                    continue
            drawn.append(index)
        return drawn


def parts_of(tokenizer: Tokenizer) -> Parts:
    """Return of each piece the two that it is put together from, where there are two."""
    # A letter is there from the beginning; of longer pieces the one with the higher score was there first.
    known = {
        piece.text: (index, piece.score if len(piece.text) > 1 else 0.0)
        for index, piece in enumerate(tokenizer.model.pieces)
        if index >= len(LAYOUT)
    }
    parts = {}
    for text, (index, _) in known.items():
        cuts = [(text[:place], text[place:]) for place in range(1, len(text))]
        pairs = [(known[left], known[right]) for left, right in cuts if left in known and right in known]
        if pairs:
            left, right = max(pairs, key=lambda pair: min(pair[0][1], pair[1][1]))
            parts[index] = left[0], right[0]
    return parts
