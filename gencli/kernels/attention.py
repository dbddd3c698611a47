"""Masked attention against a cache of keys and values.

Legend: M tokens, B rows, L layers, H heads, K key-value heads, D head width, S slots of the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from gencli.kernels.compiling import kernel
from gencli.kernels.sums import fused, largest_of, largest_size, sum_of, sum_of_squares
from gencli.kernels.tiles import LANES, column_tile, fetch_rows, row_tile

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
CacheArray = npt.NDArray[np.float32] | npt.NDArray[np.int8]
Index = int | np.int64

_weigh_some = row_tile(1, LANES)
_mix_wide, _mix_some = column_tile(4), column_tile(1)
_fetch_some = fetch_rows(LANES)


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


@kernel
def exponential(x: np.float32) -> np.float32:
    """Return e to the power of x within a millionth of it, in steps that vector instructions have.

    As in Cephes' expf (Moshier 1989): x is a count of ln 2 and a rest; the rest goes through a polynomial,
    the count into the bits of the exponent.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    count = np.floor(fused(x, np.float32(1.44269504), np.float32(0.5)))
    rest = fused(count, np.float32(2.12194440e-4), fused(count, np.float32(-0.693359375), x))
    curve = np.float32(1.9875691500e-4)
    curve = fused(curve, rest, np.float32(1.3981999507e-3))
    curve = fused(curve, rest, np.float32(8.3334519073e-3))
    curve = fused(curve, rest, np.float32(4.1665795894e-2))
    curve = fused(curve, rest, np.float32(1.6666665459e-1))
    curve = fused(curve, rest, np.float32(5.0000001201e-1))
    power = np.int32((np.int32(count) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32((fused(curve, rest * rest, rest) + np.float32(1)) * power)


@kernel
def norm_factor(vector: FloatArray, epsilon: np.float32) -> np.float32:
    """Return what RMSNorm multiplies a vector by (Zhang and Sennrich 2019)."""
    mean = sum_of_squares(vector) / np.float32(vector.size)
    return np.float32(np.float32(1) / np.sqrt(mean + epsilon))


@kernel
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


@overload(_store)
def _stored(place: Any, scales: Any, slot: Any, vector: Any) -> Any:
    return _store_whole if place.dtype == types.float32 else _store_rounded


def _store_whole(place: Any, scales: Any, slot: Any, vector: Any) -> None:
    for i in range(vector.size):
        place[slot, i] = vector[i]


def _store_rounded(place: Any, scales: Any, slot: Any, vector: Any) -> None:
    peak = max(largest_size(vector), np.float32(1e-30))
    inverse = np.float32(127) / peak
    for i in range(vector.size):
        place[slot, i] = np.int8(np.rint(vector[i] * inverse))
    scales[slot] = peak / np.float32(127)


def _scale(numbers: FloatArray, scales: FloatArray, cache: CacheArray) -> None:
    """Multiply numbers, one for each slot, by the scales of what the cache has there, if it is rounded."""


@overload(_scale)
def _scaled(numbers: Any, scales: Any, cache: Any) -> Any:
    return _scale_nothing if cache.dtype == types.float32 else _scale_each


def _scale_nothing(numbers: Any, scales: Any, cache: Any) -> None:
    pass


def _scale_each(numbers: Any, scales: Any, cache: Any) -> None:
    for slot in range(numbers.size):
        numbers[slot] *= scales[slot]


@kernel
def enter(
    inputs: tuple[FloatArray, FloatArray, FloatArray],
    norms: tuple[FloatArray, FloatArray],
    turns: tuple[FloatArray, FloatArray],
    cache: Cache,
    places: Places,
    some: tuple[int, int],
    epsilon: np.float32,
    queries: FloatArray,
    room: FloatArray,
) -> None:
    """Norm and turn the queries and keys of some tokens; put keys and values into a layer's cache.

    The inputs are those of all tokens, (M, H D), (M, K D) and (M, K D) or wider; queries (M H, D) are set. The
    tables of cosines and sines are (context, D / 2). The room (2, D or more) is scratch.
    """
    width, shared = queries.shape[1], cache.keys.shape[1]
    heads, key = queries.shape[0] // inputs[0].shape[0], room[0, :width]
    for token in range(some[0], some[1]):
        row, position = places.rows[token], places.positions[token]
        turn = (turns[0][position], turns[1][position])
        for head in range(heads):
            vector = inputs[0][token, head * width : (head + 1) * width]
            factor = norm_factor(vector, epsilon)
            _norm_and_turn(vector, norms[0], factor, turn, queries[token * heads + head])
        for head in range(shared):
            vector = inputs[1][token, head * width : (head + 1) * width]
            _norm_and_turn(vector, norms[1], norm_factor(vector, epsilon), turn, key)
            _store(cache.keys[row, head], cache.key_scales[row, head], position, key)
            vector = inputs[2][token, head * width : (head + 1) * width]
            _store(cache.values[row, head], cache.value_scales[row, head], position, vector)


@kernel
def attend(
    first: int,
    end: int,
    queries: FloatArray,
    cache: Cache,
    places: Places,
    room: FloatArray,
    joined: FloatArray,
) -> None:
    """Set some heads of tokens in joined (M, H D) to the values up to that token, weighted by keys and query.

    The items from `first` on are those of queries (M H, D). The room (2, S + 1 or more, filled up to whole vectors)
    is scratch. The cache is far from the processor, so what comes next is asked for: the values while keys are
    read, and the next item's keys while values are.
    """
    heads = queries.shape[0] // joined.shape[0]
    for item in range(first, end):
        following = min(item + 1, end - 1)
        keys, values = _of_item(item, heads, cache.keys, places), _of_item(item, heads, cache.values, places)
        seen = places.positions[item // heads] + 1
        for slot in range(0, seen, LANES):
            _fetch_some((values,), (slot,))
            _weigh_some((keys, queries[item : item + 1], room), (slot, 0))
        shared = item % heads // (heads // cache.keys.shape[1])
        row = places.rows[item // heads]
        score = room[0, :seen]
        _scale(score, cache.key_scales[row, shared], keys)
        total = _raised(score, queries.shape[1])
        _scale(score, cache.value_scales[row, shared], values)
        room[0, seen] = np.float32(0)  # the values are taken two by two
        _mix(seen, values, _of_item(following, heads, cache.keys, places), room)
        for i in range(queries.shape[1]):
            joined[item // heads, item % heads * queries.shape[1] + i] = room[1, i] / total


@kernel
def _of_item(item: int, heads: int, part: CacheArray, places: Places) -> CacheArray:
    """Return the keys or the values (S, D) that a head of a token attends to."""
    return part[places.rows[item // heads], item % heads // (heads // part.shape[1])]


@kernel
def _raised(score: FloatArray, width: int) -> np.float32:
    """Raise e to the power of scores over the root of the width, less the largest; return their sum."""
    peak, scale = largest_of(score), np.float32(1) / np.sqrt(np.float32(width))
    for slot in range(score.size):
        score[slot] = exponential((score[slot] - peak) * scale)
    return np.float32(sum_of(score))


@kernel
def _mix(seen: int, values: CacheArray, following: CacheArray, room: FloatArray) -> None:
    """Set the second row of the room to the values (S, D) weighted by the first one."""
    column, even, mixed = 0, seen + seen % 2, room[1:]
    while column + 4 * LANES <= values.shape[1]:
        _mix_wide((room, values, mixed, following), (0, even, column))
        column += 4 * LANES
    while column < values.shape[1]:
        _mix_some((room, values, mixed, following), (0, even, column))
        column += LANES
