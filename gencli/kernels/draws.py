"""The filters that nearly every draw goes through, and the draw, in one compiled function: top-k, min-p, temperature.

In numpy they are a dozen calls, which for a small model take longer than the model does. What is drawn is what
the filters one after the other would leave to be drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gencli.kernels.attention import FloatArray, IntArray, exponential
from gencli.kernels.compiling import kernel

Numbers = npt.NDArray[np.float64]

_LEAST = np.float32(-87)  # below, e to the power of it is 0 in float32


@kernel
def _sunk(heap: FloatArray, number: np.float32) -> None:
    """Put a number in the place of a heap's least one, which stands first."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= heap.size:
            break
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= number:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = number


@kernel
def draw(logits: FloatArray, counts: IntArray, numbers: Numbers, ids: IntArray, weights: FloatArray) -> None:
    """Set counts[1] to the id at which the running sum of the probabilities passes the share numbers[2] (below 1).

    Of finite logits [V] and -inf, the counts[0] highest count and those equal to the last of them, all if it is 0;
    of these, what is at least numbers[0] times as likely as the likeliest, before the temperature numbers[1].
    It is -1 where a logit is no number or infinite, or none is finite. The ids and weights [V] are scratch.
    """
    top_k, least_share, temperature = counts[0], numbers[0], np.float32(numbers[1])
    threshold = np.float32(-np.inf)
    if 0 < top_k < logits.size:
        heap = weights[:top_k]
        for place in range(top_k):
            heap[place] = np.float32(-np.inf)
        for logit in logits:
            if logit > heap[0]:
                _sunk(heap, logit)
        threshold = heap[0]
    count, peak = 0, np.float32(-np.inf)
    counts[1] = -1
    for identity in range(logits.size):
        logit = logits[identity]
        if np.isnan(logit):
            return
        if logit >= threshold and logit > np.float32(-np.inf):
            ids[count], weights[count] = identity, logit
            count += 1
            peak = max(peak, logit)
    if not np.isfinite(peak):
        return
    floor = peak + np.float32(np.log(least_share)) if least_share > 0 else np.float32(-np.inf)
    total = np.float64(0)
    for place in range(count):
        power = (weights[place] - peak) / temperature
        weight = exponential(power) if power >= _LEAST and weights[place] >= floor else np.float32(0)
        weights[place] = weight
        total += np.float64(weight)
    share, heaped, last = numbers[2] * total, np.float64(0), 0
    for place in range(count):
        heaped += np.float64(weights[place])
        if weights[place] > 0:
            last = place
            if heaped > share:
                break
    counts[1] = ids[last]
