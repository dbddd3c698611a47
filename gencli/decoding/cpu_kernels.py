"""The forward pass of a GPT for the CPU, compiled by Numba: any number of tokens against a key-value cache.

One function, `forward`, serves a prompt (many tokens of one row), a batch (one token of each row) and a
single row. Weights are float32, or int8 with a float32 scale per matrix row; each kind is compiled once, for
all shapes, and the machine code is kept in a file. Arrays are filled by loops throughout, because assigning
slices would double the seconds that compiling takes.

Legend: M tokens, B rows, L layers, W width, H heads, K key-value heads, D head width, F hidden, V vocabulary,
S slots of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit, prange

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.float32]
WeightArray = npt.NDArray[np.float32] | npt.NDArray[np.int8]
IntArray = npt.NDArray[np.int64]
Index = int | np.int64

_Function = TypeVar("_Function", bound="Callable[..., object]")

# sums may be reordered, but a weight that is not a number must still show in the logits
_REORDERED = {"reassoc", "contract", "arcp", "nsz"}


class Weights(NamedTuple):
    """All weights of a model, those of one kind stacked over the layers, and the rotary tables."""

    embedding: FloatArray  # (V, W)
    attention_norms: FloatArray  # (L, W)
    inputs: WeightArray  # (L, (H + 2 K) D, W): queries, keys and values
    input_scales: FloatArray  # (L, (H + 2 K) D)
    query_norms: FloatArray  # (L, D)
    key_norms: FloatArray  # (L, D)
    outputs: WeightArray  # (L, W, H D)
    output_scales: FloatArray  # (L, W)
    mlp_norms: FloatArray  # (L, W)
    gates: WeightArray  # (L, 2 F, W): the gates, then what they let through
    gate_scales: FloatArray  # (L, 2 F)
    downs: WeightArray  # (L, W, F)
    down_scales: FloatArray  # (L, W)
    final_norm: FloatArray  # (W,)
    head: WeightArray  # (V, W)
    head_scales: FloatArray  # (V,)
    cosines: FloatArray  # (context, D / 2)
    sines: FloatArray  # (context, D / 2)


class Cache(NamedTuple):
    """The keys and values of all tokens so far."""

    keys: FloatArray  # (L, B, K, S, D)
    values: FloatArray  # (L, B, K, S, D)


class Places(NamedTuple):
    """Where each of M tokens stands: its row of the cache and its position there."""

    rows: IntArray  # (M,)
    positions: IntArray  # (M,)


def _compiled(*, parallel: bool = False) -> Callable[[_Function], _Function]:
    """Compile at the first call and keep the machine code on disk where some folder can be written."""

    def decorate(function: _Function) -> _Function:
        options = {"fastmath": _REORDERED, "error_model": "numpy", "parallel": parallel}
        try:
            return cast("_Function", njit(cache=True, **options)(function))
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
            return cast("_Function", njit(**options)(function))

    return decorate


@_compiled()
def exponential(x: np.float32) -> np.float32:
    """Return e to the power of x within a millionth of it, in steps that vector instructions have.

    As in Cephes' expf (Moshier 1989): x is a count of ln 2 and a rest; the rest goes through a polynomial,
    the count into the bits of the exponent.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    count = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    rest = x - count * np.float32(0.693359375) + count * np.float32(2.12194440e-4)
    curve = np.float32(1.9875691500e-4)
    curve = curve * rest + np.float32(1.3981999507e-3)
    curve = curve * rest + np.float32(8.3334519073e-3)
    curve = curve * rest + np.float32(4.1665795894e-2)
    curve = curve * rest + np.float32(1.6666665459e-1)
    curve = curve * rest + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(count) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32((curve * rest * rest + rest + np.float32(1)) * power)


@_compiled()
def _four_outputs(
    weights: WeightArray, scales: FloatArray, first: Index, x: FloatArray, out: FloatArray
) -> None:
    """Set four columns of out (M, rows) to x (M, columns) times four rows of the weights (rows, columns).

    Four tokens at a time, so that a weight is loaded once for four products and sixteen running sums hide
    how long one addition takes.
    """
    w0, w1, w2, w3 = weights[first], weights[first + 1], weights[first + 2], weights[first + 3]
    zero = np.float32(0)
    tokens, columns = x.shape
    by_fours = tokens // 4 * 4
    for token in range(0, by_fours, 4):
        a, b, c, d = x[token], x[token + 1], x[token + 2], x[token + 3]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
        c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = zero
        for i in range(columns):
            p, q, r, s = np.float32(w0[i]), np.float32(w1[i]), np.float32(w2[i]), np.float32(w3[i])
            a0, a1, a2, a3 = a0 + p * a[i], a1 + q * a[i], a2 + r * a[i], a3 + s * a[i]
            b0, b1, b2, b3 = b0 + p * b[i], b1 + q * b[i], b2 + r * b[i], b3 + s * b[i]
            c0, c1, c2, c3 = c0 + p * c[i], c1 + q * c[i], c2 + r * c[i], c3 + s * c[i]
            d0, d1, d2, d3 = d0 + p * d[i], d1 + q * d[i], d2 + r * d[i], d3 + s * d[i]
        for i, sums in enumerate(((a0, b0, c0, d0), (a1, b1, c1, d1), (a2, b2, c2, d2), (a3, b3, c3, d3))):
            scale = scales[first + i]
            for j in range(4):
                out[token + j, first + i] = sums[j] * scale
    for token in range(by_fours, tokens):
        a = x[token]
        a0 = a1 = a2 = a3 = zero
        for i in range(columns):
            a0, a1 = a0 + np.float32(w0[i]) * a[i], a1 + np.float32(w1[i]) * a[i]
            a2, a3 = a2 + np.float32(w2[i]) * a[i], a3 + np.float32(w3[i]) * a[i]
        for i, total in enumerate((a0, a1, a2, a3)):
            out[token, first + i] = total * scales[first + i]


