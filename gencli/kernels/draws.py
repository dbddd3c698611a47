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
_LOWEST = np.finfo(np.float32).min
_LEAST = np.float32(-87)  # below, e to the power of it is 0 in float32


@kernel
def _turned(bits: np.int32) -> np.int32:
    """Return the place of a float in the order of all, from its bits, or its bits from that place; 0.0 is at 0."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@kernel
def _place_of(number: np.float32) -> np.int64:
    return np.int64(_turned(np.float32(number).view(np.int32)))


@kernel
def _float_at(place: np.int64) -> np.float32:
    return np.float32(np.int32(_turned(np.int32(place))).view(np.float32))


@kernel
def _limit(numbers: FloatArray, many: int) -> np.float32:
    """Return what the `many` highest of more numbers are not below, and no others but those equal to the last.

    Between the least and the largest float, what is left of the range is halved until so many are counted.
    """
    low, high = _place_of(np.float32(-np.inf)), _place_of(largest_of(numbers)) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        limit, count = _float_at(middle), np.int32(0)
        for i in range(numbers.size):
            count += np.int32(numbers[i] >= limit)
        if count >= many:
            low = middle
        else:
            high = middle
        if count == many:
            break
    return _float_at(low)


@kernel
def _highest(logits: FloatArray, many: int, ids: IntArray, found: FloatArray) -> int:
    """Set the first of the ids, and of what is found, to the finite logits [V] that `_limit` leaves; return how many.

    Some blocks' largest logits are as many as are asked for: what is below all of these is passed over. They stand at
    the end of what is found, where the others come only after all blocks have been looked at.
    """
    blocks = (logits.size + _BLOCK - 1) // _BLOCK
    peaks, floor, count = found[logits.size - blocks :], _LOWEST, 0
    for block in range(blocks):
        peaks[block] = largest_of(logits[block * _BLOCK : (block + 1) * _BLOCK])
    if logits.size > many:
        floor = max(floor, _limit(peaks if blocks > many else logits, many))
    for block in range(blocks):
        if peaks[block] >= floor:
            for identity in range(block * _BLOCK, min((block + 1) * _BLOCK, logits.size)):
                if logits[identity] >= floor:
                    ids[count], found[count] = identity, logits[identity]
                    count += 1
    if count <= many:
        return count
    floor, left = _limit(found[:count], many), 0
    for place in range(count):
        if found[place] >= floor:
            ids[left], found[left] = ids[place], found[place]
            left += 1
    return left


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
    count = _highest(logits, top_k if top_k > 0 else logits.size, ids, weights)
    peak = largest_of(weights[:count])
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
