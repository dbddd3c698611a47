"""Tokens times the weights of a matrix: the work that nearly all of a step's time goes into.

A matrix is packed in blocks of 16 rows, filled up with zeros: reading it is reading memory from one end to the
other. A block holds its rows column by column, in float32, or in int8 with a scale for each row. Where the
processor multiplies bytes, four columns at a time, in bytes: then the tokens' vectors are rounded to bytes too,
with a scale for each group of 64 numbers, as llama.cpp does with its Q8_0. Each kind is compiled once, for all
sizes.

Legend: M tokens.
"""

from __future__ import annotations

from collections.abc import Callable
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
_Tile = Callable[[int, int], Any]  # tokens, blocks → a function that multiplies them

# Tokens that are taken at a time, and blocks with them: so many sums fit into the registers.
MANY, FEW = (8, 4) if LANES == 16 else (4, 2)
_PAIR = 2 if LANES == 16 else 1
_BLOCKS = 4  # blocks that are taken at a time with one token
_SMALLEST = np.float32(1e-30)  # of scales: those of nothing but zeros


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


def _sweep(tile: _Tile, tokens: int, blocks: int) -> Any:
    """Return a function that multiplies the blocks from `first` to `stop`, at most so many, by some tokens."""
    together, alone = tile(tokens, blocks), tile(tokens, 1)

    @kernel
    def sweep(arrays: Any, columns: int, token: int, first: int, stop: int) -> None:
        if stop - first == blocks:
            together(arrays, (first, token, columns))
        else:
            for block in range(first, stop):
                alone(arrays, (block, token, columns))

    return sweep


def _multiplier(tile: _Tile) -> Any:
    """Return a function that multiplies the blocks from `start` to `end` of a matrix by all tokens, in tiles.

    It takes the arrays of a tile, and how many columns, or groups of them, these have. The last tokens are taken
    with some of those before them once more.
    """
    many, few, one = _sweep(tile, MANY, _PAIR), _sweep(tile, FEW, _PAIR), _sweep(tile, 1, _BLOCKS)

    @kernel
    def multiply(arrays: Any, columns: int, start: int, end: int) -> None:
        count = arrays[1].shape[0]
        step = _BLOCKS if count < FEW else _PAIR
        for first in range(start, end, step):
            stop, token = min(first + step, end), 0
            while token < count:
                if count >= MANY and count - token > FEW:
                    token = min(token, count - MANY)
                    many(arrays, columns, token, first, stop)
                    token += MANY
                elif count >= FEW:
                    token = min(token, count - FEW)
                    few(arrays, columns, token, first, stop)
                    token += FEW
                else:
                    one(arrays, columns, token, first, stop)
                    token += 1

    return multiply


multiply = _multiplier(block_tile)
_multiply_bytes = _multiplier(byte_tile)


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
    multiply((weights, x, out), x.shape[1], *share(blocks, thread, threads))


def _by_rounded(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    blocks = (rows + BLOCK - 1) // BLOCK
    weights = matrix_at(place[0], blocks, x.shape[1] * BLOCK, like)
    scales = matrix_at(place[1], 1, blocks * BLOCK, np.float32)
    multiply((weights, x, out, scales), x.shape[1], *share(blocks, thread, threads))


def _by_blocks(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    blocks = (rows + BLOCK - 1) // BLOCK
    weights = matrix_at(place[0], blocks, room.numbers.shape[1] * BLOCK, like)
    scales = matrix_at(place[1], 1, blocks * BLOCK, np.float32)
    arrays = (weights, room.numbers, out, scales, room.scales, room.corrections)
    _multiply_bytes(arrays, room.scales.shape[1], *share(blocks, thread, threads))
