"""The filters that nearly every draw goes through, and the draw, in one compiled function: top-k, min-p, temperature.

In numpy they are a dozen calls, which for a small model take longer than the model does. What is drawn is what
the filters one after the other would leave to be drawn.
"""

from __future__ import annotations

import numpy as np

from gencli.compiled import compiled
from gencli.decoding.cpu_attention import FloatArray, exponential
from gencli.decoding.cpu_products import OPTIONS

_LEAST = np.float32(-87)  # below, e to the power of it is 0 in float32
_beside = ("cpu_attention", "cpu_products", "cpu_tiles")


@compiled(*_beside, **OPTIONS)
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


@compiled(*_beside, **OPTIONS)
def draw(logits: FloatArray, top_k: int, least_share: float, temperature: np.float32, uniform: float) -> int:
    """Return the id at which the running sum of the probabilities passes the share `uniform` (below 1).

    Of finite logits [V] and -inf, the `top_k` highest count and those equal to the last of them, all if it is 0;
    of these, what is at least `least_share` times as likely as the likeliest, before the temperature.
    """
    threshold = np.float32(-np.inf)
    if 0 < top_k < logits.size:
        heap = np.full(top_k, -np.inf, np.float32)
        for logit in logits:
            if logit > heap[0]:
                _sunk(heap, logit)
        threshold = heap[0]
    ids, weights = np.empty(logits.size, np.int64), np.empty(logits.size, np.float32)
    count, peak = 0, np.float32(-np.inf)
    for identity in range(logits.size):
        logit = logits[identity]
        if logit >= threshold and logit > np.float32(-np.inf):
            ids[count], weights[count] = identity, logit
            count += 1
            peak = max(peak, logit)
    floor = peak + np.float32(np.log(least_share)) if least_share > 0 else np.float32(-np.inf)
    total = np.float64(0)
    for place in range(count):
        power = (weights[place] - peak) / temperature
        weight = exponential(power) if power >= _LEAST and weights[place] >= floor else np.float32(0)
        weights[place] = weight
        total += np.float64(weight)
    share, heaped, last = uniform * total, np.float64(0), 0
    for place in range(count):
        heaped += np.float64(weights[place])
        if weights[place] > 0:
            last = place
            if heaped > share:
                break
    return int(ids[last])
