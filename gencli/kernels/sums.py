"""Many numbers to one, written in LLVM's own language: the order in which numbers are added is settled here.

Each function takes an array of one dimension of float32, which lies close together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gencli.kernels.tiles import LANES, Builder, Value

_FLOAT, _VECTOR = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)
_SIDE_BY_SIDE = 4  # vectors
_Step = Callable[[Builder, Value, Value], Value]  # from the result so far and further numbers to the result


@intrinsic
def fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once where the processor can."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return Builder(builder).add_product(values[2], values[0], values[1])

    return types.float32(types.float32, types.float32, types.float32), codegen


def _over(step: _Step, join: _Step, start: float = 0.0) -> Any:
    """Return a function for compiled code: `step` takes further numbers, `join` other results."""

    def over(typing_context: Any, numbers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            made = context.make_array(numbers)(context, builder, values[0])
            place = builder.ptrtoint(made.data, ir.IntType(64))
            (count,) = cgutils.unpack_tuple(builder, made.shape)
            return _reduced(Builder(builder), place, count, step, join, ir.Constant(_VECTOR, [start] * LANES))

        return types.float32(numbers), codegen

    return intrinsic(over)


def _reduced(build: Builder, start: Value, count: Value, step: _Step, join: _Step, first: Value) -> Value:
    b, at_once = build.b, _SIDE_BY_SIDE * LANES
    results = [cgutils.alloca_once_value(b, first) for _ in range(_SIDE_BY_SIDE)]
    wide = b.udiv(count, build.long(at_once))
    with cgutils.for_range(b, wide) as loop:
        for number, result in enumerate(results):
            place = build.place(start, (loop.index, at_once * 4), (number, LANES * 4))
            b.store(step(build, b.load(result), build.load(_VECTOR, place)), result)
    done = b.mul(wide, build.long(at_once))
    whole = b.udiv(b.sub(count, done), build.long(LANES))
    with cgutils.for_range(b, whole) as loop:
        place = build.place(start, (done, 4), (loop.index, LANES * 4))
        b.store(step(build, b.load(results[0]), build.load(_VECTOR, place)), results[0])
    pairs = [
        join(build, b.load(one), b.load(other))
        for one, other in zip(results[::2], results[1::2], strict=True)
    ]
    one = build.folded(join(build, *pairs), lambda low, high: join(build, low, high))
    result = cgutils.alloca_once_value(b, one)
    done = b.add(done, b.mul(whole, build.long(LANES)))
    with cgutils.for_range(b, b.sub(count, done)) as loop:
        place = build.place(start, (done, 4), (loop.index, 4))
        b.store(step(build, b.load(result), build.load(_FLOAT, place)), result)
    return b.load(result)


def _sum(build: Builder, a: Value, b: Value) -> Value:
    return build.b.fadd(a, b)


def _with_square(build: Builder, total: Value, number: Value) -> Value:
    return build.add_product(total, number, number)


def _larger(build: Builder, a: Value, b: Value) -> Value:
    """Return the larger one; one that is no number stands behind."""
    return build.b.select(build.b.fcmp_ordered(">", b, a), b, a)


def _with_size(build: Builder, a: Value, b: Value) -> Value:
    name = "llvm.fabs.f32" if b.type == _FLOAT else f"llvm.fabs.v{LANES}f32"
    size = cgutils.get_or_insert_function(build.b.module, ir.FunctionType(b.type, [b.type]), name)
    return _larger(build, a, build.b.call(size, [b]))


sum_of = _over(_sum, _sum)
sum_of_squares = _over(_with_square, _sum)
largest_size = _over(_with_size, _larger)
largest_of = _over(_larger, _larger, -math.inf)
