"""Tokens times the weights of a matrix: the work that nearly all of a step's time goes into.

A matrix is float32 (rows, columns), or int8 of the same shape with a scale for each row, or, where the processor
multiplies bytes, packed bytes (blocks, bytes): then the tokens' vectors are rounded to bytes too, with a scale
for each group of 64 numbers, as llama.cpp does with its Q8_0. Each kind is compiled once, for all sizes.

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
from gencli.kernels.tiles import TOKENS, byte_tile, row_tile

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]

_CHUNK = 8  # rows of a matrix, or
_BLOCKS = 4  # blocks of a packed one, that are taken at a time
_SMALLEST = np.float32(1e-30)  # of scales: those of nothing but zeros

# for several tokens and several rows, several and one, one and several, one and one
_row_tile_tr, _row_tile_t1 = row_tile(TOKENS, 4, ahead=4), row_tile(TOKENS, 1)
_row_tile_1r, _row_tile_11 = row_tile(1, _CHUNK, ahead=_CHUNK), row_tile(1, 1)
_byte_tile_tr, _byte_tile_t1 = byte_tile(4, 2), byte_tile(4, 1)
_byte_tile_1r, _byte_tile_11 = byte_tile(1, _BLOCKS), byte_tile(1, 1)


class Rounded(NamedTuple):
    """Vectors of tokens as bytes, for packed weights."""

    numbers: npt.NDArray[np.int8]  # (M, groups of 64)
    scales: FloatArray  # (M, groups)
    corrections: npt.NDArray[np.int32]  # (M, groups): -128 times the sum of each


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
def _rows(arrays: Any, first: int, last: int) -> None:
    """Multiply the rows from `first` to `last` of a matrix by all tokens."""
    count = arrays[1].shape[0]
    by_tokens, by_rows = count // TOKENS * TOKENS, first + (last - first) // 4 * 4
    for token in range(0, by_tokens, TOKENS):
        for row in range(first, by_rows, 4):
            _row_tile_tr(arrays, (row, token))
        for row in range(by_rows, last):
            _row_tile_t1(arrays, (row, token))
    by_chunks = first + (last - first) // _CHUNK * _CHUNK
    for token in range(by_tokens, count):
        for row in range(first, by_chunks, _CHUNK):
            _row_tile_1r(arrays, (row, token))
        for row in range(by_chunks, last):
            _row_tile_11(arrays, (row, token))


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

    `place` are the addresses of the matrix (rows, columns), of the kind of `like`, and of its scales.
    """


@overload(product)
def _product(place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any) -> Any:
    if like.dtype == types.float32:
        return _by_rows
    return _by_blocks if like.dtype == types.uint8 else _by_rounded_rows


def _by_rows(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    weights = matrix_at(place[0], rows, x.shape[1], like)
    start, end = part(rows, thread, threads)
    step = _CHUNK if x.shape[0] < TOKENS else 2 * _CHUNK
    for first in range(start, end, step):
        _rows((weights, x, out), first, min(first + step, end))


def _by_rounded_rows(
    place: Any, rows: Any, x: Any, room: Any, out: Any, like: Any, thread: Any, threads: Any
) -> None:
    weights = matrix_at(place[0], rows, x.shape[1], like)
    scales = matrix_at(place[1], 1, rows, np.float32)
    start, end = part(rows, thread, threads)
    for first in range(start, end, _CHUNK):
        _rows((weights, x, out, scales), first, min(first + _CHUNK, end))


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
