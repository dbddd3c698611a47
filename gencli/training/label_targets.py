"""What the labels of a batch are to be: each token of the right one, or shares of all that labels go on with."""

from __future__ import annotations

from collections import defaultdict
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
    """After some beginning of n labels: the tokens (A,) they go on with, their numbers (n,), the token of each (n,)."""

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    which: NDArray[np.int64]


class LabelTargets:
    """Turns how likely labels are into shares of the tokens with which they go on at each place.

    A label keeps 1 - `share`, and `share` is spread evenly over all K labels, itself included: label smoothing
    (Szegedy et al. 2016). The shares of a token are what that makes of the labels that begin like the answer
    up to there.
    """

    def __init__(self, labels: Sequence[Path], share: float = 0.0) -> None:
        self.labels, self.share = tuple(labels), share
        self._numbers = {label: number for number, label in enumerate(labels)}
        below: dict[Path, list[tuple[int, int]]] = defaultdict(list)  # of a beginning: label and next token
        for number, label in enumerate(labels):
            for place, token in enumerate(label):
                below[label[:place]].append((number, token))
        self._places = {beginning: _place(found) for beginning, found in below.items()}
        self.most = max(len(place.tokens) for place in self._places.values())

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
                parts = np.bincount(at.which, belief[at.labels], len(at.tokens))
                ids[row, place - 1, : len(parts)] = at.tokens
                shares[row, place - 1, : len(parts)] = parts / parts.sum()
        return {"ids": ids, "shares": shares}


def _place(found: Sequence[tuple[int, int]]) -> _Place:
    labels, next_tokens = np.array(found, dtype=np.int64).T
    tokens, which = np.unique(next_tokens, return_inverse=True)
    return _Place(tokens, labels, which)
