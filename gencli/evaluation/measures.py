"""Figures of merit as plain functions of arrays: labels, answers, confidence, and the difference of two models.

Legend: N pairs, L labels. Labels are numbers from 0 to L - 1.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

BINS = 15
DRAWS = 1000  # of the bootstrap
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


def confusion_matrix(truth: Numbers, said: Numbers, labels: int) -> Numbers:
    """Return how often each label [L, L] (row) was taken for each (column)."""
    counts = np.bincount(truth * labels + said, minlength=labels * labels)
    return np.asarray(counts.reshape(labels, labels), dtype=np.int64)


def macro_f1(matrix: Numbers) -> float:
    """Return the mean over the labels that occur, in truth or answer, of the harmonic mean of precision and recall."""
    hits, row, column = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = row + column > 0
    return float(np.mean(2 * hits[occurs] / (row + column)[occurs])) if occurs.any() else 0.0


def calibration_error(confidence: Array, right: Array, bins: int = BINS) -> float:
    """Return the expected calibration error (ECE): how far confidence is from the share that is right.

    The mean over the pairs, of the distance in their bin of confidence; the bins are equally wide (Guo et
    al. 2017). `right` [N] may be any degree from 0 to 1.
    """
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    distance = np.bincount(places, weights=confidence - right, minlength=bins)
    return float(np.abs(distance).sum() / max(1, confidence.size))


def token_f1(said: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of an answer's words, each as often as it occurs.

    Words stand between spaces, without case and punctuation (as in SQuAD, Rajpurkar et al. 2016, but for
    the English articles, which stay).
    """
    ours, theirs = Counter(_words(said)), Counter(_words(expected))
    if not ours or not theirs:
        return float(ours == theirs and said.strip() == expected.strip())
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total())


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFC", text).casefold()
    return "".join(ch for ch in folded if not unicodedata.category(ch).startswith("P")).split()


@dataclass(frozen=True)
class Covered:
    """Of the surest `coverage` share of the pairs: how right they are on average, and the least confidence."""

    coverage: float
    right: float
    confidence: float


def coverage_curve(confidence: Array, right: Array, shares: tuple[float, ...] = SHARES) -> list[Covered]:
    """Return how right the surest share of the pairs is, for each of the shares."""
    order, expected = _surest_first(confidence, right)
    counts = [max(1, round(share * order.size)) for share in shares]
    return [
        Covered(share, float(expected[:count].mean()), float(confidence[order[count - 1]]))
        for share, count in zip(shares, counts, strict=True)
    ]


def area_under_risk(confidence: Array, right: Array) -> float:
    """Return the mean over all coverages of the risk, 1 - right, of the surest pairs (AURC).

    Geifman, Uziel and El-Yaniv 2019. Of pairs that are equally sure, none comes first.
    """
    _, expected = _surest_first(confidence, right)
    return float(np.mean(1 - np.cumsum(expected) / np.arange(1, expected.size + 1)))


def _surest_first(confidence: Array, right: Array) -> tuple[Numbers, Array]:
    """Return the order from the surest on, and how right each place is, averaged over equally sure ones."""
    order = np.argsort(-confidence, kind="stable")
    _, group = np.unique(-confidence[order], return_inverse=True)
    means = np.bincount(group, weights=right[order]) / np.bincount(group)
    return order, means[group]


@dataclass(frozen=True)
class Difference:
    """How much better the second of two models is: the difference, and half the width of its 95 % interval."""

    value: float
    margin: float


def paired_difference(
    first: Array, second: Array, mean: Callable[[Array], Array] | None = None, *, seed: int = 0
) -> Difference:
    """Return by how much the second model's figure is above the first's, with a bootstrap over the pairs.

    `first` and `second` [N, ...] hold what each pair contributes, in the same order. `mean` makes the figure
    [draws] from the contributions' means [draws, ...]; by default it is the mean itself. The same pairs are
    drawn, with replacement, for both (Koehn 2004).
    """
    figure = mean or (lambda means: means)
    both = np.stack([first, second]).reshape(2, len(first), -1)
    random = np.random.Generator(np.random.PCG64(seed))
    differences = []
    for draws in np.array_split(np.arange(DRAWS), 50):
        counts = random.multinomial(len(first), np.full(len(first), 1 / len(first)), size=len(draws))
        means = np.einsum("dn,mnk->mdk", counts / len(first), both)
        differences.append(_figures(figure, means[1], first) - _figures(figure, means[0], first))
    whole = both.mean(axis=1)[:, None]
    value = _figures(figure, whole[1], first) - _figures(figure, whole[0], first)
    low, high = np.quantile(np.concatenate(differences), [0.025, 0.975])
    return Difference(float(value[0]), float(high - low) / 2)


def _figures(figure: Callable[[Array], Array], means: Array, like: Array) -> Array:
    return np.asarray(figure(means.reshape(len(means), *like.shape[1:])))
