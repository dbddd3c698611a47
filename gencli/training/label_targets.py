"""What the labels of a batch are to be: each token of the right one, or shares of all that labels go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencli.text.examples import Example

Path = tuple[int, ...]
Beliefs = Mapping[int, NDArray[np.floating]]  # of some rows of a batch, how likely each label is (K,)


@dataclass(frozen=True)
class _Place:
    """After some beginning of a label: the tokens (A,) it may go on with, and which of K labels do (A, K)."""

    tokens: NDArray[np.int64]
    members: NDArray[np.bool_]


class LabelTargets:
    """Turns how likely labels are into shares of the tokens with which they go on at each place.

    A label keeps 1 - `share`, and `share` is spread evenly over all K labels, itself included: label smoothing
    (Szegedy et al. 2016). The shares of a token are what that makes of the labels that begin like the answer
    up to there.
    """

    def __init__(self, labels: Sequence[Path], share: float = 0.0) -> None:
        self.labels, self.share = tuple(labels), share
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._places: dict[Path, _Place] = {}
        for label in labels:
            for length in range(len(label)):
                if (beginning := label[:length]) not in self._places:
                    self._places[beginning] = self._place(beginning)
        self.most = max(len(place.tokens) for place in self._places.values())

    def _place(self, beginning: Path) -> _Place:
        length = len(beginning)
        next_ones = [
            label[length] if label[:length] == beginning and len(label) > length else -1
            for label in self.labels
        ]
        tokens = np.array(sorted({token for token in next_ones if token >= 0}), dtype=np.int64)
        return _Place(tokens, tokens[:, None] == np.array(next_ones))

    def soft(
        self, examples: Sequence[Example], length: int, beliefs: Beliefs | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return `ids` and `shares` (B, T, A) for a batch of T places; an answer that is no label keeps its own.

        `beliefs` takes the place of the one right label in the rows that it speaks of.
        """
        ids = np.zeros((len(examples), length, self.most), dtype=np.int64)
        shares = np.zeros((len(examples), length, self.most), dtype=np.float32)
        for row, example in enumerate(examples):
            places = np.flatnonzero(example.learned)
            answer = tuple(example.ids[place] for place in places)
            number = self._numbers.get(answer)
            if number is None:
                ids[row, places - 1, 0], shares[row, places - 1, 0] = answer, 1.0
                continue
            belief = (beliefs or {}).get(row)
            if belief is None:
                belief = np.full(len(self.labels), self.share / len(self.labels))
                belief[number] += 1 - self.share
            for index, place in enumerate(places):
                at = self._places[answer[:index]]
                parts = at.members @ belief
                ids[row, place - 1, : len(parts)] = at.tokens
                shares[row, place - 1, : len(parts)] = parts / parts.sum()
        return {"ids": ids, "shares": shares}
