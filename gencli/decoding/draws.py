"""The filters that nearly every draw goes through, and the draw, as one call: top-k, min-p, temperature."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from gencli.kernels.machine_code import Function

FloatArray = npt.NDArray[np.float32]

_draw = Function("draws", "draw")


class _Ready(threading.local):
    """The call for one size of vocabulary, with its scratch."""

    def __init__(self) -> None:
        self.size = -1

    def make(self, logits: FloatArray) -> None:
        self.size = logits.size
        counts, numbers = np.zeros(2, np.int64), np.zeros(3, np.float64)
        ids, weights = np.empty(self.size, np.int64), np.empty(self.size, np.float32)
        self.all = counts, numbers, _draw.call(logits, counts, numbers, ids, weights)


_ready = _Ready()


def draw(logits: FloatArray, top_k: int, least_share: float, temperature: float, uniform: float) -> int:
    """Return the id at which the running sum of the probabilities passes the share `uniform` (below 1).

    Of finite logits [V] and -inf, the `top_k` highest count and those equal to the last of them, all if it is 0;
    of these, what is at least `least_share` times as likely as the likeliest, before the temperature. Return -1 where
    a logit is no number or infinite, or none is finite.
    """
    ready = _ready
    if logits.size != ready.size:
        ready.make(logits)
    counts, numbers, call = ready.all
    call.point(logits)
    counts[0] = top_k
    numbers[0], numbers[1], numbers[2] = least_share, temperature, uniform
    call()
    return int(counts[1])
