"""A model's weights as the compiled kernels take them: stacked over the layers, float32 or rounded to int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gencli.decoding.cpu_kernels import Weights
    from gencli.decoding.cpu_products import WeightArray
    from gencli.model.shape import Shape

FloatArray = npt.NDArray[np.float32]
Precision = Literal["float32", "int8"]


def stacked(shape: Shape, weights: Mapping[str, FloatArray], precision: Precision) -> Weights:
    """Return the weights stacked over the layers, all read-only so that one compiled signature fits them."""
    from gencli.decoding.cpu_kernels import Weights

    def layers(*names: str) -> list[list[FloatArray]]:
        return [[weights[f"model.layers.{i}.{name}.weight"] for name in names] for i in range(shape.layers)]

    def norms(name: str) -> FloatArray:
        return np.stack([vector for (vector,) in layers(name)])

    def matrices(*names: str) -> tuple[WeightArray, FloatArray]:
        return _matrices(layers(*names), precision)

    head, head_scales = _matrices([[weights["lm_head.weight"]]], precision)
    return Weights(
        shape.heads,
        shape.hidden,
        *map(
            _frozen,
            (
                weights["model.embed_tokens.weight"],
                norms("input_layernorm"),
                *matrices("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                norms("self_attn.q_norm"),
                norms("self_attn.k_norm"),
                *matrices("self_attn.o_proj"),
                norms("post_attention_layernorm"),
                *matrices("mlp.gate_proj", "mlp.up_proj"),
                *matrices("mlp.down_proj"),
                weights["model.norm.weight"],
                head[0],
                head_scales[0],
                *_rotary(shape),
            ),
        ),
    )


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    contiguous = np.ascontiguousarray(np.asarray(array)).view()
    contiguous.setflags(write=False)
    return contiguous


def _matrices(layers: list[list[FloatArray]], precision: Precision) -> tuple[WeightArray, FloatArray]:
    """Return the matrices of each layer, one below the other, and the scale of each row.

    As float32 (L, rows, columns), as int8, or as packed bytes (L, blocks, bytes), where the processor multiplies
    bytes.
    """
    from gencli.decoding import cpu_tiles

    rows, columns = sum(len(part) for part in layers[0]), layers[0][0].shape[1]
    if precision == "int8" and cpu_tiles.HAS_BYTE_PRODUCTS:
        return _packed(layers, rows, columns)
    if precision == "float32" and len(layers) == len(layers[0]) == 1:
        return layers[0][0][None], np.ones((1, rows), dtype=np.float32)
    stack = np.empty((len(layers), rows, columns), dtype=np.float32)
    for layer, parts in zip(stack, layers, strict=True):
        np.concatenate(parts, out=layer)
    if precision == "float32":
        return stack, np.ones(stack.shape[:-1], dtype=np.float32)
    scales = np.maximum(np.abs(stack).max(axis=-1), np.float32(1e-30)) / np.float32(127)
    rounded = stack / scales[..., None]
    return np.rint(rounded, out=rounded).astype(np.int8), scales


def _packed(layers: list[list[FloatArray]], rows: int, columns: int) -> tuple[WeightArray, FloatArray]:
    """Return the matrices of each layer as packed bytes (L, blocks, bytes), and the scale of each row."""
    from gencli.decoding.cpu_products import no_blocks, pack

    out, scales = no_blocks(len(layers), rows, columns)
    for matrix, row_scales, parts in zip(out, scales, layers, strict=True):
        first = 0
        for part in parts:
            pack(part, first, matrix, row_scales)
            first += len(part)
    return out, scales


def _rotary(shape: Shape) -> tuple[FloatArray, FloatArray]:
    """Return the cosines and sines (context, D / 2) of rotary positions, in float32 throughout."""
    powers = np.arange(0, shape.head_width, 2, dtype=np.float32) / np.float32(shape.head_width)
    speeds = np.float32(1) / np.float32(shape.rope_theta) ** powers
    angles = np.arange(shape.context, dtype=np.float32)[:, None] * speeds
    return np.cos(angles), np.sin(angles)
