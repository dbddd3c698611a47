"""The filters that nearly every draw goes through, and the draw, as one call: top-k, min-p, temperature."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gencli.kernels.machine_code import Function
from gencli.kernels.team import Job

FloatArray = npt.NDArray[np.float32]

_draw, _draw_rows = Function("draws", "draw"), Function("draws", "draw_rows")


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


class RowDraws:
    """Draws for the rows of a batch together, shared out to threads: those of `draw`, or the likeliest ids.

    Each row has its own logits and uniform number; what is asked for is the same for all.
    """

    def __init__(self, top_k: int, least_share: float, temperature: float, *, threads: int) -> None:
        self._asked, self._threads = (top_k, least_share, temperature), threads
        self._size = 0, 0
        # addresses by identity, with the arrays, which have to stay where they are
        self._added: dict[int, tuple[int, FloatArray]] = {}

    def draw(self, logits: FloatArray, added: Sequence[FloatArray], uniforms: Sequence[float]) -> list[int]:
        """Return an id for each row of logits [B, V], to which what is `added` [V] comes before; -1 as `draw`.

        What is added is remembered: it should be one of few arrays.
        """
        if self._size != logits.shape:
            self._make(*logits.shape)
        if logits.strides[1] != logits.itemsize:
            logits = np.ascontiguousarray(logits)
        address, step = logits.__array_interface__["data"][0], logits.strides[0]
        self._places[:, 0] = [address + step * row for row in range(len(added))]
        self._places[:, 1] = [self._address(each) for each in added]
        self._numbers[:, 2] = uniforms
        self._job(self._threads if len(added) > 1 else 1)
        found: list[int] = self._counts[:, 1].tolist()
        return found

    def _address(self, added: FloatArray) -> int:
        known = self._added.get(id(added))
        if known is None:
            known = self._added[id(added)] = added.__array_interface__["data"][0], added
        return known[0]

    def _make(self, rows: int, columns: int) -> None:
        self._size = rows, columns
        top_k, least_share, temperature = self._asked
        self._places, self._counts = np.zeros((rows, 2), np.int64), np.full((rows, 2), top_k, np.int64)
        self._numbers = np.tile(np.array([least_share, temperature, 0.0]), (rows, 1))
        scratch = (self._threads, columns)
        logits, ids, weights = (
            np.empty(scratch, np.float32),
            np.empty(scratch, np.int64),
            np.empty(scratch, np.float32),
        )
        self._job = Job(
            _draw_rows,
            self._places,
            columns,
            self._counts,
            self._numbers,
            logits,
            ids,
            weights,
            threads=self._threads,
        )
