"""Masked attention against a cache of keys and values, compiled by Numba.

Legend: M tokens, B rows, L layers, H heads, K key-value heads, D head width, S slots of the cache.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange, types
from numba.extending import overload

from gencli.compiled import compiled
from gencli.decoding.cpu_products import OPTIONS
from gencli.decoding.cpu_tiles import LANES, column_tile, row_tile

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
CacheArray = npt.NDArray[np.float32] | npt.NDArray[np.int8]
Index = int | np.int64

_AHEAD = 32  # slots; a batch's cache is far from the processor, and each head's part of it is short
_weigh_some = row_tile(1, LANES, ahead=_AHEAD)
_mix_wide, _mix_some = column_tile(4, ahead=_AHEAD), column_tile(1, ahead=_AHEAD)
_PACE = 2  # so many times as fast as a product of one token goes attention

_compiled = functools.partial(compiled, "cpu_products", "cpu_tiles", **OPTIONS)


class Cache(NamedTuple):
    """The keys and values of all tokens so far, of one layer or, with a dimension more in front, of all.

    They are float32, or int8 with a scale for each vector. S and the last D, of the values, are filled up to
    whole vectors of the machine.
    """

    keys: CacheArray  # (B, K, S, D)
    values: CacheArray  # (B, K, S, D)
    key_scales: FloatArray  # (B, K, S), or with no slots where they are float32
    value_scales: FloatArray  # (B, K, S)


class Places(NamedTuple):
    """Where each of M tokens stands: its row of the cache and its position there."""

    rows: IntArray  # (M,)
    positions: IntArray  # (M,)


@_compiled()
def exponential(x: np.float32) -> np.float32:
    """Return e to the power of x within a millionth of it, in steps that vector instructions have.

    As in Cephes' expf (Moshier 1989): x is a count of ln 2 and a rest; the rest goes through a polynomial,
    the count into the bits of the exponent.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    count = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    rest = x - count * np.float32(0.693359375) + count * np.float32(2.12194440e-4)
    curve = np.float32(1.9875691500e-4)
    curve = curve * rest + np.float32(1.3981999507e-3)
    curve = curve * rest + np.float32(8.3334519073e-3)
    curve = curve * rest + np.float32(4.1665795894e-2)
    curve = curve * rest + np.float32(1.6666665459e-1)
    curve = curve * rest + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(count) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32((curve * rest * rest + rest + np.float32(1)) * power)


@_compiled()
def norm_factor(vector: FloatArray, epsilon: np.float32) -> np.float32:
    """Return what RMSNorm multiplies a vector by (Zhang and Sennrich 2019)."""
    total = np.float32(0)
    for i in range(vector.size):
        total += vector[i] * vector[i]
    return np.float32(np.float32(1) / np.sqrt(total / np.float32(vector.size) + epsilon))


@_compiled()
def _norm_and_turn(
    vector: FloatArray,
    weight: FloatArray,
    factor: np.float32,
    turns: tuple[FloatArray, FloatArray],
    out: FloatArray,
) -> None:
    """Set out (D) to one head's normed query or key, turned to its position (Su et al. 2021).

    The i-th number turns with the i-th of the second half, as Hugging Face has it.
    """
    half = vector.size // 2
    cosines, sines = turns
    for i in range(half):
        a, b = vector[i] * factor * weight[i], vector[i + half] * factor * weight[i + half]
        out[i] = a * cosines[i] - b * sines[i]
        out[i + half] = b * cosines[i] + a * sines[i]


def _store(place: CacheArray, scales: FloatArray, slot: Index, vector: FloatArray) -> None:
    """Put a vector into a slot of the cache, as it is or rounded."""


@overload(_store)  # type: ignore[untyped-decorator]
def _stored(place: Any, scales: Any, slot: Any, vector: Any) -> Any:
    return _store_whole if place.dtype == types.float32 else _store_rounded


def _store_whole(place: Any, scales: Any, slot: Any, vector: Any) -> None:
    for i in range(vector.size):
        place[slot, i] = vector[i]


def _store_rounded(place: Any, scales: Any, slot: Any, vector: Any) -> None:
    peak = np.float32(1e-30)
    for i in range(vector.size):
        size = abs(vector[i])
        peak = size if size > peak else peak
    inverse = np.float32(127) / peak
    for i in range(vector.size):
        place[slot, i] = np.int8(np.rint(vector[i] * inverse))
    scales[slot] = peak / np.float32(127)


def _scale(numbers: FloatArray, scales: FloatArray, cache: CacheArray) -> None:
    """Multiply numbers, one for each slot, by the scales of what the cache has there, if it is rounded."""


