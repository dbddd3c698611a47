"""Filters: pure functions of float32 logits [V] that make ids less likely or exclude them.

V is the vocabulary, or what earlier filters left of it; an id that is excluded has the logit -inf. A filter
that is off gives back the array that it was given, at no cost. `sampler` states the order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Bias = tuple[tuple[int, ...], float]  # ids, and what is added to the logit of the last one after the others

COLDEST = 1e-30  # less would be 0 in float32
_FIRST_LOOK = 128  # how many of the most likely ids top-p sorts before it sorts more


def penalise_repetition(logits: FloatArray, seen: Collection[int], penalty: float) -> FloatArray:
    """Divide the positive logits of the seen ids by `penalty` and multiply the negative ones by it.

    How often an id was seen makes no difference. Keskar et al. 2019 (CTRL).
    """
    if penalty == 1 or not seen:
        return logits
    penalised = logits.copy()
    ids = np.fromiter(seen, dtype=np.int64, count=len(seen))
    chosen = logits[ids]
    penalised[ids] = np.where(chosen < 0, chosen * np.float32(penalty), chosen / np.float32(penalty))
    return penalised


def penalise_occurrence(
    logits: FloatArray, counts: Mapping[int, int], presence: float, frequency: float
) -> FloatArray:
    """Take `presence` off the logit of every id that occurred, and `frequency` once for each time it did.

    `counts` says how often each id occurred. The formula is that of the OpenAI API reference:
    logit - count * frequency - (count > 0) * presence. Below 0 both make what occurred more likely.
    """
    if (presence == 0 and frequency == 0) or not counts:
        return logits
    penalised = logits.copy()
    ids = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    often = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    penalised[ids] -= often * np.float32(frequency) + (often > 0) * np.float32(presence)
    return penalised


def exclude(logits: FloatArray, ids: Collection[int]) -> FloatArray:
    """Exclude the ids, unless nothing would be left: then all stay as they are."""
    if not ids:
        return logits
    kept = logits.copy()
    kept[np.fromiter(ids, dtype=np.int64, count=len(ids))] = -np.inf
    return kept if kept.max() > -np.inf else logits


def keep_allowed(logits: FloatArray, allowed: BoolArray | None) -> FloatArray:
    """Exclude the ids that are not `allowed` [V], unless nothing would be left: then all stay as they are."""
    if allowed is None:
        return logits
    kept: FloatArray = np.where(allowed, logits, np.float32(-np.inf))
    return kept if kept.max() > -np.inf else logits


def add_bias(logits: FloatArray, past: Sequence[int], bias: Sequence[Bias]) -> FloatArray:
    """Add to the last id of each sequence its number, where `past` ends with the ids before it.

    A sequence of one id always counts; numbers for the same id add up.
    """
    biased = logits.copy() if bias else logits
    for ids, number in bias:
        before = len(ids) - 1
        if before == 0 or (len(past) >= before and tuple(past[-before:]) == ids[:-1]):
            biased[ids[-1]] += np.float32(number)
    return biased


def keep_top_k(logits: FloatArray, k: int) -> FloatArray:
    """Exclude all but the `k` highest logits; those equal to the k-th stay with it. 0 keeps all."""
    if not 0 < k < logits.size:
        return logits
    return _excluded_below(logits, _highest(logits, k).min())


def keep_typical(logits: FloatArray, mass: float) -> FloatArray:
    """Keep the ids whose information is nearest to the entropy, as many as hold the probability `mass`.

    Those equally near as the last one stay with it. Meister et al. 2022 (locally typical sampling).
    """
    if mass >= 1:
        return logits
    shares = logits.astype(np.float64) - logits.max()
    shares -= math.log(np.exp(shares).sum())
    weights = np.exp(shares)
    entropy = -(weights[weights > 0] * shares[weights > 0]).sum()
    distance = np.abs(shares + entropy)
    order = distance.argsort(kind="stable")
    last = min(int(np.searchsorted(weights[order].cumsum(), mass)), logits.size - 1)
    return np.where(distance > distance[order[last]], np.float32(-np.inf), logits)


def keep_top_p(logits: FloatArray, p: float) -> FloatArray:
    """Keep the smallest set of the most likely ids whose probabilities add up to `p` (Holtzman et al. 2020).

    At least one id stays. Among equal logits the lower ids are kept first. Only as much of the vocabulary
    is sorted as the set needs.
    """
    if p >= 1:
        return logits
    peak = logits.max()
    share = p * np.exp(logits - peak).sum(dtype=np.float64)
    looked = min(_FIRST_LOOK, logits.size)
    while True:
        highest = np.sort(_highest(logits, looked))[::-1]
        heaped = np.exp(highest - peak).cumsum(dtype=np.float64)
        if heaped[-1] >= share or looked == logits.size:
            break
        looked = min(looked * 8, logits.size)
    count = min(int(np.searchsorted(heaped, share)) + 1, looked)
    threshold = highest[count - 1]
    kept = _excluded_below(logits, threshold)
    equal = np.flatnonzero(logits == threshold)
    kept[equal[count - np.count_nonzero(logits > threshold) :]] = -np.inf
    return kept


def keep_min_p(logits: FloatArray, min_p: float) -> FloatArray:
    """Exclude what is less than `min_p` times as likely as the most likely id (Nguyen et al. 2024)."""
    return _excluded_below(logits, logits.max() + np.float32(math.log(min_p))) if min_p > 0 else logits


def apply_temperature(logits: FloatArray, temperature: float) -> FloatArray:
    """Return the logits less the highest one, divided by `temperature`, which must be above 0.

    The shift leaves the probabilities as they are and keeps a small temperature from overflowing.
    """
    with np.errstate(over="ignore"):
        cooled: FloatArray = (logits - logits.max()) / np.float32(max(temperature, COLDEST))
    return cooled


def _highest(logits: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return the `count` highest logits in any order.

    The count-th highest of the maxima of many strips is at most the count-th highest logit, and few
    logits reach it; to choose among those is several times cheaper than to partition a vocabulary.
    """
    strips = logits.size // (4 * count)
    if strips > 1:
        maxima = logits[: logits.size - logits.size % strips].reshape(strips, -1).max(axis=0)
        logits = logits[logits >= np.partition(maxima, maxima.size - count)[maxima.size - count]]
    return np.partition(logits, logits.size - count)[logits.size - count :]


def places_of_highest(numbers: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return where the `count` highest of numbers [N] stand, the highest first; of equal ones those that come first."""
    count = min(count, numbers.size)
    places = np.flatnonzero(numbers >= _highest(numbers, count).min())
    first: npt.NDArray[np.int64] = places[np.argsort(-numbers[places], kind="stable")[:count]]
    return first


def _excluded_below(logits: FloatArray, threshold: np.float32) -> FloatArray:
    return np.where(logits < threshold, np.float32(-np.inf), logits)
