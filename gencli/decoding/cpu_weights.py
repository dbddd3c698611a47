"""A model's weights as compiled code takes them: addresses of each matrix, float32 or rounded to int8."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gencli.kernels import layout
from gencli.kernels.machine_code import Function
from gencli.kernels.room import Room, whole
from gencli.kernels.team import Job, cores

if TYPE_CHECKING:
    from gencli.model.shape import Shape

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Precision = Literal["float32", "int8"]

_VECTORS = {
    layout.ATTENTION_NORM: "input_layernorm",
    layout.QUERY_NORM: "self_attn.q_norm",
    layout.KEY_NORM: "self_attn.k_norm",
    layout.MLP_NORM: "post_attention_layernorm",
}
_MATRICES = {
    layout.QUERY: "self_attn.q_proj",
    layout.KEY: "self_attn.k_proj",
    layout.VALUE: "self_attn.v_proj",
    layout.OUTPUT: "self_attn.o_proj",
    layout.GATE: "mlp.gate_proj",
    layout.UP: "mlp.up_proj",
    layout.DOWN: "mlp.down_proj",
}
_lay, _pack = Function("products", "lay"), Function("products", "pack")


@dataclass(frozen=True)
class Weights:
    """The weights' addresses as `layout` has them; `kept` is what stands there, `kind` an array of their kind."""

    addresses: npt.NDArray[np.int64]  # (L + 1, words)
    kept: list[Array]
    kind: Array
    embedding: FloatArray
    cosines: FloatArray
    sines: FloatArray

    @property
    def nbytes(self) -> int:
        """Return how many bytes they are."""
        return sum(array.nbytes for array in self.kept)


@functools.cache
def multiplies_bytes() -> bool:
    """Tell whether the processor has an instruction that multiplies 64 pairs of bytes and adds them up."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512bw"))


def placed(
    shape: Shape, weights: Mapping[str, FloatArray], precision: Precision, *, in_place: bool = False
) -> Weights:
    """Return the weights in memory that stays where it is, the matrices packed; if `in_place`, where they were."""
    addresses = np.zeros((shape.layers + 1, layout.WEIGHT_WORDS), np.int64)
    kept: list[Array] = []
    kind = np.dtype(np.float32 if precision == "float32" else np.uint8 if multiplies_bytes() else np.int8)
    room = Room(math.prod(_packed_size(*size, kind)) * kind.itemsize for size in shape.tensors().values())

    def put(layer: int, word: int, *arrays: Array) -> None:
        for number, array in enumerate(arrays):
            kept.append(np.ascontiguousarray(array))
            addresses[layer, word + number] = kept[-1].__array_interface__["data"][0]

    def put_matrix(layer: int, word: int, name: str) -> None:
        matrix = weights[f"{name}.weight"]
        size = _packed_size(len(matrix), matrix.shape[1], kind)
        stays = in_place and kind == np.float32 and math.prod(size) == matrix.size
        put(layer, word, *_packed(matrix, matrix.reshape(size) if stays else room.take(size, kind)))

    for layer in range(shape.layers):
        for word, name in _VECTORS.items():
            put(layer, word, weights[f"model.layers.{layer}.{name}.weight"])
        for word, name in _MATRICES.items():
            put_matrix(layer, word, f"model.layers.{layer}.{name}")
    put(shape.layers, layout.FINAL_NORM, weights["model.norm.weight"])
    put_matrix(shape.layers, layout.HEAD, "lm_head")
    embedding = np.ascontiguousarray(weights["model.embed_tokens.weight"])
    return Weights(addresses, kept, np.empty((0, 0), kind), embedding, *_rotary(shape))


def _packed_size(rows: int, columns: int, kind: np.dtype[Any]) -> tuple[int, int]:
    """Return the blocks and their numbers: rows filled up to blocks of 16, columns of bytes to groups of 64."""
    columns = whole(columns, layout.GROUP) if kind == np.uint8 else columns
    return -(-rows // layout.BLOCK), layout.BLOCK * columns


def _packed(weights: FloatArray, out: Array) -> tuple[Array, FloatArray]:
    """Pack a matrix as numbers of the kind of `out` (blocks, numbers), all zeros; return it and each row's scale."""
    matrix: Array = np.ascontiguousarray(weights)
    scales, threads = np.zeros(len(out) * layout.BLOCK, np.float32), cores()
    if out.dtype == np.uint8:
        out[:] = 128  # a zero
        Job(_pack, matrix, out, scales, threads=threads)(threads)
        return out, scales
    if out.dtype == np.int8:
        matrix, scales[: len(weights)] = _rounded(weights)
    # rows that lie a power of two apart would stand in each other's way in the processor's cache
    scratch = np.empty((threads, layout.BLOCK, matrix.shape[1] + layout.BLOCK), out.dtype)
    Job(_lay, matrix, out, scratch, threads=threads)(threads)
    return out, scales


def _rounded(weights: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return a matrix as int8, and the scale of each row."""
    scales = np.maximum(np.abs(weights).max(axis=1), np.float32(1e-30)) / np.float32(127)
    numbers = weights / scales[:, None]
    return np.rint(numbers, out=numbers).astype(np.int8), scales


def _rotary(shape: Shape) -> tuple[FloatArray, FloatArray]:
    """Return the cosines and sines (context, D / 2) of rotary positions, in float32 throughout."""
    powers = np.arange(0, shape.head_width, 2, dtype=np.float32) / np.float32(shape.head_width)
    speeds = np.float32(1) / np.float32(shape.rope_theta) ** powers
    angles = np.arange(shape.context, dtype=np.float32)[:, None] * speeds
    return np.cos(angles), np.sin(angles)
