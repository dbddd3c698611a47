"""Tokens times the weights of a matrix, compiled by Numba: the work that nearly all of a step's time goes into.

A matrix is float32 (rows, columns), or int8 of the same shape, or, where the processor multiplies bytes,
packed bytes (blocks, bytes): then the tokens' vectors are rounded to bytes too, with a scale for each group
of 64 numbers, as llama.cpp does with its Q8_0. Each kind is compiled once, for all sizes.

Legend: M tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange, types
from numba.extending import overload

from gencli.compiled import compiled
from gencli.decoding.cpu_tiles import BLOCK, GROUP, TOKENS, byte_tile, row_tile

FloatArray = npt.NDArray[np.float32]
WeightArray = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
Index = int | np.int64

# sums may be reordered, but a weight that is not a number must still show in the logits
OPTIONS = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}


_CHUNK = 8  # rows of a matrix, or
_BLOCKS = 4  # blocks of a packed one, that one thread takes at a time
_LINE = 64  # bytes
_PACKED_PACE = 8  # packed bytes are multiplied so many times as fast

# for several tokens and several rows, several and one, one and several, one and one
_row_tile_tr, _row_tile_t1 = row_tile(TOKENS, 4), row_tile(TOKENS, 1)
_row_tile_1r, _row_tile_11 = row_tile(1, _CHUNK), row_tile(1, 1)
_byte_tile_tr, _byte_tile_t1 = byte_tile(4, 2), byte_tile(4, 1)
_byte_tile_1r, _byte_tile_11 = byte_tile(1, _BLOCKS), byte_tile(1, 1)


def no_blocks(layers: int, rows: int, columns: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Return packed weights (layers, blocks, bytes) of zeros, and the scales of their rows.

    Rows are filled up to whole blocks of 16, columns to whole groups of 64. The bytes begin with a line of the
    processor's cache.
    """
    size = (layers, -(-rows // BLOCK), BLOCK * GROUP * -(-columns // GROUP))
    room = np.full(math.prod(size) + _LINE, 128, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + math.prod(size)].reshape(size), np.zeros(
        (layers, size[1] * BLOCK), np.float32
    )


@compiled(parallel=True, **OPTIONS)
def pack(weights: FloatArray, first: int, out: npt.NDArray[np.uint8], scales: FloatArray) -> None:
    """Round weights (rows, columns) to bytes, put them into packed rows from `first` on, and each row's scale."""
    for source in prange(weights.shape[0]):
        place, row = first + np.int64(source), weights[source]
        peak = np.float32(1e-30)
        for i in range(row.size):
            size = abs(row[i])
            peak = size if size > peak else peak
        scales[place] = peak / np.float32(127)
        inverse = np.float32(127) / peak
        block, start = out[place // BLOCK], place % BLOCK * 4
        for i in range(row.size):
            number = np.int32(np.rint(row[i] * inverse))
            block[i // 4 * 4 * BLOCK + start + i % 4] = np.uint8(number + 128)


@compiled(**OPTIONS)
def _round(
    x: FloatArray, numbers: npt.NDArray[np.int8], scales: FloatArray, corrections: npt.NDArray[np.int32]
) -> None:
    """Set numbers (M, groups · 64) to x (M, W) over the scale of each group, and what each group is corrected by."""
    width = x.shape[1]
    for token in range(x.shape[0]):
        for group in range(scales.shape[1]):
            start = group * GROUP
            end = min(start + GROUP, width)
            peak = np.float32(0)
            for i in range(start, end):
                size = abs(x[token, i])
                peak = size if size > peak else peak
            scale = peak / np.float32(127)
            inverse = np.float32(1) / scale if scale > np.float32(1e-30) else np.float32(0)
            total = np.int32(0)
            for i in range(start, end):
                number = np.int32(np.rint(x[token, i] * inverse))
                numbers[token, i] = np.int8(number)
                total += number
            for i in range(end, start + GROUP):
                numbers[token, i] = 0
            scales[token, group] = scale
            corrections[token, group] = np.int32(-128) * total


@compiled("cpu_tiles", **OPTIONS)
def _rows(arrays: Any, first: Index, last: Index) -> None:
    """Multiply the rows from `first` to `last` of a matrix by all tokens."""
    count = arrays[1].shape[0]
    by_tokens, by_rows = count // TOKENS * TOKENS, first + (last - first) // 4 * 4
    for row in range(first, by_rows, 4):
        for token in range(0, by_tokens, TOKENS):
            _row_tile_tr(arrays, (row, token))
    for row in range(by_rows, last):
        for token in range(0, by_tokens, TOKENS):
            _row_tile_t1(arrays, (row, token))
    for token in range(by_tokens, count):
        if last - first == _CHUNK:
            _row_tile_1r(arrays, (first, token))
        else:
            for row in range(first, last):
                _row_tile_11(arrays, (row, token))


@compiled("cpu_tiles", **OPTIONS)
def _blocks(arrays: Any, first: Index, last: Index) -> None:
    """Multiply the blocks from `first` to `last` of a packed matrix by all tokens."""
    count = arrays[5].shape[0]
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


@compiled("cpu_tiles", parallel=True, **OPTIONS)
def _rows_by_threads(arrays: Any, total: int) -> None:
    for chunk in prange((total + _CHUNK - 1) // _CHUNK):
        first = _CHUNK * np.int64(chunk)
        _rows(arrays, first, min(first + np.int64(_CHUNK), np.int64(total)))


@compiled("cpu_tiles", parallel=True, **OPTIONS)
def _blocks_by_threads(arrays: Any, total: int) -> None:
    for chunk in prange((total + _BLOCKS - 1) // _BLOCKS):
        first = _BLOCKS * np.int64(chunk)
        _blocks(arrays, first, min(first + np.int64(_BLOCKS), np.int64(total)))


def product(
    weights: WeightArray, scales: FloatArray, x: FloatArray, out: FloatArray, worth_threads: int
) -> None:
    """Set out (M, rows) to x (M, columns) times the transposed weights (rows, columns), each row scaled.

    Packed weights have whole blocks of rows: then out has as many columns, and more than are asked for.
    """


@overload(product)  # type: ignore[untyped-decorator]
def _product(weights: Any, scales: Any, x: Any, out: Any, worth_threads: Any) -> Any:
    return _by_blocks if weights.dtype == types.uint8 else _by_rows


def _by_rows(weights: Any, scales: Any, x: Any, out: Any, worth_threads: Any) -> None:
    arrays = (weights, x, out, scales.reshape(1, scales.size))
    total = weights.shape[0]
    if weights.size * x.shape[0] >= worth_threads:
        _rows_by_threads(arrays, total)
    else:
        for first in range(0, total, _CHUNK):
            _rows(arrays, first, min(first + _CHUNK, total))


def _by_blocks(weights: Any, scales: Any, x: Any, out: Any, worth_threads: Any) -> None:
    count, groups = x.shape[0], (x.shape[1] + GROUP - 1) // GROUP
    numbers = np.empty((count, groups * GROUP), np.int8)
    factors = np.empty((count, groups), np.float32)
    corrections = np.empty((count, groups), np.int32)
    _round(x, numbers, factors, corrections)
    arrays = (weights, scales.reshape(1, scales.size), numbers, factors, corrections, out)
    total = weights.shape[0]
    if weights.size * count // _PACKED_PACE >= worth_threads:
        _blocks_by_threads(arrays, total)
    else:
        for first in range(0, total, _BLOCKS):
            _blocks(arrays, first, min(first + _BLOCKS, total))
