"""Compiles a function of this folder with Numba into machine code that needs no Numba to run.

The code takes one number, the address of a block of words of 64 bits: an array is its address and its shape,
a whole number is itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import cfunc, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from gencli.kernels.machine_code import Code

_Function = TypeVar("_Function", bound=Callable[..., object])
_WORD = ir.IntType(64)


def kernel(function: _Function) -> _Function:
    """Return a function that can be called by others that are compiled.

    Numbers are added in the order that is written, so that a result has the same bits wherever it is compiled
    into; sums over many numbers have functions of their own.
    """
    return cast(
        "_Function", njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    )


def inlined(function: _Function) -> _Function:
    """Return a function that becomes part of the one that calls it: compiling it apart would take time for nothing."""
    return cast("_Function", njit(error_model="numpy", inline="always")(function))


def compiled(module: str, name: str, kinds: tuple[str, ...]) -> Code:
    """Return the code of a function for arguments of some kinds."""
    function = getattr(importlib.import_module(f"gencli.kernels.{module}"), name)
    unpacked = _unpacked([_type(kind) for kind in kinds])

    def entry(block: int) -> None:
        function(*unpacked(block))

    made = cfunc(types.void(types.int64), nopython=True, error_model="numpy")(entry)
    library: Any = made._library
    whole = library._final_module
    missing = [each.name for each in (*whole.functions, *whole.global_variables) if each.is_declaration]
    missing = [each for each in missing if not each.startswith("llvm.")]
    return Code(made._wrapper_name, missing, library.codegen._tm.emit_object(whole))


def _type(kind: str) -> Any:
    element, *dimensions = kind.split()
    return types.Array(from_dtype(np.dtype(element)), int(dimensions[0]), "C") if dimensions else types.int64


def _unpacked(kinds: list[Any]) -> Any:
    """Return a function for compiled code that takes a block's address and returns its arguments."""

    def unpacked(typing_context: Any, block: Any) -> Any:
        together = types.Tuple(kinds)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            start = builder.inttoptr(values[0], _WORD.as_pointer())
            words = (builder.load(builder.gep(start, [_WORD(number)])) for number in range(1 << 10))
            found = [
                array(context, builder, kind, next(words), [next(words) for _ in range(kind.ndim)])
                if isinstance(kind, types.Array)
                else next(words)
                for kind in kinds
            ]
            return context.make_tuple(builder, together, found)

        return together(types.int64), codegen

    return intrinsic(unpacked)


def array(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """Return a contiguous array of a kind at an address; nobody owns its memory."""
    made = context.make_array(kind)(context, builder)
    size = _WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    data = builder.inttoptr(address, made.data.type)
    arrayobj.populate_array(made, data, shape, strides, size, None)
    return made._getvalue()


@intrinsic
def matrix_at(typing_context: Any, address: Any, rows: Any, columns: Any, like: Any) -> Any:
    """Return the array (rows, columns) at an address, of elements of a type, or like those of an array."""
    kind = types.Array(like.dtype, 2, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return array(context, builder, kind, values[0], list(values[1:3]))

    return kind(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def call_at(typing_context: Any, function: Any, block: Any) -> Any:
    """Call the compiled function at an address with a block."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(8).as_pointer(), [_WORD])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [values[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _place(context: Any, builder: Any, kind: Any, values: Any) -> Any:
    """Return the pointer to an element of an array of one dimension."""
    made = context.make_array(kind)(context, builder, values[0])
    return cgutils.get_item_pointer(context, builder, kind, made, [values[1]])


@intrinsic
def add_to(typing_context: Any, counts: Any, place: Any, change: Any) -> Any:
    """Add to an element that other threads change too, and return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", _place(context, builder, counts, values), values[2], "seq_cst")

    return types.int64(counts, types.int64, types.int64), codegen


@intrinsic
def seen_at(typing_context: Any, counts: Any, place: Any) -> Any:
    """Return an element that other threads change."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(_place(context, builder, counts, values), "seq_cst", 8)

    return types.int64(counts, types.int64), codegen


@intrinsic
def show_at(typing_context: Any, counts: Any, place: Any, number: Any) -> Any:
    """Set an element that other threads read, after all that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[2], _place(context, builder, counts, values), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(counts, types.int64, types.int64), codegen


@intrinsic
def swap_at(typing_context: Any, counts: Any, place: Any, expected: Any, number: Any) -> Any:
    """Set an element if it is what is expected, and tell whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _place(context, builder, counts, values)
        pair = builder.cmpxchg(pointer, values[2], values[3], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(counts, types.int64, types.int64, types.int64), codegen


@intrinsic
def rest(typing_context: Any, turn: Any) -> Any:
    """Let a waiting thread use little, and now and then give its core to whoever waits for one."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if "x86_64" in builder.module.triple:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        with builder.if_then(builder.icmp_signed("==", builder.and_(values[0], _WORD(1023)), _WORD(1023))):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
