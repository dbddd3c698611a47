"""The forward pass of a GPT for the CPU, compiled by Numba: any number of tokens against a key-value cache.

One function, `forward`, serves a prompt (many tokens of one row), a batch (one token of each row) and a
single row. Weights are float32, or int8 with a float32 scale per matrix row; each kind is compiled once, for
all shapes, and the machine code is kept in a file. Arrays are filled by loops throughout, because assigning
slices would double the seconds that compiling takes.

Legend: M tokens, B rows, L layers, W width, H heads, K key-value heads, D head width, F hidden, V vocabulary,
S slots of the cache.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import prange

from gencli.compiled import compiled
from gencli.decoding.cpu_attention import Cache, Places, attend, enter, exponential, norm_factor
from gencli.decoding.cpu_products import OPTIONS, WeightArray, product

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

NEVER = 1 << 62  # multiplications that are worth threads
Index = int | np.int64

_compiled = functools.partial(compiled, "cpu_attention", "cpu_products", "cpu_tiles", **OPTIONS)


class Weights(NamedTuple):
    """All weights of a model, those of one kind stacked over the layers, and the rotary tables.

    Where bytes are packed, a matrix (rows, columns) is one (blocks, bytes), with scales for all rows of the blocks.
    """

    heads: int
    hidden: int

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


@_compiled()
def _norm(x: FloatArray, weight: FloatArray, epsilon: np.float32, out: FloatArray) -> None:
    """Set out (M, W) to the RMSNorm of x (M, W)."""
    for token in range(x.shape[0]):
        factor = norm_factor(x[token], epsilon)
        for i in range(x.shape[1]):
            out[token, i] = x[token, i] * factor * weight[i]


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
    """Return the logits (wanted, V or more) after some of M tokens, and add all of them to the cache.

    The tokens of a row come in order, and all before them are in the cache. `wanted` are the indices of
    those tokens whose logits are asked for. Work of `worth_threads` multiplications and more is shared
    by Numba's threads; the logits are the same either way.
    """
    count, width = tokens.size, weights.embedding.shape[1]
    heads, hidden, head_width = weights.heads, weights.hidden, weights.query_norms.shape[1]
    x = np.empty((count, width), np.float32)
    normed, change = np.empty_like(x), np.empty((count, weights.output_scales.shape[1]), np.float32)
    inputs = np.empty((count, weights.input_scales.shape[1]), np.float32)
    queries = np.empty((count, heads, head_width), np.float32)
    joined = np.empty((count, heads * head_width), np.float32)
    both = np.empty((count, weights.gate_scales.shape[1]), np.float32)
    inner = np.empty((count, hidden), np.float32)
    for token in range(count):
        for i in range(width):
            x[token, i] = weights.embedding[tokens[token], i]
    for layer in range(weights.inputs.shape[0]):
        _norm(x, weights.attention_norms[layer], epsilon, normed)
        product(weights.inputs[layer], weights.input_scales[layer], normed, inputs, worth_threads)
        norms = (weights.query_norms[layer], weights.key_norms[layer])
        keys_and_values = Cache(
            cache.keys[layer], cache.values[layer], cache.key_scales[layer], cache.value_scales[layer]
        )
        enter(inputs, norms, weights.cosines, weights.sines, keys_and_values, places, epsilon, queries)
        attend(queries, keys_and_values, places, joined, worth_threads)
        product(weights.outputs[layer], weights.output_scales[layer], joined, change, worth_threads)
        _add(x, change)
        _norm(x, weights.mlp_norms[layer], epsilon, normed)
        product(weights.gates[layer], weights.gate_scales[layer], normed, both, worth_threads)
        _gate(both, inner)
        product(weights.downs[layer], weights.down_scales[layer], inner, change, worth_threads)
        _add(x, change)
    last, final = np.empty((wanted.size, width), np.float32), np.empty((wanted.size, width), np.float32)
    for place in range(wanted.size):
        for i in range(width):
            last[place, i] = x[wanted[place], i]
    _norm(last, weights.final_norm, epsilon, final)
    logits = np.empty((wanted.size, weights.head_scales.size), np.float32)
    product(weights.head, weights.head_scales, final, logits, worth_threads)
    return logits


@_compiled(parallel=True)
def forward_apart(
    tokens: IntArray,
    places: Places,
    weights: Weights,
    cache: Cache,
    epsilon: np.float32,
    parts: int,
) -> FloatArray:
    """Return the logits (M, V or more) after each of M tokens, every one in a row of its own.

    Each of `parts` threads takes some rows through all layers: they need not wait for each other, and weights
    that one has read the other finds in the cache of the processor.
    """
    count = tokens.size
    logits = np.empty((count, weights.head_scales.size), np.float32)
    for part in prange(parts):
        start, end = count * np.int64(part) // parts, count * (np.int64(part) + 1) // parts
        some = Places(places.rows[start:end], places.positions[start:end])
        wanted = np.arange(end - start)
        logits[start:end] = forward(tokens[start:end], some, wanted, weights, cache, epsilon, NEVER)
    return logits
