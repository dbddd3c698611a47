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
from gencli.kernels.layout import BLOCK, GROUP, KEY_GROUP
from gencli.kernels.products import MANY, Rounded, multiply, round_vector
from gencli.kernels.sums import fused, largest_of, largest_size, sum_of, sum_of_squares
from gencli.kernels.tiles import byte_tile

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
CacheArray = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Index = int | np.int64

_BLOCKS = GROUP // BLOCK  # of slots that are taken at a time, seen or not: there are whole groups
_key_tile = byte_tile(1, _BLOCKS, group_size=KEY_GROUP)
_value_tile_4, _value_tile_1 = (byte_tile(1, many) for many in (4, 1))
_SMALLEST = np.float32(1e-30)  # of scales: those of nothing but zeros


class Cache(NamedTuple):
    """The keys and values of all tokens so far, of one layer or, with a dimension more in front, of all.

    They are float32, or int8 or bytes with a scale for each vector, and packed as the matrices of products are: the
    keys with the slots as rows, the values with the slots as columns.
    """

    keys: CacheArray  # (B, K, blocks of 16 slots, numbers)
    values: CacheArray  # (B, K, blocks of 16 rows of D, numbers)
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


def _put(keys: CacheArray, values: CacheArray, scales: tuple[FloatArray, FloatArray], slot: Index,
         key: FloatArray, value: FloatArray) -> None:  # fmt: skip
    """Put a key and a value into a slot of the cache of a head, as they are or rounded, with their scales."""


@overload(_put)
def _puts(keys: Any, values: Any, scales: Any, slot: Any, key: Any, value: Any) -> Any:
    if keys.dtype == types.float32:
        return _put_whole
    return _put_packed if keys.dtype == types.uint8 else _put_rounded