@_compiled(parallel=True)
def _product_by_threads(weights: WeightArray, scales: FloatArray, x: FloatArray, out: FloatArray) -> None:
    for four in prange(weights.shape[0] // 4):
        _four_outputs(weights, scales, 4 * np.int64(four), x, out)


@_compiled()
def _product(
    weights: WeightArray, scales: FloatArray, x: FloatArray, out: FloatArray, worth_threads: int
) -> None:
    """Set out (M, rows) to x (M, columns) times the transposed weights (rows, columns), each row scaled."""
    rows, columns = weights.shape
    if weights.size * x.shape[0] >= worth_threads:
        _product_by_threads(weights, scales, x, out)
    else:
        for four in range(rows // 4):
            _four_outputs(weights, scales, 4 * four, x, out)
    for row in range(rows // 4 * 4, rows):
        for token in range(x.shape[0]):
            total = np.float32(0)
            for i in range(columns):
                total += np.float32(weights[row, i]) * x[token, i]
            out[token, row] = total * scales[row]


@_compiled()
def _norm_factor(vector: FloatArray, epsilon: np.float32) -> np.float32:
    """Return what RMSNorm multiplies a vector by (Zhang and Sennrich 2019)."""
    total = np.float32(0)
    for i in range(vector.size):
        total += vector[i] * vector[i]
    return np.float32(np.float32(1) / np.sqrt(total / np.float32(vector.size) + epsilon))


@_compiled()
def _norm(x: FloatArray, weight: FloatArray, epsilon: np.float32, out: FloatArray) -> None:
    """Set out (M, W) to the RMSNorm of x (M, W)."""
    for token in range(x.shape[0]):
        factor = _norm_factor(x[token], epsilon)
        for i in range(x.shape[1]):
            out[token, i] = x[token, i] * factor * weight[i]


@_compiled()
def _norm_and_turn(
    vector: FloatArray,
    weight: FloatArray,
    factor: np.float32,
    cosines: FloatArray,
    sines: FloatArray,
    out: FloatArray,
) -> None:
    """Set out (D) to one head's normed query or key, turned to its position (Su et al. 2021).

    The i-th number turns with the i-th of the second half, as Hugging Face has it.
    """
    half = vector.size // 2
    for i in range(half):
        a, b = vector[i] * factor * weight[i], vector[i + half] * factor * weight[i + half]
        out[i] = a * cosines[i] - b * sines[i]
        out[i + half] = b * cosines[i] + a * sines[i]


@_compiled()
def _enter(
    inputs: FloatArray,
    layer: int,
    weights: Weights,
    cache: Cache,
    places: Places,
    epsilon: np.float32,
    queries: FloatArray,
) -> None:
    """Split inputs (M, (H + 2 K) D) into queries (M, H, D) and what is added to the cache."""
    heads, width = queries.shape[1:]
    shared = cache.keys.shape[2]
    for token in range(inputs.shape[0]):
        row, position = places.rows[token], places.positions[token]
        cosines, sines = weights.cosines[position], weights.sines[position]
        for head in range(heads + 2 * shared):
            vector = inputs[token, head * width : (head + 1) * width]
            factor = _norm_factor(vector, epsilon)
            if head < heads:
                out, norm = queries[token, head], weights.query_norms[layer]
                _norm_and_turn(vector, norm, factor, cosines, sines, out)
            elif head < heads + shared:
                out, norm = cache.keys[layer, row, head - heads, position], weights.key_norms[layer]
                _norm_and_turn(vector, norm, factor, cosines, sines, out)
            else:
                for i in range(width):
                    cache.values[layer, row, head - heads - shared, position, i] = vector[i]


@_compiled()
def _attend(
    item: Index,
    layer: int,
    queries: FloatArray,
    cache: Cache,
    places: Places,
    scores: FloatArray,
    out: FloatArray,
) -> None:
    """Set one of the M H heads of out (M, H, D) to the values up to its token, weighted by keys and query."""
    token, head = item // queries.shape[1], item % queries.shape[1]
    shared = head // (queries.shape[1] // cache.keys.shape[2])
    row, seen = places.rows[token], places.positions[token] + 1
    query, found, score = queries[token, head], out[token, head], scores[item]
    keys, values = cache.keys[layer, row, shared], cache.values[layer, row, shared]
    zero, width = np.float32(0), query.size
    scale = np.float32(1) / np.sqrt(np.float32(width))
    by_fours = seen // 4 * 4
    for slot in range(0, by_fours, 4):
        k0, k1, k2, k3 = keys[slot], keys[slot + 1], keys[slot + 2], keys[slot + 3]
        a = b = c = d = zero
        for i in range(width):
            a, b = a + k0[i] * query[i], b + k1[i] * query[i]
            c, d = c + k2[i] * query[i], d + k3[i] * query[i]
        score[slot], score[slot + 1], score[slot + 2], score[slot + 3] = a, b, c, d
    for slot in range(by_fours, seen):
        a = zero
        for i in range(width):
            a += keys[slot, i] * query[i]
        score[slot] = a
    peak = score[0]
    for slot in range(seen):
        peak = max(peak, score[slot])
    total = zero
    for slot in range(seen):
        score[slot] = exponential((score[slot] - peak) * scale)
        total += score[slot]
    for i in range(width):
        found[i] = zero
    for slot in range(0, by_fours, 4):
        v0, v1, v2, v3 = values[slot], values[slot + 1], values[slot + 2], values[slot + 3]
        a, b, c, d = score[slot], score[slot + 1], score[slot + 2], score[slot + 3]
        for i in range(width):
            found[i] += a * v0[i] + b * v1[i] + c * v2[i] + d * v3[i]
    for slot in range(by_fours, seen):
        for i in range(width):
            found[i] += score[slot] * values[slot, i]
    for i in range(width):
        found[i] /= total


@_compiled(parallel=True)
def _attention_by_threads(
    layer: int, queries: FloatArray, cache: Cache, places: Places, scores: FloatArray, out: FloatArray
) -> None:
    for item in prange(scores.shape[0]):
        _attend(np.int64(item), layer, queries, cache, places, scores, out)


@_compiled()
def _gate(both: FloatArray, out: FloatArray) -> None:
    """Set out (M, F) to SiLU of the first half of both (M, 2 F) times the second half (Shazeer 2020)."""
    hidden = out.shape[1]
    for token in range(out.shape[0]):
        for i in range(hidden):
            gate = both[token, i]
            out[token, i] = gate / (np.float32(1) + exponential(-gate)) * both[token, hidden + i]


@_compiled()
def _add(x: FloatArray, change: FloatArray) -> None:
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[token, i] += change[token, i]


@_compiled()
def forward(
    tokens: IntArray,
    places: Places,
    wanted: IntArray,
    weights: Weights,
    cache: Cache,
    epsilon: np.float32,
    worth_threads: int,
) -> FloatArray:
    """Return the logits (wanted, V) after some of M tokens, and add all of them to the cache.

    The tokens of a row come in order, and all before them are in the cache. `wanted` are the indices of
    those tokens whose logits are asked for. Work of `worth_threads` multiplications and more is shared
    by Numba's threads; the logits are the same either way.
    """
    count, width = tokens.size, weights.embedding.shape[1]
    head_width, hidden = weights.query_norms.shape[1], weights.downs.shape[2]
    heads = weights.outputs.shape[2] // head_width
    seen = longest = 0
    for position in places.positions:
        seen, longest = seen + position + 1, max(longest, position + 1)
    x = np.empty((count, width), np.float32)
    normed, change = np.empty_like(x), np.empty_like(x)
    inputs = np.empty((count, weights.inputs.shape[1]), np.float32)
    queries = np.empty((count, heads, head_width), np.float32)
    mixed = np.empty_like(queries)
    scores = np.empty((count * heads, longest), np.float32)
    both, inner = np.empty((count, 2 * hidden), np.float32), np.empty((count, hidden), np.float32)
    for token in range(count):
        for i in range(width):
            x[token, i] = weights.embedding[tokens[token], i]
    for layer in range(weights.inputs.shape[0]):
        _norm(x, weights.attention_norms[layer], epsilon, normed)
        _product(weights.inputs[layer], weights.input_scales[layer], normed, inputs, worth_threads)
        _enter(inputs, layer, weights, cache, places, epsilon, queries)
        if 2 * heads * head_width * seen >= worth_threads:
            _attention_by_threads(layer, queries, cache, places, scores, mixed)
        else:
            for item in range(count * heads):
                _attend(item, layer, queries, cache, places, scores, mixed)
        joined = mixed.reshape(count, heads * head_width)
        _product(weights.outputs[layer], weights.output_scales[layer], joined, change, worth_threads)
        _add(x, change)
        _norm(x, weights.mlp_norms[layer], epsilon, normed)
        _product(weights.gates[layer], weights.gate_scales[layer], normed, both, worth_threads)
        _gate(both, inner)
        _product(weights.downs[layer], weights.down_scales[layer], inner, change, worth_threads)
        _add(x, change)
    for place in range(wanted.size):
        for i in range(width):
            change[place, i] = x[wanted[place], i]
    _norm(change, weights.final_norm, epsilon, normed)
    logits = np.empty((wanted.size, weights.head.shape[0]), np.float32)
    _product(weights.head, weights.head_scales, normed[: wanted.size], logits, worth_threads)
    return logits
