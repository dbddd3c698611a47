"""Norm, rotary positions and attention as differentiable functions that pass over memory few times.

On a CPU, training a small model waits for memory more than for arithmetic. Written out one elementary
operation at a time, with a derivative for each, a norm passes over its vectors some twenty times; here,
with the derivative in closed form, nine times. Values are those of the plain formulas, which the tests compare.

Shapes: B rows, T tokens, C width, H heads, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from gencli.model import compiled_norms

QUERIES_AT_ONCE = 128  # rows of the attention matrix that are made together
ROWS_IN_CACHE = 1024  # rows that a norm works on at a time
LONGEST_STORED = 2048  # tokens up to which a step keeps the attention matrix for its backward pass


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x (..., C) over its root mean square, times weight (C,) (Zhang and Sennrich 2019).

    The result has the type in which matrix products are computed.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if x.is_cuda:
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), epsilon).to(dtype)
    if compiled_norms.are_made_of(x, weight):
        return compiled_norms.rms_norm(x, weight, epsilon, dtype)
    return cast(Tensor, _RMSNorm.apply(x, weight, epsilon, dtype))  # type: ignore[no-untyped-call]


def heads_in_place(x: Tensor, weight: Tensor, epsilon: float, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return queries or keys x (B, T, H, D) normalised per head and turned by their positions, (B, H, T, D).

    `weight` (D,) belongs to the norm (Dehghani et al. 2023). `cosines` and `sines`, (T, D / 2) or
    (B, 1, T, D / 2), belong to rotary positions (Su et al. 2021): each pair (x[i], x[i + D/2]) is turned by
    its position's angle.
    """
    return cast(Tensor, _HeadsInPlace.apply(x, weight, epsilon, cosines, sines))  # type: ignore[no-untyped-call]


def masked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q kᵀ / sqrt(D), later tokens masked) v of (B, H, T, D) (Vaswani et al. 2017).

    Some queries at a time, so that most of what the mask hides is never computed.
    """
    size = q.shape
    if q.is_cuda or size[-2] > LONGEST_STORED:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    q, k, v = (t.reshape(-1, *size[-2:]) for t in (q, k, v))
    return cast(Tensor, _MaskedAttention.apply(q, k, v)).view(size)  # type: ignore[no-untyped-call]


def swiglu(joint: Tensor) -> Tensor:
    """Return silu(gate) up (..., F) of the two halves of joint (..., 2 F) (Shazeer 2020)."""
    return cast(Tensor, _SwiGLU.apply(joint))  # type: ignore[no-untyped-call]


def dropout(x: Tensor, share: float) -> Tensor:
    """Return x with about `share` of its components set to zero and the others scaled up (Srivastava et al. 2014).

    On a CPU a random byte decides about each component, eight of them drawn at once, so that the share is a
    multiple of 1/256.
    """
    if x.is_cuda:
        return F.dropout(x, share)
    limit = round(256 * share)
    drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.uint8)[: x.numel()].view(x.shape) >= limit
    return x * kept.to(x.dtype).mul_(256 / (256 - limit))


def _inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    """Return 1 / sqrt(mean(x²) + epsilon) over the last axis, which stays, in float32."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.size(-1)).add_(epsilon).rsqrt_()


class _RMSNorm(Function):
    """y = x r w with r = 1 / rms(x); dx = r (g w - x r² mean(g w x)), dw = sum(g x r)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        inverse = _inverse_rms(x, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        for out, rows, factors in _in_blocks(y, x, inverse):
            out.copy_((rows * factors).mul_(weight))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dw = torch.zeros_like(weight)
        for out, rows, factors, part in _in_blocks(dx, x, inverse, gradient):
            g = part.to(x.dtype)
            products = g * rows  # (N, C)
            dw.addmv_(products.mT, factors[:, 0])
            means = torch.mv(products, weight).mul_(factors[:, 0].pow(3)).div_(-x.size(-1))
            torch.mul(g, weight, out=out).mul_(factors).addcmul_(rows, means.unsqueeze(1))
        return dx, dw, None, None


def _in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield some rows of all tensors (..., C) at a time, few enough to stay in a processor's cache."""
    flat = [tensor.reshape(-1, tensor.size(-1)) for tensor in tensors]
    return zip(*(torch.split(tensor, ROWS_IN_CACHE) for tensor in flat), strict=True)