def _put_whole(keys: Any, values: Any, scales: Any, slot: Any, key: Any, value: Any) -> None:
    block, at = keys[slot // BLOCK], slot % BLOCK
    for i in range(key.size):  # slots are the rows of what a query is multiplied by
        block[i * BLOCK + at] = key[i]
    for i in range(value.size):  # and the columns of what their weights are multiplied by
        values[i // BLOCK, slot * BLOCK + i % BLOCK] = value[i]


def _put_rounded(keys: Any, values: Any, scales: Any, slot: Any, key: Any, value: Any) -> None:
    block, at, peak = keys[slot // BLOCK], slot % BLOCK, max(largest_size(key), _SMALLEST)
    scales[0][slot] = peak / np.float32(127)
    for i in range(key.size):
        block[i * BLOCK + at] = np.int8(np.rint(key[i] * (np.float32(127) / peak)))
    peak = max(largest_size(value), _SMALLEST)
    scales[1][slot] = peak / np.float32(127)
    for i in range(value.size):
        number = np.int8(np.rint(value[i] * (np.float32(127) / peak)))
        values[i // BLOCK, slot * BLOCK + i % BLOCK] = number


def _put_packed(keys: Any, values: Any, scales: Any, slot: Any, key: Any, value: Any) -> None:
    peak = max(largest_size(key), _SMALLEST)
    scales[0][slot] = peak / np.float32(127)
    inverse, block, at = np.float32(127) / peak, keys[slot // BLOCK], slot % BLOCK * 4
    for i in range(key.size):
        block[i // 4 * 4 * BLOCK + at + i % 4] = np.uint8(np.int32(np.rint(key[i] * inverse)) + 128)
    peak = max(largest_size(value), _SMALLEST)
    scales[1][slot] = peak / np.float32(127)
    inverse, at = np.float32(127) / peak, slot // 4 * 4 * BLOCK + slot % 4
    for i in range(value.size):
        values[i // BLOCK, at + i % BLOCK * 4] = np.uint8(np.int32(np.rint(value[i] * inverse)) + 128)


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

    The inputs are those of all tokens, (M, H D), (M, K D) and (M, K D) or wider. Queries (H M, D) are set: those
    that share keys stand together, those of the first token first. The tables of cosines and sines are
    (context, D / 2). The room (1 or more, D or more) is scratch.
    """
    width, shared, count = queries.shape[1], cache.keys.shape[1], inputs[0].shape[0]
    heads, key = queries.shape[0] // count, room[0, :width]
    group = heads // shared
    for token in range(some[0], some[1]):
        row, position = places.rows[token], places.positions[token]
        turn = (turns[0][position], turns[1][position])
        for head in range(heads):
            vector = inputs[0][token, head * width : (head + 1) * width]
            factor = norm_factor(vector, epsilon)
            item = (head // group * count + token) * group + head % group
            _norm_and_turn(vector, norms[0], factor, turn, queries[item])
        for head in range(shared):
            vector = inputs[1][token, head * width : (head + 1) * width]
            _norm_and_turn(vector, norms[1], norm_factor(vector, epsilon), turn, key)
            value = inputs[2][token, head * width : (head + 1) * width]
            scales = cache.key_scales[row, head], cache.value_scales[row, head]
            _put(cache.keys[row, head], cache.values[row, head], scales, position, key, value)


def attend(
    first: int,
    end: int,
    queries: FloatArray,
    cache: Cache,
    places: Places,
    room: FloatArray,
    rounded: Rounded,
    joined: FloatArray,
) -> None:
    """Set some heads of tokens in joined (M, H D) to the values up to that token, weighted by keys and query.

    The items from `first` on are those of queries (H M, D). The room (rows, S or more) and the vector of so many
    rounded numbers are scratch.
    """


@overload(attend)
def _attends(
    first: Any, end: Any, queries: Any, cache: Any, places: Any, room: Any, rounded: Any, joined: Any
) -> Any:
    return _attend_by_bytes if cache[0].dtype == types.uint8 else _attend_by_floats


def _attend_by_floats(
    first: Any, end: Any, queries: Any, cache: Any, places: Any, room: Any, rounded: Any, joined: Any
) -> None:
    item, width = first, queries.shape[1]
    while item < end:
        row, shared, _, _ = _place_of(item, queries, cache, places, joined)
        many = 1
        while many < MANY and item + many < end:
            other = _place_of(item + many, queries, cache, places, joined)
            if other[0] != row or other[1] != shared:
                break
            many += 1
        last = _place_of(item + many - 1, queries, cache, places, joined)[2]
        seen = places.positions[last] + 1
        keys, values = cache.keys[row, shared], cache.values[row, shared]
        multiply((keys, queries[item : item + many], room), width, 0, (seen + BLOCK - 1) // BLOCK)
        for number in range(many):
            token = _place_of(item + number, queries, cache, places, joined)[2]
            score = room[number, : places.positions[token] + 1]
            _scale(score, cache.key_scales[row, shared], keys)
            room[2 * MANY, number] = _raised(score, width)
            _scale(score, cache.value_scales[row, shared], values)
            for slot in range(score.size, seen):
                room[number, slot] = np.float32(0)
        mixed = room[MANY:]
        multiply((values, room[:many], mixed), seen, 0, values.shape[0])
        for number in range(many):
            _, _, token, head = _place_of(item + number, queries, cache, places, joined)
            for i in range(width):
                joined[token, head * width + i] = mixed[number, i] / room[2 * MANY, number]
        item += many


def _attend_by_bytes(
    first: Any, end: Any, queries: Any, cache: Any, places: Any, room: Any, rounded: Any, joined: Any
) -> None:
    width = queries.shape[1]
    for item in range(first, end):
        row, shared, token, head = _place_of(item, queries, cache, places, joined)
        keys, values, seen = cache.keys[row, shared], cache.values[row, shared], places.positions[token] + 1
        scales = cache.key_scales[row, shared : shared + 1]
        _weigh_bytes(seen, queries[item], keys, scales, room, rounded, values)
        score = room[0, :seen]
        total = _raised(score, width)
        _scale(score, cache.value_scales[row, shared], values)
        row, shared, _, _ = _place_of(min(item + 1, end - 1), queries, cache, places, joined)
        _mix_bytes(seen, values, np.float32(1) / total, room, rounded, cache.keys[row, shared])
        for i in range(width):
            joined[token, head * width + i] = room[1, i]


@kernel
def _place_of(
    item: int, queries: FloatArray, cache: Cache, places: Places, joined: FloatArray
) -> tuple[int, int, int, int]:
    """Return the row of the cache and the key-value head that one of the queries attends to; its token and head."""
    count = joined.shape[0]
    group = queries.shape[0] // count // cache.keys.shape[1]
    shared, rest = item // (count * group), item % (count * group)
    return places.rows[rest // group], shared, rest // group, shared * group + rest % group


@kernel
def _weigh_bytes(
    seen: int,
    query: FloatArray,
    keys: CacheArray,
    scales: FloatArray,
    room: FloatArray,
    rounded: Rounded,
    values: CacheArray,
) -> None:
    """Set the first row of the room to a query times packed keys; the values are asked for meanwhile."""
    round_vector(query, rounded, 0, KEY_GROUP)
    groups = (query.size + KEY_GROUP - 1) // KEY_GROUP
    arrays = (keys, rounded.numbers, room, scales, rounded.scales, rounded.corrections)
    for block in range(0, (seen + BLOCK - 1) // BLOCK, _BLOCKS):
        ahead = values.ctypes.data + block * BLOCK * BLOCK
        _key_tile(arrays, (block, 0, groups, ahead, values.shape[1], BLOCK * KEY_GROUP))


@kernel
def _mix_bytes(
    seen: int,
    values: CacheArray,
    factor: np.float32,
    room: FloatArray,
    rounded: Rounded,
    keys: CacheArray,
) -> None:
    """Set the second row of the room to packed values weighted by the first one, times a factor.

    The keys, which are those that come next, are asked for meanwhile.
    """
    round_vector(room[0, :seen], rounded, 0, GROUP)
    groups, parts = (seen + GROUP - 1) // GROUP, values.shape[0]
    for i in range(parts * BLOCK):
        room[2, i] = factor
    arrays = (values, rounded.numbers, room[1:], room[2:], rounded.scales, rounded.corrections)
    ahead, across = keys.ctypes.data, keys.shape[1]
    for part in range(0, parts // 4 * 4, 4):
        _value_tile_4(arrays, (part, 0, groups, ahead, across, _BLOCKS * across))
    for part in range(parts // 4 * 4, parts):
        _value_tile_1(arrays, (part, 0, groups, ahead + part * across, across, _BLOCKS * across))


@kernel
def _raised(score: FloatArray, width: int) -> np.float32:
    """Raise e to the power of scores over the root of the width, less the largest; return their sum."""
    peak, scale = largest_of(score), np.float32(1) / np.sqrt(np.float32(width))
    for slot in range(score.size):
        score[slot] = exponential((score[slot] - peak) * scale)
    return np.float32(sum_of(score))
