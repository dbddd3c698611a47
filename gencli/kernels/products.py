"""Tokens times the weights of a matrix: the work that nearly all of a step's time goes into.

A matrix is packed in blocks of 16 rows, filled up with zeros: reading it is reading memory from one end to the
other. A block holds its rows column by column, in float32, or in int8 with a scale for each row. Where the
processor multiplies bytes, four columns at a time, in bytes: then the tokens' vectors are rounded to bytes too,
with a scale for each group of 64 numbers, as llama.cpp does with its Q8_0. Each kind is compiled once, for all
sizes.

Legend: M tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from gencli.kernels.compiling import kernel, matrix_at
from gencli.kernels.crew import share
from gencli.kernels.layout import BLOCK, GROUP
from gencli.kernels.sums import largest_size
from gencli.kernels.tiles import LANES, block_tile, byte_tile

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]

MANY, FEW = (8, 4) if LANES == 16 else (4, 2)  # tokens that are taken at a time, and
_PAIR = (
    2 if LANES == 16 else 1
)  # blocks with them: so many sums fit into the registers, beside what they are made of
_BLOCKS = 4  # blocks that are taken at a time with one token
_SMALLEST = np.float32(1e-30)  # of scales: those of nothing but zeros

_tile_mr, _tile_m1 = block_tile(MANY, _PAIR), block_tile(MANY, 1)
_tile_fr, _tile_f1 = block_tile(FEW, _PAIR), block_tile(FEW, 1)
_tile_1r, _tile_11 = block_tile(1, _BLOCKS), block_tile(1, 1)
_byte_tile_tr, _byte_tile_t1 = byte_tile(4, 2), byte_tile(4, 1)
_byte_tile_1r, _byte_tile_11 = byte_tile(1, _BLOCKS), byte_tile(1, 1)


class Rounded(NamedTuple):
    """Vectors of tokens as bytes, for packed weights."""

    numbers: npt.NDArray[np.int8]  # (M, groups of 64)
    scales: FloatArray  # (M, groups)
    corrections: npt.NDArray[np.int32]  # (M, groups): -128 times the sum of each


@kernel
def lay(weights: WeightArray, out: WeightArray, scratch: WeightArray, job: IntArray, thread: int) -> None:
    """Pack weights (rows, columns), float32 or int8, as they are, column by column; `out` may be the same memory.

    The scratch (threads, 16, more than columns) holds a block meanwhile.
    """
    start, end = share(out.shape[0], thread, job[0])
    block = scratch[thread]
    for number in range(start, end):
        rows, place = weights[number * BLOCK : (number + 1) * BLOCK], out[number]
        for row in range(rows.shape[0]):
            for i in range(rows.shape[1]):
                block[row, i] = rows[row, i]
        for row in range(rows.shape[0], BLOCK):
            for i in range(rows.shape[1]):
                block[row, i] = 0
        for i in range(rows.shape[1]):
            for row in range(BLOCK):
                place[i * BLOCK + row] = block[row, i]


@kernel
def pack(
    weights: FloatArray,
    out: npt.NDArray[np.uint8],
    scales: FloatArray,
    job: IntArray,
    thread: int,
) -> None:
    """Round weights (rows, columns) to bytes and pack them, with the scale of each row."""
    start, end = share(weights.shape[0], thread, job[0])
    for place in range(start, end):
        row = weights[place]
        peak = max(largest_size(row), _SMALLEST)
        scales[place] = peak / np.float32(127)
        inverse = np.float32(127) / peak
        block, at = out[place // BLOCK], place % BLOCK * 4
        for i in range(row.size):
            number = np.int32(np.rint(row[i] * inverse))
            block[i // 4 * 4 * BLOCK + at + i % 4] = np.uint8(number + 128)


def rounded(x: FloatArray, first: int, end: int, room: Rounded, like: WeightArray) -> None:
    """Set the rounded vectors of some tokens of x (M, columns), where the weights are packed."""


@overload(rounded)
def _rounded(x: Any, first: Any, end: Any, room: Any, like: Any) -> Any:
    return _round if like.dtype == types.uint8 else _leave


def _leave(x: Any, first: Any, end: Any, room: Any, like: Any) -> None:
    pass


def _round(x: Any, first: Any, end: Any, room: Any, like: Any) -> None:
    for token in range(first, end):
        round_vector(x[token], room, token, GROUP)


@kernel
def round_vector(vector: FloatArray, room: Rounded, row: int, group_size: int) -> None:
    """Set a row of rounded vectors; the last group is filled up with zeros."""
    numbers = room.numbers[row]
    for group in range((vector.size + group_size - 1) // group_size):
        start = group * group_size
        stop = min(start + group_size, vector.size)
        part_of_it = vector[start:stop]
        scale = largest_size(part_of_it) / np.float32(127)
        inverse = np.float32(1) / scale if scale > _SMALLEST else np.float32(0)
        total = np.int32(0)
        for i in range(part_of_it.size):
            number = np.int32(np.rint(part_of_it[i] * inverse))
            numbers[start + i] = np.int8(number)
            total += number
        for i in range(stop, start + group_size):
            numbers[i] = 0
        room.scales[row, group] = scale
        room.corrections[row, group] = np.int32(-128) * total


@kernel
def multiply(arrays: Any, columns: int, first: int, last: int) -> None:
    """Multiply the blocks from `first` to `last` of a matrix by all tokens.

    The arrays are those of a tile. The last tokens are taken with some of those before them once more.
    """
    count, by_pairs, token = arrays[1].shape[0], first + (last - first) // _PAIR * _PAIR, 0
    while token < count:
        if count >= MANY and count - token > FEW:
            token = min(token, count - MANY)
            for block in range(first, by_pairs, _PAIR):
                _tile_mr(arrays, (block, token, columns))
            for block in range(by_pairs, last):
                _tile_m1(arrays, (block, token, columns))
            token += MANY
        elif count >= FEW:
            token = min(token, count - FEW)
            for block in range(first, by_pairs, _PAIR):
                _tile_fr(arrays, (block, token, columns))
            for block in range(by_pairs, last):
                _tile_f1(arrays, (block, token, columns))
            token += FEW
        else:
            by_blocks = first + (last - first) // _BLOCKS * _BLOCKS
            for block in range(first, by_blocks, _BLOCKS):
                _tile_1r(arrays, (block, token, columns))
            for block in range(by_blocks, last):
                _tile_11(arrays, (block, token, columns))
            token += 1


@kernel
def _blocks(arrays: Any, first: int, last: int) -> None:
    """Multiply the blocks from `first` to `last` of a packed matrix by all tokens."""
    count = arrays[2].shape[0]
    by_tokens, by_twos = count // 4 * 4, first + (last - first) // 2 * 2
    for token in range(0, by_tokens, 4):
        for block in range(first, by_twos, 2):
            _byte_tile_tr(arrays, (block, token))
        for block in range(by_twos, last):
            _byte_tile_t1(arrays, (block, token))
    for token in range(by_tokens, count):
        if last - first == _BLOCKS:
            _byte_tile_1r(arrays, (first, token))
        else:
            for block in range(first, last):
                _byte_tile_11(arrays, (block, token))


@kernel
def part(rows: int, thread: int, threads: int) -> tuple[int, int]:
    """Return the first and the end of those rows of a matrix that a thread takes: whole blocks of 16."""
    first, end = share((rows + BLOCK - 1) // BLOCK, thread, threads)
    return first * BLOCK, min(end * BLOCK, rows)


def product(
    place: IntArray,
    rows: int,
    x: FloatArray,
    room: Rounded,
    out: FloatArray,
    like: WeightArray,
    thread: int,
    threads: int,
) -> None:
    """Set a thread's part of out (M, rows, or more where blocks are filled up) to x (M, columns) times a matrix.

    `place` are the addresses of the matrix, of the kind of `like`, and of its scales.
    """


@overload(product)
def _product(place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any) -> Any:
    if like.dtype == types.float32:
        return _by_floats
    return _by_blocks if like.dtype == types.uint8 else _by_rounded


def _by_floats(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    blocks = (rows + BLOCK - 1) // BLOCK
    weights = matrix_at(place[0], blocks, x.shape[1] * BLOCK, like)
    start, end = share(blocks, thread, threads)
    step = _BLOCKS if x.shape[0] < FEW else _PAIR
    for first in range(start, end, step):
        multiply((weights, x, out), x.shape[1], first, min(first + step, end))


def _by_rounded(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    blocks = (rows + BLOCK - 1) // BLOCK
    weights = matrix_at(place[0], blocks, x.shape[1] * BLOCK, like)
    scales = matrix_at(place[1], 1, blocks * BLOCK, np.float32)
    start, end = share(blocks, thread, threads)
    step = _BLOCKS if x.shape[0] < FEW else _PAIR
    for first in range(start, end, step):
        multiply((weights, x, out, scales), x.shape[1], first, min(first + step, end))


def _by_blocks(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    blocks = (rows + BLOCK - 1) // BLOCK
    weights = matrix_at(place[0], blocks, room.numbers.shape[1] * BLOCK, like)
    scales = matrix_at(place[1], 1, blocks * BLOCK, np.float32)
    arrays = (weights, scales, room.numbers, room.scales, room.corrections, out)
    start, end = part(rows, thread, threads)
    for first in range(start // BLOCK, (end + BLOCK - 1) // BLOCK, _BLOCKS):
        _blocks(arrays, first, min(first + _BLOCKS, (end + BLOCK - 1) // BLOCK))
