"""Label smoothing: a little of every target is given to the other labels, and to nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencli.text.examples import Example

Path = tuple[int, ...]
Shares = tuple[tuple[int, float], ...]


class Smoothing:
    """Turns the targets of a label into shares of the tokens with which labels go on at each place.

    A label keeps 1 - `share`, and `share` is spread evenly over all K labels, itself included (Szegedy et al.
    2016). The shares of a token are what that makes of the labels that begin like the right one up to there.
    """

    def __init__(self, labels: Sequence[Path], share: float) -> None:
        followers: dict[Path, dict[int, int]] = defaultdict(
            dict
        )  # how many labels go on how after a beginning
        for label in labels:
            for place, token in enumerate(label):
                after = followers[label[:place]]
                after[token] = after.get(token, 0) + 1
        self._paths = {label: _shares(label, followers, share, len(labels)) for label in labels}
        self.most = max(len(shares) for path in self._paths.values() for shares in path)

    def soft(self, examples: Sequence[Example], length: int) -> dict[str, NDArray[Any]]:
        """Return `ids` and `shares` (B, T, A) for a batch of T places; an answer that is no label keeps its own."""
        ids = np.zeros((len(examples), length, self.most), dtype=np.int64)
        shares = np.zeros((len(examples), length, self.most), dtype=np.float32)
        for row, example in enumerate(examples):
            places = np.flatnonzero(example.learned)
            answer = tuple(example.ids[place] for place in places)
            path = self._paths.get(answer) or tuple(((token, 1.0),) for token in answer)
            for place, alternatives in zip(places, path, strict=True):
                for number, (token, part) in enumerate(alternatives):
                    ids[row, place - 1, number], shares[row, place - 1, number] = token, part
        return {"ids": ids, "shares": shares}


def _shares(
    label: Path, followers: dict[Path, dict[int, int]], share: float, labels: int
) -> tuple[Shares, ...]:
    path = []
    for place, token in enumerate(label):
        counts = followers[label[:place]]
        parts = {
            other: share * count / labels + (1 - share) * (other == token) for other, count in counts.items()
        }
        total = sum(parts.values())
        path.append(tuple((other, part / total) for other, part in parts.items()))
    return tuple(path)
