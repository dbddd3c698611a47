"""Norms as differentiable functions that compiled code makes in one pass over memory, on a CPU.

Torch's own operations make them of many passes, over the few numbers of a head at a time: a third of a step of
a small model. Where a compiler makes the whole model anew, or on another device, they are not used.

Shapes: N rows, W width, B rows of a batch of T tokens, H heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from gencli.kernels import machine_code as code

_ELEMENTS = {torch.float32: "float32", torch.bfloat16: "uint16", torch.int64: "int64"}
_norm, _norm_back = code.Function("norms", "norm"), code.Function("norms", "norm_back")
_heads, _heads_back = code.Function("norms", "heads"), code.Function("norms", "heads_back")


def are_made_of(*tensors: Tensor) -> bool:
    """Tell whether compiled code may take these numbers."""
    return not torch.compiler.is_compiling() and all(
        tensor.device.type == "cpu" and tensor.dtype in _ELEMENTS for tensor in tensors
    )


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """Return x (..., W) over its root mean square, times weight (W,), as numbers of a type."""
    return cast(Tensor, _RMSNorm.apply(x, weight, epsilon, dtype))  # type: ignore[no-untyped-call]


def heads(
    joint: Tensor, weights: Tensor, epsilon: float, rotation: tuple[Tensor, Tensor], places: Tensor,
    size: tuple[int, int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return queries (B, H, T, D), keys and values (B, K, T, D) of joint (N, (H + 2 K) D), for the size B, T, H, K.

    Queries and keys are normalised per head by weights (2, D) and turned by their positions, by cosines and sines
    (T, D / 2). What is not in `places` (N,) is zero.
    """
    found = _Heads.apply(joint, weights, epsilon, *rotation, places, size)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor, Tensor]", found)


def _call(function: code.Function, *tensors: Tensor) -> None:
    """Call a function with tensors. NumPy's arrays of them won't do: their memory could then not be given back."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("compiled code takes contiguous tensors")
    given = (code.Numbers(each.data_ptr(), tuple(each.shape), _ELEMENTS[each.dtype]) for each in tensors)
    function.call(*given)()


def _room(weight: Tensor) -> Tensor:
    return torch.empty(weight.size(-1))


def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float32)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        flat = x.reshape(-1, x.size(-1)).contiguous()
        y, inverse = torch.empty(flat.shape, dtype=dtype), torch.empty(len(flat))
        _call(_norm, flat, weight, _number(epsilon), y, inverse)
        ctx.save_for_backward(flat, weight, inverse)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        flat, weight, inverse = ctx.saved_tensors
        dx, dw = torch.empty_like(flat), torch.zeros_like(weight)
        given = gradient.reshape(flat.shape).contiguous()
        _call(_norm_back, flat, weight, inverse, given, dx, dw)
        return dx.view(gradient.shape), dw, None, None


class _Heads(Function):
    @staticmethod
    def forward(
        ctx: Any, joint: Tensor, weights: Tensor, epsilon: float, cosines: Tensor, sines: Tensor,
        places: Tensor, size: tuple[int, int, int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        B, T, H, K = size
        D = weights.size(-1)
        q, k, v = (joint.new_zeros(B, heads, T, D) for heads in (H, K, K))
        inverse = torch.empty(len(places), H + K)
        _call(
            _heads, joint, weights, _number(epsilon), cosines, sines, places, _room(weights), q, k, v, inverse
        )
        ctx.save_for_backward(joint, weights, cosines, sines, places, inverse)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        joint, weights, *_ = ctx.saved_tensors
        out, dw = torch.empty_like(joint), torch.zeros_like(weights)
        given = (each.contiguous() for each in gradients)
        _call(_heads_back, *ctx.saved_tensors, *given, _room(weights), out, dw)
        return out, dw, None, None, None, None, None
