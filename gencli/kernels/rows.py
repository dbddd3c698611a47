"""Steps of norms over short rows of numbers, written in LLVM's own language.

A head has so few numbers that a compiler's own vectors, made for long loops, do not pay; here each step takes as
many as one vector holds, and what is left over one by one. Numbers are float32, or bfloat16 as the upper halves of
float32 in uint16; what is computed is float32.

Legend: D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gencli.kernels.tiles import LANES, Builder, Value

_HALF, _INT, _LONG, _FLOAT = *map(ir.IntType, (16, 32, 64)), ir.FloatType()


def _many(kind: ir.Type, lanes: int) -> ir.Type:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _same(build: Builder, value: Value, lanes: int) -> Value:
    """Return a number for each lane."""
    return value if lanes == 1 else build.spread(value, lanes)


class _Row(NamedTuple):
    """Numbers that lie close together: where they begin, and whether they are bfloat16."""

    start: Value
    short: bool

    def load(self, build: Builder, first: Value, lanes: int) -> Value:
        """Return some numbers as float32."""
        if not self.short:
            return build.load(_many(_FLOAT, lanes), build.place(self.start, (first, 4)))
        wide = _many(_INT, lanes)
        halves = build.load(_many(_HALF, lanes), build.place(self.start, (first, 2)), 2)
        sixteen = _same(build, ir.Constant(_INT, 16), lanes)
        return build.b.bitcast(build.b.shl(build.b.zext(halves, wide), sixteen), _many(_FLOAT, lanes))

    def store(self, build: Builder, first: Value, value: Value, lanes: int) -> None:
        """Write some numbers, rounded to the nearest, of two as near to the even one."""
        if not self.short:
            build.store(value, build.place(self.start, (first, 4)))
            return
        b = build.b
        sixteen, one, almost, unknown = (
            _same(build, ir.Constant(_INT, number), lanes) for number in (16, 1, 0x7FFF, 0x7FC00000)
        )
        bits = b.bitcast(value, _many(_INT, lanes))
        carried = b.add(b.add(bits, almost), b.and_(b.lshr(bits, sixteen), one))
        rounded = b.select(b.fcmp_unordered("uno", value, value), unknown, carried)
        halves = b.trunc(b.lshr(rounded, sixteen), _many(_HALF, lanes))
        build.store(halves, build.place(self.start, (first, 2)), 2)


def _over(build: Builder, count: Value, body: Callable[[Value, int], None]) -> None:
    """Write a loop: `body` takes the place of a number and how many follow from there."""
    b, lanes = build.b, build.long(LANES)
    whole = b.udiv(count, lanes)
    with cgutils.for_range(b, whole) as loop:
        body(b.mul(loop.index, lanes), LANES)
    done = b.mul(whole, lanes)
    with cgutils.for_range(b, b.sub(count, done)) as loop:
        body(b.add(done, loop.index), 1)


class _Sum:
    """A sum of products, each lane for itself until the end."""

    def __init__(self, build: Builder) -> None:
        self._build = build
        self._parts = {
            lanes: cgutils.alloca_once_value(build.b, ir.Constant(_many(_FLOAT, lanes), start))
            for lanes, start in ((1, 0.0), (LANES, [0.0] * LANES))
        }

    def add(self, a: Value, b: Value, lanes: int) -> None:
        part = self._parts[lanes]
        self._build.b.store(self._build.add_product(self._build.b.load(part), a, b), part)

    def total(self) -> Value:
        b = self._build.b
        many, one = (b.load(self._parts[lanes]) for lanes in (LANES, 1))
        return b.fadd(self._build.folded(many, b.fadd), one)


_Emit = Callable[[Builder, list[_Row], Value, Value], Value]


def _step(emit: _Emit) -> Any:
    """Return a function for compiled code, whose body `emit` writes.

    It takes a tuple of arrays of one dimension, how many numbers, and one number more; it returns a number.
    """

    def step(typing_context: Any, arrays: Any, count: Any, number: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            rows = []
            for kind, value in zip(arrays, cgutils.unpack_tuple(builder, values[0]), strict=True):
                array = context.make_array(kind)(context, builder, value)
                rows.append(_Row(builder.ptrtoint(array.data, _LONG), kind.dtype == types.uint16))
            return emit(Builder(builder), rows, values[1], values[2])

        return types.float32(arrays, types.int64, types.float32), codegen

    return intrinsic(step)


def _mean(build: Builder, total: Value, count: Value) -> Value:
    return build.b.fdiv(total, build.b.uitofp(count, _FLOAT))


def _inverse_rms(build: Builder, row: _Row, count: Value, epsilon: Value) -> Value:
    squares = _Sum(build)

    def body(at: Value, lanes: int) -> None:
        x = row.load(build, at, lanes)
        squares.add(x, x, lanes)

    _over(build, count, body)
    root = cgutils.get_or_insert_function(build.b.module, ir.FunctionType(_FLOAT, [_FLOAT]), "llvm.sqrt.f32")
    mean = build.b.fadd(_mean(build, squares.total(), count), epsilon)
    return build.b.fdiv(ir.Constant(_FLOAT, 1.0), build.b.call(root, [mean]))


def _norm(build: Builder, rows: list[_Row], count: Value, epsilon: Value) -> Value:
    x, weight, out = rows
    factor = _inverse_rms(build, x, count, epsilon)

    def body(at: Value, lanes: int) -> None:
        scaled = build.b.fmul(x.load(build, at, lanes), _same(build, factor, lanes))
        out.store(build, at, build.b.fmul(scaled, weight.load(build, at, lanes)), lanes)

    _over(build, count, body)
    return factor


def _norm_back(build: Builder, rows: list[_Row], count: Value, factor: Value) -> Value:
    b = build.b
    x, weight, g, out, dw = rows
    along = _Sum(build)

    def first(at: Value, lanes: int) -> None:
        product = b.fmul(g.load(build, at, lanes), x.load(build, at, lanes))
        along.add(product, weight.load(build, at, lanes), lanes)
        added = build.add_product(dw.load(build, at, lanes), product, _same(build, factor, lanes))
        dw.store(build, at, added, lanes)

    _over(build, count, first)
    pull = b.fneg(b.fmul(_mean(build, along.total(), count), b.fmul(factor, factor)))

    def second(at: Value, lanes: int) -> None:
        pulled = b.fmul(x.load(build, at, lanes), _same(build, pull, lanes))
        whole = build.add_product(pulled, g.load(build, at, lanes), weight.load(build, at, lanes))
        out.store(build, at, b.fmul(whole, _same(build, factor, lanes)), lanes)

    _over(build, count, second)
    return factor


def _turn(build: Builder, rows: list[_Row], half: Value, sign: Value) -> Value:
    b = build.b
    x, cosines, sines, out = rows

    def body(at: Value, lanes: int) -> None:
        further = b.add(at, half)
        first, second = x.load(build, at, lanes), x.load(build, further, lanes)
        cosine = cosines.load(build, at, lanes)
        sine = b.fmul(sines.load(build, at, lanes), _same(build, sign, lanes))
        turned = build.add_product(b.fmul(first, cosine), b.fneg(second), sine)
        out.store(build, at, turned, lanes)
        out.store(build, further, build.add_product(b.fmul(second, cosine), first, sine), lanes)

    _over(build, half, body)
    return sign


def _copy(build: Builder, rows: list[_Row], count: Value, number: Value) -> Value:
    x, out = rows
    _over(build, count, lambda at, lanes: out.store(build, at, x.load(build, at, lanes), lanes))
    return number


norm = _step(
    _norm
)  # x, weight, out; epsilon: out is x over its root mean square times weight; returns r = 1 / rms
norm_back = _step(_norm_back)  # x, weight, g, out, dw; r: out = r (g w - x r² mean(g w x)), dw += g x r
turn = _step(
    _turn
)  # x, cosines, sines, out; s: each pair (x[i], x[i + D / 2]) turned by its angle times s = ±1
copy = _step(_copy)  # x, out; any number
