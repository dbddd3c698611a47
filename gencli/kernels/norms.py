"""Norms of a training step, forwards and backwards, each in one pass over memory.

Numbers are float32, or bfloat16 in uint16. `room` is scratch, (W,) or (D,).

Legend: N rows, W width, B rows of a batch of T tokens each, H heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gencli.kernels import rows
from gencli.kernels.compiling import kernel

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[Any]


@kernel
def norm(x: Numbers, weight: FloatArray, epsilon: FloatArray, out: Numbers, inverse: FloatArray) -> None:
    """Set out (N, W) to x (N, W) over its root mean square, `inverse` (N,) of which is kept, times weight (W,)."""
    for n in range(x.shape[0]):
        inverse[n] = rows.norm((x[n], weight, out[n]), x.shape[1], epsilon[0])


@kernel
def norm_back(
    x: Numbers, weight: FloatArray, inverse: FloatArray, g: Numbers, dx: Numbers, dw: FloatArray
) -> None:
    """Set dx (N, W) to the gradient of x, from g (N, W) of what became of it, and add that of the weight to dw."""
    for n in range(x.shape[0]):
        rows.norm_back((x[n], weight, g[n], dx[n], dw), x.shape[1], inverse[n])


@kernel
def heads(
    joint: Numbers, weights: FloatArray, epsilon: FloatArray, cosines: FloatArray, sines: FloatArray,
    places: IntArray, room: FloatArray, q: Numbers, k: Numbers, v: Numbers, inverse: FloatArray,
) -> None:  # fmt: skip
    """Write the queries, keys and values side by side in joint (N, (H + 2 K) D) to their places of a batch.

    Those are q (B, H, T, D), k and v (B, K, T, D). Queries and keys are normalised by head, by weights (2, D),
    and turned by the angles whose cosines and sines are (T, D / 2); `inverse` (N, H + K) is what by.
    """
    H, K, T, D = q.shape[1], k.shape[1], q.shape[2], q.shape[3]
    for n in range(places.size):
        b, t = places[n] // T, places[n] % T
        for h in range(H + K):
            out = q[b, h, t] if h < H else k[b, h - H, t]
            weight = weights[0] if h < H else weights[1]
            inverse[n, h] = rows.norm((joint[n, h * D : (h + 1) * D], weight, room), D, epsilon[0])
            rows.turn((room, cosines[t], sines[t], out), D // 2, np.float32(1))
        for h in range(K):
            rows.copy((joint[n, (H + K + h) * D : (H + K + h + 1) * D], v[b, h, t]), D, np.float32(0))


@kernel
def heads_back(
    joint: Numbers, weights: FloatArray, cosines: FloatArray, sines: FloatArray, places: IntArray,
    inverse: FloatArray, dq: Numbers, dk: Numbers, dv: Numbers, room: FloatArray, out: Numbers, dw: FloatArray,
) -> None:  # fmt: skip
    """Set out (N, (H + 2 K) D) to the gradient of `joint`, from those of what `heads` wrote; add to dw (2, D)."""
    H, K, T, D = dq.shape[1], dk.shape[1], dq.shape[2], dq.shape[3]
    for n in range(places.size):
        b, t = places[n] // T, places[n] % T
        for h in range(H + K):
            which = 0 if h < H else 1
            g = dq[b, h, t] if h < H else dk[b, h - H, t]
            rows.turn((g, cosines[t], sines[t], room), D // 2, np.float32(-1))
            raw, back = joint[n, h * D : (h + 1) * D], out[n, h * D : (h + 1) * D]
            rows.norm_back((raw, weights[which], room, back, dw[which]), D, inverse[n, h])
        for h in range(K):
            rows.copy((dv[b, h, t], out[n, (H + K + h) * D : (H + K + h + 1) * D]), D, np.float32(0))
