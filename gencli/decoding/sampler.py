"""Logits to one token id: filters in one stated order, then a draw from the row's own random generator.

The order is that of FILTER_ORDER:

1. repetition penalty: what was seen becomes less likely
2. top-k: the k most likely ids stay
3. top-p: of those, the smallest set that holds the share p of the probability stays
4. min-p: of those, whatever is at least min-p times as likely as the most likely id stays
5. temperature: the differences of what is left are divided by it

Each filter is a pure function of float32 logits [V] (V: the vocabulary, or what earlier filters left of
it); an id that is excluded has the logit -inf. At temperature 0 the id with the highest penalised logit is
taken and no random number is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gencli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

FloatArray = npt.NDArray[np.float32]

FILTER_ORDER = ("repetition penalty", "top-k", "top-p", "min-p", "temperature")

_COLDEST = 1e-30  # less would be 0 in float32
_BLOCK = 256  # how many weights are summed before the running sum
_FIRST_LOOK = 128  # how many of the most likely ids top-p sorts before it sorts more


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an id is chosen. Raises UsageError for a number out of range.

    A filter is off at top_k 0, top_p 1, min_p 0 and repetition_penalty 1; temperature 0 is greedy.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
        }
        for name, (fits, allowed) in ranges.items():
            if not fits:
                raise UsageError(f"{name.replace('_', '-')} must be {allowed}, not {getattr(self, name)}")


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


def keep_top_k(logits: FloatArray, k: int) -> FloatArray:
    """Exclude all but the `k` highest logits; those equal to the k-th stay with it. 0 keeps all."""
    if not 0 < k < logits.size:
        return logits
    return _excluded_below(logits, _highest(logits, k).min())


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
        cooled: FloatArray = (logits - logits.max()) / np.float32(max(temperature, _COLDEST))
    return cooled


class Sampler:
    """Chooses the ids of one row with a random generator of its own.

    The generator is seeded with (seed, row), so that a row's ids are the same in a batch of any size.
    """

    def __init__(self, sampling: Sampling, *, seed: int, row: int) -> None:
        self.sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, row])))

    def draw(self, logits: FloatArray, seen: Collection[int] = ()) -> int:
        """Return an id drawn from `logits` [V], where -inf excludes an id; `seen` are the ids to penalise.

        Draws one uniform number, or none at temperature 0. Raises ModelError when a logit is not a number
        or none is finite.
        """
        if not math.isfinite(logits.max()):
            raise ModelError(
                "the model's logits are not finite",
                hint="the weights are damaged or training diverged: go back to an earlier checkpoint",
            )
        sampling = self.sampling
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
        if sampling.temperature == 0:
            return int(logits.argmax())
        logits = keep_top_k(logits, sampling.top_k)
        ids = np.flatnonzero(logits > -np.inf)
        logits = keep_min_p(keep_top_p(logits[ids], sampling.top_p), sampling.min_p)
        weights = np.exp(apply_temperature(logits, sampling.temperature))
        return int(ids[_drawn(weights, self._random.random())])


def _drawn(weights: FloatArray, uniform: float) -> int:
    """Return the place in `weights` [N] at which their running sum passes the share `uniform` (below 1).

    The blocks are summed first, because a running sum over a whole vocabulary costs more than all else.
    """
    starts = np.arange(0, weights.size, _BLOCK)
    heaped = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    share = uniform * heaped[-1]
    block = int(np.searchsorted(heaped, share, side="right"))
    within = weights[starts[block] : starts[block] + _BLOCK].cumsum(dtype=np.float64)
    before = heaped[block - 1] if block else 0.0
    place = int(np.searchsorted(within, share - before, side="right"))
    # rounding may leave the share just above the block's sum: the last weight above 0 is meant
    return int(starts[block]) + min(place, int(np.searchsorted(within, within[-1])))


def _highest(logits: FloatArray, count: int) -> FloatArray:
    """Return the `count` highest logits in any order.

    The count-th highest of the maxima of many strips is at most the count-th highest logit, and few
    logits reach it; to choose among those is several times cheaper than to partition a vocabulary.
    """
    strips = logits.size // (4 * count)
    if strips > 1:
        maxima = logits[: logits.size - logits.size % strips].reshape(strips, -1).max(axis=0)
        logits = logits[logits >= np.partition(maxima, maxima.size - count)[maxima.size - count]]
    return np.partition(logits, logits.size - count)[logits.size - count :]


def _excluded_below(logits: FloatArray, threshold: np.float32) -> FloatArray:
    return np.where(logits < threshold, np.float32(-np.inf), logits)