@overload(_scale)  # type: ignore[untyped-decorator]
def _scaled(numbers: Any, scales: Any, cache: Any) -> Any:
    return _scale_nothing if cache.dtype == types.float32 else _scale_each


def _scale_nothing(numbers: Any, scales: Any, cache: Any) -> None:
    pass


def _scale_each(numbers: Any, scales: Any, cache: Any) -> None:
    for slot in range(numbers.size):
        numbers[slot] *= scales[slot]


@_compiled()
def enter(
    inputs: FloatArray,
    norms: tuple[FloatArray, FloatArray],
    cosines: FloatArray,
    sines: FloatArray,
    cache: Cache,
    places: Places,
    epsilon: np.float32,
    queries: FloatArray,
) -> None:
    """Split inputs (M, (H + 2 K) D or more) into queries (M, H, D) and what is added to a layer's cache."""
    heads, width = queries.shape[1:]
    shared = cache.keys.shape[1]
    key = np.empty(width, np.float32)
    for token in range(inputs.shape[0]):
        row, position = places.rows[token], places.positions[token]
        turns = (cosines[position], sines[position])
        for head in range(heads + 2 * shared):
            vector = inputs[token, head * width : (head + 1) * width]
            factor = norm_factor(vector, epsilon)
            if head < heads:
                _norm_and_turn(vector, norms[0], factor, turns, queries[token, head])
            elif head < heads + shared:
                _norm_and_turn(vector, norms[1], factor, turns, key)
                group = head - heads
                _store(cache.keys[row, group], cache.key_scales[row, group], position, key)
            else:
                group = head - heads - shared
                _store(cache.values[row, group], cache.value_scales[row, group], position, vector)


@_compiled()
def _attend(
    item: Index,
    queries: FloatArray,
    cache: Cache,
    places: Places,
    scores: FloatArray,
    mixed: FloatArray,
    out: FloatArray,
) -> None:
    """Set one head of one token in out (M, H D) to the values up to that token, weighted by keys and query.

    The query is a row of queries (M H, D); scores (M H, S or more) and mixed (M H, D or more) are scratch.
    """
    width = queries.shape[1]
    heads = out.shape[1] // width
    token, head = item // heads, item % heads
    shared = head // (heads // cache.keys.shape[1])
    row, seen = places.rows[token], places.positions[token] + 1
    keys, values = cache.keys[row, shared], cache.values[row, shared]
    for slot in range(0, seen, LANES):
        _weigh_some((keys, queries, scores), (slot, item))
    score = scores[item, :seen]
    _scale(score, cache.key_scales[row, shared], keys)
    peak, total = score[0], np.float32(0)
    scale = np.float32(1) / np.sqrt(np.float32(width))
    for slot in range(seen):
        peak = max(peak, score[slot])
    for slot in range(seen):
        score[slot] = exponential((score[slot] - peak) * scale)
        total += score[slot]
    _scale(score, cache.value_scales[row, shared], values)
    scores[item, seen] = np.float32(0)  # the values are taken two by two
    column = 0
    while column + 4 * LANES <= mixed.shape[1]:
        _mix_wide((scores, values, mixed), (item, seen + seen % 2, column))
        column += 4 * LANES
    while column < mixed.shape[1]:
        _mix_some((scores, values, mixed), (item, seen + seen % 2, column))
        column += LANES
    for i in range(width):
        out[token, head * width + i] = mixed[item, i] / total


@_compiled(parallel=True)
def _attend_by_threads(
    queries: FloatArray, cache: Cache, places: Places, scores: FloatArray, mixed: FloatArray, out: FloatArray
) -> None:
    for item in prange(queries.shape[0]):
        _attend(np.int64(item), queries, cache, places, scores, mixed, out)


@_compiled()
def attend(queries: FloatArray, cache: Cache, places: Places, out: FloatArray, worth_threads: int) -> None:
    """Set out (M, H D) to what the heads of queries (M, H, D) find in a layer's cache, each up to its token."""
    count, heads, width = queries.shape
    seen = longest = 0
    for position in places.positions:
        seen, longest = seen + position + 1, max(longest, position + 1)
    each = queries.reshape(count * heads, width)
    scores = np.empty((count * heads, longest + 1 + LANES), np.float32)
    mixed = np.empty((count * heads, cache.values.shape[3]), np.float32)
    if 2 * heads * width * seen // _PACE >= worth_threads:
        _attend_by_threads(each, cache, places, scores, mixed, out)
    else:
        for item in range(count * heads):
            _attend(item, each, cache, places, scores, mixed, out)