class _SwiGLU(Function):
    """y = silu(a) b; da = g b silu'(a), db = g silu(a), written side by side as they came."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor) -> Tensor:
        ctx.save_for_backward(joint)
        gate, up = joint.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (joint,) = ctx.saved_tensors
        gate, up = joint.chunk(2, dim=-1)
        d_joint = torch.empty_like(joint)
        d_gate, d_up = d_joint.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=d_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=d_gate)
        return d_joint


class _HeadsInPlace(Function):
    """y1 = x1 w1 r cos - x2 w2 r sin, y2 = x2 w2 r cos + x1 w1 r sin, for the two halves of a head."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, epsilon: float, cosines: Tensor, sines: Tensor
    ) -> Tensor:
        inverse = _inverse_rms(x, epsilon)  # (B, T, H, 1)
        ctx.save_for_backward(x, weight, inverse, cosines, sines)
        unit = (x * inverse.to(x.dtype)).transpose(1, 2)  # (B, H, T, D)
        first, second = unit.chunk(2, dim=-1)
        w1, w2 = weight.chunk(2)
        y = torch.empty(unit.shape, dtype=x.dtype, device=x.device)
        y1, y2 = y.chunk(2, dim=-1)
        torch.mul(first, (cosines * w1).to(x.dtype), out=y1).addcmul_(
            second, (sines * w2).to(x.dtype), value=-1
        )
        torch.mul(second, (cosines * w2).to(x.dtype), out=y2).addcmul_(first, (sines * w1).to(x.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, inverse, cosines, sines = ctx.saved_tensors
        g1, g2 = gradient.chunk(2, dim=-1)  # (B, H, T, D / 2)
        cosine, sine = cosines.to(x.dtype), sines.to(x.dtype)
        turned = torch.empty_like(x)  # g turned back: the gradient of x w r
        t1, t2 = turned.transpose(1, 2).chunk(2, dim=-1)
        torch.mul(g1, cosine, out=t1).addcmul_(g2, sine)
        torch.mul(g2, cosine, out=t2).addcmul_(g1, sine, value=-1)
        w = weight.to(x.dtype)
        products = (turned * x).flatten(0, -2)  # (N, D)
        factors = inverse.flatten()
        means = (products @ w).float().mul_(factors.pow(3)).div_(-x.size(-1)).view_as(inverse)
        dw = (products.mT @ factors.to(x.dtype)).float()
        dx = turned.mul_(w).mul_(inverse.to(x.dtype)).addcmul_(x, means.to(x.dtype))
        return dx, dw, None, None, None


class _MaskedAttention(Function):
    """S = q kᵀ / sqrt(D), P = softmax(S), y = P v; dS = P (dP - sum(P dP)), a block of queries at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = torch.empty_like(q)
        shares = []
        for start in range(0, q.size(1), QUERIES_AT_ONCE):
            end = min(start + QUERIES_AT_ONCE, q.size(1))
            later = torch.full((end - start, end), -math.inf, dtype=q.dtype, device=q.device).triu_(start + 1)
            scores = torch.baddbmm(later, q[:, start:end], k[:, :end].mT, alpha=q.size(-1) ** -0.5)
            share = torch.softmax(scores, dim=-1)  # (N, block, end)
            y[:, start:end] = torch.bmm(share, v[:, :end])
            shares.append(share)
        ctx.save_for_backward(q, k, v, *shares)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, *shares = ctx.saved_tensors
        g = gradient.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        scale = q.size(-1) ** -0.5
        for number, share in enumerate(shares):
            start = number * QUERIES_AT_ONCE
            end = start + share.size(1)
            dv[:, :end].baddbmm_(share.mT, g[:, start:end])
            d_share = torch.bmm(g[:, start:end], v[:, :end].mT)
            d_scores = torch._softmax_backward_data(d_share, share, -1, share.dtype)
            dq[:, start:end] = torch.bmm(d_scores, k[:, :end]).mul_(scale)
            dk[:, :end].baddbmm_(d_scores.mT, q[:, start:end], alpha=scale)
        return dq, dk, dv
