"""Learns what n-grams say of labels: a linear model of few ones among many zeros.

Legend: N vectors, K labels; the n-grams of a text are `places[starts[text]:starts[text + 1]]`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gencli.kernels.attention import exponential
from gencli.kernels.compiling import kernel
from gencli.kernels.sums import largest_of, sum_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_SMALL = np.float32(1e-10)  # added to the root of a sum of squares


@kernel
def _pull(logits: FloatArray, truth: int, weight: np.float32) -> None:
    """Set logits (K,) to their gradient: of the cross-entropy of the true label, times a weight."""
    largest = largest_of(logits)
    for i in range(logits.size):
        logits[i] = exponential(logits[i] - largest)
    share = weight / sum_of(logits)
    for i in range(logits.size):
        logits[i] *= share
    logits[truth] -= weight


@kernel
def learn(
    order: IntArray, batch: int, starts: IntArray, places: IntArray, truth: IntArray, shares: FloatArray,
    rate: FloatArray, vectors: FloatArray, met: IntArray, logits: FloatArray,
) -> None:  # fmt: skip
    """Change vectors by what texts teach in an order, `batch` at a time; each text's loss has its share.

    They are (N, 3 K): a vector, the sums of the squares of its gradients, and its gradient, zeros at first, so that
    what is changed together lies together. It is AdaGrad (Duchi et al. 2011), the rate[0] falling to nothing.
    Scratch: met (as many as a batch has n-grams), logits (K,).
    """
    K = logits.size
    steps = (order.size + batch - 1) // batch
    for step in range(steps):
        first, end = step * batch, min((step + 1) * batch, order.size)
        count = 0
        for number in range(first, end):
            text = order[number]
            begin, stop = starts[text], starts[text + 1]
            scale = np.float32(1) / np.sqrt(np.float32(stop - begin))
            for i in range(K):
                logits[i] = np.float32(0)
            for place in range(begin, stop):
                at = places[place]
                for i in range(K):
                    logits[i] += vectors[at, i]
            for i in range(K):
                logits[i] *= scale
            _pull(logits, truth[text], scale * shares[text] / np.float32(end - first))
            for place in range(begin, stop):
                at = places[place]
                met[count] = at
                count += 1
                for i in range(K):
                    vectors[at, 2 * K + i] += logits[i]
        now = rate[0] * np.float32(1 - step / steps)
        for number in range(count):
            at = met[number]
            for i in range(K):
                change = vectors[at, 2 * K + i]
                vectors[at, K + i] += change * change
                vectors[at, i] -= now * change / (np.sqrt(vectors[at, K + i]) + _SMALL)
                vectors[at, 2 * K + i] = np.float32(0)
