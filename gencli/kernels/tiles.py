"""Tiles of matrix products, written in LLVM's own language: a few tokens times a few rows of the weights.

A loop in Python leaves it to the compiler how many sums run side by side; here that is settled, and with it
the order in which numbers are added: a token's sums are the same, bit for bit, whatever tokens stand beside
it. Pointers and strides are whole numbers of bytes.

Legend: T tokens, R rows or blocks of rows, L numbers in one vector of this machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gencli.kernels.layout import BLOCK, GROUP

_FEATURES = binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4

_UNROLLED, _FOURS = 4, 2  # columns, and fours of columns, that stand in one loop's body
_MANY = 8  # tokens, with which a product takes longer than reading the weights
_AHEAD = 16  # columns
_LINE = 64  # bytes that memory gives at once
_BYTE, _INT, _LONG, _FLOAT = *map(ir.IntType, (8, 32, 64)), ir.FloatType()

Value: TypeAlias = Any  # llvmlite tells no types


class Builder:
    """LLVM's builder with the few steps that the tiles are made of."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def long(self, number: int) -> Value:
        return ir.Constant(_LONG, number)

    def place(self, start: Value, *steps: tuple[Value | int, Value | int]) -> Value:
        """Return an address: a start and some counts of strides."""
        for count, stride in steps:
            first = self.long(count) if isinstance(count, int) else count
            second = self.long(stride) if isinstance(stride, int) else stride
            start = self.b.add(start, self.b.mul(first, second))
        return start

    def load(self, kind: ir.Type, place: Value, align: int = 4) -> Value:
        loaded = self.b.load(self.b.inttoptr(place, ir.PointerType(kind)))
        loaded.align = align
        return loaded

    def store(self, value: Value, place: Value, align: int = 4) -> None:
        self.b.store(value, self.b.inttoptr(place, ir.PointerType(value.type))).align = align

    def fetch(self, place: Value) -> None:
        """Ask for what stands at a place to be brought into the second of the processor's caches."""
        pointer = ir.PointerType(_BYTE)
        prefetch = cgutils.get_or_insert_function(
            self.b.module, ir.FunctionType(ir.VoidType(), [pointer, _INT, _INT, _INT]), "llvm.prefetch.p0"
        )
        reading, second, data = (ir.Constant(_INT, number) for number in (0, 2, 1))
        self.b.call(prefetch, [self.b.inttoptr(place, pointer), reading, second, data])

    def spread(self, value: Value, lanes: int) -> Value:
        """Return a vector of equal numbers."""
        empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        first = self.b.insert_element(empty, value, ir.Constant(_INT, 0))
        return self.shuffled(first, empty, [0] * lanes)

    def shuffled(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(order)), list(order)))

    def folded(self, vector: Value, join: Callable[[Value, Value], Value]) -> Value:
        """Return the lanes of a vector as one number: halves are joined until one lane is left."""
        width = vector.type.count
        while width > 1:
            width //= 2
            low, high = (self.shuffled(vector, vector, range(at, at + width)) for at in (0, width))
            vector = join(low, high)
        return self.b.extract_element(vector, ir.Constant(_INT, 0))

    def add_product(self, total: Value, a: Value, b: Value) -> Value:
        """Return total + a b, rounded once where the processor can."""
        kind, name = total.type, "llvm.fmuladd.f32"
        if isinstance(kind, ir.VectorType):
            name = f"llvm.fmuladd.v{kind.count}f32"
        fused = cgutils.get_or_insert_function(self.b.module, ir.FunctionType(kind, [kind] * 3), name)
        return self.b.call(fused, [a, b, total])


class _Matrix(NamedTuple):
    """Where the numbers of a two-dimensional array begin, and the bytes from row to row."""

    start: Value
    stride: Value
    kind: Any

    def row(self, build: Builder, first: Value, number: int = 0) -> Value:
        """Return the address of the row that is `number` after the `first` one."""
        return build.place(self.start, (first, self.stride), (number, self.stride))


Emit = Callable[[Builder, Sequence[_Matrix], Sequence[Value]], None]


