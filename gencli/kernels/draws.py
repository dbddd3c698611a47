"""The filters that nearly every draw goes through, and the draw, in one compiled function: top-k, min-p, temperature.

In numpy they are a dozen calls, which for a small model take longer than the model does. What is drawn is what
the filters one after the other would leave to be drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gencli.kernels.attention import FloatArray, IntArray, exponential
from gencli.kernels.compiling import kernel, matrix_at
from gencli.kernels.crew import THREADS, share
from gencli.kernels.sums import largest_of, sum_of

Numbers = npt.NDArray[np.float64]

_BLOCK = 64  # logits that are passed over together
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
def _threshold(logits: FloatArray, heap: FloatArray) -> np.float32:
    """Return the least of the highest logits, as many as the heap holds."""
    for place in range(heap.size):
        heap[place] = np.float32(-np.inf)
    for start in range(0, logits.size, _BLOCK):
        some = logits[start : start + _BLOCK]
        if largest_of(some) > heap[0]:
            for logit in some:
                if logit > heap[0]:
                    _sunk(heap, logit)
    return heap[0]


@kernel
def draw_rows(
    places: IntArray,
    columns: int,
    counts: IntArray,
    numbers: Numbers,
    logits: FloatArray,
    ids: IntArray,
    weights: FloatArray,
    job: IntArray,
    thread: int,
) -> None:
    """Draw an id for each row of counts (B, 2) and numbers (B, 3), as `draw` does.

    Places (B, 2) are the addresses of a row's logits [V] and of what is added to them before. Logits, ids and weights
    [threads, V] are scratch. At temperature 0 the id is that of the largest logit.
    """
    first, end = share(counts.shape[0], thread, job[THREADS])
    for row in range(first, end):
        given = matrix_at(places[row, 0], 1, columns, np.float32)[0]
        added = matrix_at(places[row, 1], 1, columns, np.float32)[0]
        for identity in range(columns):
            logits[thread, identity] = given[identity] + added[identity]
        if numbers[row, 1] > 0:
            draw(logits[thread], counts[row], numbers[row], ids[thread], weights[thread])
        else:
            counts[row, 1] = _largest(logits[thread])


@kernel
def _largest(logits: FloatArray) -> int:
    """Return the first id of the largest logit; -1 where a logit is no number or infinite, or none is finite."""
    peak = largest_of(logits)
    if np.isnan(sum_of(logits)) or not np.isfinite(peak):
        return -1
    for identity in range(logits.size):
        if logits[identity] == peak:
            return identity
    return -1


@kernel
def draw(logits: FloatArray, counts: IntArray, numbers: Numbers, ids: IntArray, weights: FloatArray) -> None:
    """Set counts[1] to the id at which the running sum of the probabilities passes the share numbers[2] (below 1).

    Of finite logits [V] and -inf, the counts[0] highest count and those equal to the last of them, all if it is 0;
    of these, what is at least numbers[0] times as likely as the likeliest, before the temperature numbers[1].
    It is -1 where a logit is no number or infinite, or none is finite. The ids and weights [V] are scratch.
    """
    top_k, least_share, temperature = counts[0], numbers[0], np.float32(numbers[1])
    counts[1] = -1
    if np.isnan(sum_of(logits)):
        return
    threshold = _threshold(logits, weights[:top_k]) if 0 < top_k < logits.size else np.float32(-np.inf)
    count, peak = 0, largest_of(logits)
    for start in range(0, logits.size, _BLOCK):
        end = min(start + _BLOCK, logits.size)
        if largest_of(logits[start:end]) >= threshold:
            for identity in range(start, end):
                logit = logits[identity]
                if logit >= threshold and logit > np.float32(-np.inf):
                    ids[count], weights[count] = identity, logit
                    count += 1
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