def _tile(emit: Emit) -> Any:
    """Return a function for compiled code, whose body `emit` writes.

    It takes a tuple of two-dimensional arrays and a tuple of whole numbers.
    """

    def tile(typing_context: Any, arrays: Any, numbers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            matrices = []
            for kind, value in zip(arrays, cgutils.unpack_tuple(builder, values[0]), strict=True):
                array = context.make_array(kind)(context, builder, value)
                start = builder.ptrtoint(array.data, _LONG)
                stride = cgutils.unpack_tuple(builder, array.strides)[0]
                matrices.append(_Matrix(start, stride, kind.dtype))
            emit(Builder(builder), matrices, cgutils.unpack_tuple(builder, values[1]))
            return context.get_dummy_value()

        return types.void(arrays, numbers), codegen

    return intrinsic(tile)


class _Numbers(NamedTuple):
    """How numbers are stored: float32, or a whole number of a byte."""

    stored: ir.Type
    size: int

    @classmethod
    def of(cls, kind: Any) -> _Numbers:
        return cls(_BYTE, 1) if kind == types.int8 else cls(_FLOAT, 4)

    def load(self, build: Builder, place: Value, lanes: int) -> Value:
        """Return so many numbers from a place on as a vector of float32."""
        loaded = build.load(ir.VectorType(self.stored, lanes), place, self.size)
        if self.size == 4:
            return loaded
        return build.b.sitofp(build.b.sext(loaded, ir.VectorType(_INT, lanes)), ir.VectorType(_FLOAT, lanes))


def block_tile(tokens: int, blocks: int) -> Any:
    """Return a function that sets out (T, R blocks of 16) to x (T, columns) times packed weights, each row scaled.

    Its arrays are (weights, x, out, scales) or the first three of them, its numbers the first block, the first token
    and the columns. A block holds, for every column, the numbers of each of its 16 rows, float32 or int8; the scales
    have one row. A sum is one chain from the first column to the last. What comes next is asked for meanwhile: the
    next blocks where there are many tokens; with few, which wait for memory at any rate, some columns more.
    """

    def emit(build: Builder, matrices: Sequence[_Matrix], numbers: Sequence[Value]) -> None:
        (weights, x, out, *scales), (block, token, columns) = matrices, numbers
        b, stored = build.b, _Numbers.of(weights.kind)
        kind = ir.VectorType(_FLOAT, LANES)
        places = list(itertools.product(range(blocks), range(0, BLOCK, LANES)))
        starts = [weights.row(build, block, r) for r in range(blocks)]
        if tokens < _MANY:
            nexts = [build.place(start, (_AHEAD, BLOCK * stored.size)) for start in starts]
        else:
            nexts = [weights.row(build, block, r) for r in range(blocks, 2 * blocks)]
        tokens_at = [x.row(build, token, t) for t in range(tokens)]
        totals = [
            [cgutils.alloca_once_value(b, ir.Constant(kind, [0.0] * LANES)) for _ in places]
            for _ in tokens_at
        ]

        def fetch(column: Value) -> None:
            for start in nexts:
                for line in range(0, _UNROLLED * BLOCK * stored.size, _LINE):
                    build.fetch(build.place(start, (column, BLOCK * stored.size), (1, line)))

        def add_products(column: Value) -> None:
            left = [
                stored.load(
                    build, build.place(starts[r], (column, BLOCK * stored.size), (lane, stored.size)), LANES
                )
                for r, lane in places
            ]
            for start, sums in zip(tokens_at, totals, strict=True):
                right = build.spread(build.load(_FLOAT, build.place(start, (column, 4))), LANES)
                for number, total in enumerate(sums):
                    b.store(build.add_product(b.load(total), left[number], right), total)

        whole = b.udiv(columns, build.long(_UNROLLED))
        with cgutils.for_range(b, whole) as loop:
            first = b.mul(loop.index, build.long(_UNROLLED))
            fetch(first)
            for number in range(_UNROLLED):
                add_products(b.add(first, build.long(number)))
        done = b.mul(whole, build.long(_UNROLLED))
        with cgutils.for_range(b, b.sub(columns, done)) as loop:
            add_products(b.add(done, loop.index))
        for number, (r, lane) in enumerate(places):
            at = ((block, BLOCK * 4), (r, BLOCK * 4), (lane, 4))
            scale = build.load(kind, build.place(scales[0].start, *at)) if scales else None
            for t, sums in enumerate(totals):
                found = b.load(sums[number])
                build.store(
                    b.fmul(found, scale) if scales else found, build.place(out.row(build, token, t), *at)
                )

    return _tile(emit)


def byte_tile(tokens: int, blocks: int, *, group_size: int = GROUP) -> Any:
    """Return a function that sets out (T, R blocks of 16) to bytes of x times packed bytes of weights, scaled.

    Its arrays are (weights, x, out, the rows' scales, the scales of x's groups, their corrections), its numbers the
    first block, the first token and the groups. A block holds, for every four columns, the four numbers of each of
    its 16 rows, and 128 is added to each; a correction is 128 times the sum of a group of x, negative. One
    instruction, vpdpbusd, multiplies 64 pairs of bytes and adds them to 16 sums. The blocks after these are asked for
    meanwhile: so far ahead, they come in time also from memory that others use. Where something else comes next, the
    numbers go on with its address and its strides from block to block and from group to group.
    """

    def emit(build: Builder, matrices: Sequence[_Matrix], numbers: Sequence[Value]) -> None:
        weights, x, out, row_scales, scales, corrections = matrices
        (row, token, groups, *elsewhere), b = numbers, build.b
        whole, single = ir.VectorType(_INT, BLOCK), ir.VectorType(_FLOAT, BLOCK)
        add_products = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(whole, [whole] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )
        places = list(itertools.product(range(tokens), range(blocks)))
        zero, none = ir.Constant(single, [0.0] * BLOCK), ir.Constant(whole, [0] * BLOCK)
        totals = {place: cgutils.alloca_once_value(b, zero) for place in places}
        sums = {place: cgutils.alloca_once_value(b, none) for place in places}
        with cgutils.for_range(b, groups) as loop:
            group = loop.index
            at_group = (group, BLOCK * group_size)
            starts = [build.place(weights.row(build, row, r), at_group) for r in range(blocks)]
            if elsewhere:
                address, across, along = elsewhere
                nexts = [build.place(address, (r, across), (group, along)) for r in range(blocks)]
            else:
                nexts = [build.place(weights.row(build, row, blocks + r), at_group) for r in range(blocks)]
            rights = [build.place(x.row(build, token, t), (group, group_size)) for t in range(tokens)]
            for (t, _), total in sums.items():
                correction = build.load(_INT, build.place(corrections.row(build, token, t), (group, 4)))
                b.store(build.spread(correction, BLOCK), total)
            with cgutils.for_range(b, build.long(group_size // 4 // _FOURS)) as inner:
                for number in range(_FOURS):
                    four = b.add(b.mul(inner.index, build.long(_FOURS)), build.long(number))
                    for start in nexts:
                        build.fetch(build.place(start, (four, BLOCK * 4)))
                    left = [build.load(whole, build.place(start, (four, BLOCK * 4))) for start in starts]
                    for t in range(tokens):
                        right = build.spread(build.load(_INT, build.place(rights[t], (four, 4))), BLOCK)
                        for r in range(blocks):
                            b.store(b.call(add_products, [b.load(sums[t, r]), left[r], right]), sums[t, r])
            for (t, r), total in totals.items():
                scale = build.load(_FLOAT, build.place(scales.row(build, token, t), (group, 4)))
                counted = b.sitofp(b.load(sums[t, r]), single)
                b.store(build.add_product(b.load(total), counted, build.spread(scale, BLOCK)), total)
        for (t, r), total in totals.items():
            at = ((row, BLOCK * 4), (r, BLOCK * 4))
            scale = build.load(single, build.place(row_scales.start, *at))
            build.store(b.fmul(b.load(total), scale), build.place(out.row(build, token, t), *at))

    return _tile(emit)
