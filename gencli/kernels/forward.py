"""The forward pass of a GPT for the CPU: any number of tokens against a key-value cache.

One function serves a prompt (many tokens of one row), a batch (one token of each row) and a single row. Threads
share the rows of each matrix and wait for each other after each, or each takes some rows of the batch through
all layers. Arrays are filled by loops throughout, because assigning slices would double the seconds that
compiling takes.

Legend: M tokens, B rows, L layers, W width, H heads, K key-value heads, D head width, F hidden, V vocabulary,
S slots of the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gencli.kernels import layout
from gencli.kernels.attention import Cache, CacheArray, Places, attend, enter, exponential, norm_factor
from gencli.kernels.compiling import inlined, kernel, matrix_at
from gencli.kernels.crew import THREADS, meet, share
from gencli.kernels.products import Rounded, WeightArray, part, product, rounded

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_MANY = 4  # tokens for each thread, from which on they share what is done token by token


class _Model(NamedTuple):
    """A model: addresses of its weights, as `layout` has them, and what tells their kind."""

    sizes: IntArray
    weights: IntArray  # (L + 1, words)
    like: WeightArray  # of the kind of the matrices
    embedding: FloatArray  # (V, W)
    cosines: FloatArray  # (context, D / 2)
    sines: FloatArray  # (context, D / 2)
    epsilon: np.float32


class _Work(NamedTuple):
    """A thread's part of the work."""

    private: IntArray  # addresses of scratch that no other thread uses,
    own: IntArray  # of what is done token by token, by each thread for itself or shared out,
    common: IntArray  # and of what all threads write
    job: IntArray
    thread: int
    threads: int
    first: int  # of the tokens whose norms and the like it computes
    end: int
    waits: int  # whether others compute those of other tokens


@kernel
def _add(x: FloatArray, change: FloatArray, first: int, end: int) -> None:
    for token in range(first, end):
        for i in range(x.shape[1]):
            x[token, i] += change[token, i]


@kernel
def _norm(
    x: FloatArray, weight: FloatArray, epsilon: np.float32, out: FloatArray, first: int, end: int
) -> None:
    """Set some tokens of out (M, W) to the RMSNorm of x (M, W); the weight is (1, W)."""
    for token in range(first, end):
        factor = norm_factor(x[token], epsilon)
        for i in range(x.shape[1]):
            out[token, i] = x[token, i] * factor * weight[0, i]


@kernel
def _gate(gates: FloatArray, ups: FloatArray, out: FloatArray, first: int, end: int) -> None:
    """Set some columns of out (M, F) to SiLU of the gates times what they let through (Shazeer 2020)."""
    for token in range(out.shape[0]):
        some, through, opened = gates[token, first:end], ups[token, first:end], out[token, first:end]
        for i in range(some.size):
            opened[i] = some[i] / (np.float32(1) + exponential(-some[i])) * through[i]


@kernel
def _wait(work: _Work) -> None:
    """Wait for the other threads, where tokens are shared out."""
    if work.waits:
        meet(work.job, work.threads)


@kernel
def _room(table: IntArray, tokens: int, columns: int) -> Rounded:
    """Return scratch for rounded vectors of so many columns."""
    groups = (columns + layout.GROUP - 1) // layout.GROUP
    return Rounded(
        matrix_at(table[layout.NUMBERS], tokens, groups * layout.GROUP, np.int8),
        matrix_at(table[layout.FACTORS], tokens, groups, np.float32),
        matrix_at(table[layout.CORRECTIONS], tokens, groups, np.int32),
    )


@kernel
def _product(
    x: FloatArray, room: Rounded, place: IntArray, rows: int, scratch: int, like: WeightArray, work: _Work
) -> FloatArray:
    """Return x (M, columns) times a matrix, as (M, rows filled up to blocks); this thread writes its part."""
    columns = (rows + layout.BLOCK - 1) // layout.BLOCK * layout.BLOCK
    out = matrix_at(work.common[scratch], x.shape[0], columns, np.float32)
    product(place, rows, x, room, out, like, work.thread, work.threads)
    return out


@inlined
def _normed(x: FloatArray, weight: int, model: _Model, work: _Work) -> tuple[FloatArray, Rounded]:
    """Return x (M, W) normed with the weight at an address, and as what packed weights are multiplied by."""
    count, width = x.shape
    normed = matrix_at(work.own[layout.NORMED], count, width, np.float32)
    room = _room(work.own, count, width)
    _norm(x, matrix_at(weight, 1, width, np.float32), model.epsilon, normed, work.first, work.end)
    rounded(normed, work.first, work.end, room, model.like)
    _wait(work)
    return normed, room


@inlined
def _change(x: FloatArray, place: IntArray, model: _Model, work: _Work) -> FloatArray:
    """Return what all threads have made of x (M, columns) with a matrix (W, columns), as (M, W or more)."""
    room = _room(work.own, x.shape[0], x.shape[1])
    rounded(x, work.first, work.end, room, model.like)
    _wait(work)
    change = _product(x, room, place, model.sizes[layout.WIDTH], layout.CHANGE, model.like, work)
    meet(work.job, work.threads)
    return change


@inlined
def _attention(
    x: FloatArray, weights: IntArray, model: _Model, cache: Cache, places: Places, work: _Work
) -> FloatArray:
    """Return what attention adds to x (M, W), as (M, W or more)."""
    heads, shared, head_width = model.sizes[layout.HEADS : layout.HIDDEN]
    count = x.shape[0]
    normed, room = _normed(x, weights[layout.ATTENTION_NORM], model, work)
    place, attention, some = weights[layout.QUERY :], heads * head_width, shared * head_width
    inputs = (
        _product(normed, room, place, attention, layout.RAW_QUERIES, model.like, work),
        _product(normed, room, weights[layout.KEY :], some, layout.RAW_KEYS, model.like, work),
        _product(normed, room, weights[layout.VALUE :], some, layout.RAW_VALUES, model.like, work),
    )
    meet(work.job, work.threads)
    queries = matrix_at(work.own[layout.QUERIES], count * heads, head_width, np.float32)
    slots = model.sizes[layout.SLOTS]
    scratch = matrix_at(work.private[layout.ROOM], layout.ROOM_ROWS, slots, np.float32)
    seen = Rounded(
        matrix_at(work.private[layout.SEEN_NUMBERS], 1, slots, np.int8),
        matrix_at(work.private[layout.SEEN_FACTORS], 1, slots // layout.KEY_GROUP, np.float32),
        matrix_at(work.private[layout.SEEN_CORRECTIONS], 1, slots // layout.KEY_GROUP, np.int32),
    )
    norms = (
        matrix_at(weights[layout.QUERY_NORM], 1, head_width, np.float32)[0],
        matrix_at(weights[layout.KEY_NORM], 1, head_width, np.float32)[0],
    )
    turns, own = (model.cosines, model.sines), (work.first, work.end)
    enter(inputs, norms, turns, cache, places, own, model.epsilon, queries, scratch)
    _wait(work)
    joined = matrix_at(work.common[layout.JOINED], count, attention, np.float32)
    first, end = share(count * heads, work.thread, work.threads)
    attend(first, end, queries, cache, places, scratch, seen, joined)
    meet(work.job, work.threads)
    return _change(joined, weights[layout.OUTPUT :], model, work)


@inlined
def _mlp(x: FloatArray, weights: IntArray, model: _Model, work: _Work) -> FloatArray:
    """Return what the MLP adds to x (M, W), as (M, W or more)."""
    hidden, count = model.sizes[layout.HIDDEN], x.shape[0]
    normed, room = _normed(x, weights[layout.MLP_NORM], model, work)
    gates = _product(normed, room, weights[layout.GATE :], hidden, layout.GATES, model.like, work)
    ups = _product(normed, room, weights[layout.UP :], hidden, layout.UPS, model.like, work)
    inner = matrix_at(work.common[layout.INNER], count, hidden, np.float32)
    first, end = part(hidden, work.thread, work.threads)
    _gate(gates, ups, inner, first, end)
    meet(work.job, work.threads)
    return _change(inner, weights[layout.DOWN :], model, work)


@inlined
def _logits(x: FloatArray, wanted: IntArray, model: _Model, logits: FloatArray, work: _Work) -> None:
    """Set a thread's part of the logits (wanted, V or more) after some of the tokens of x (M, W)."""
    width, weights = model.sizes[layout.WIDTH], model.weights[model.sizes[layout.LAYERS]]
    last = matrix_at(work.private[layout.LAST], wanted.size, width, np.float32)
    normed = matrix_at(work.private[layout.NORMED], wanted.size, width, np.float32)
    for place in range(wanted.size):
        for i in range(width):
            last[place, i] = x[wanted[place], i]
    weight, room = (
        matrix_at(weights[layout.FINAL_NORM], 1, width, np.float32),
        _room(work.private, wanted.size, width),
    )
    _norm(last, weight, model.epsilon, normed, 0, wanted.size)
    rounded(normed, 0, wanted.size, room, model.like)
    product(
        weights[layout.HEAD :], model.sizes[layout.VOCABULARY], normed, room, logits, model.like,
        work.thread, work.threads,
    )  # fmt: skip


@inlined
def _through(
    tokens: IntArray,
    places: Places,
    wanted: IntArray,
    model: _Model,
    cache: Cache,
    logits: FloatArray,
    work: _Work,
) -> None:
    width, layers = model.sizes[layout.WIDTH], model.sizes[layout.LAYERS]
    x = matrix_at(work.own[layout.X], tokens.size, width, np.float32)
    for token in range(work.first, work.end):
        for i in range(width):
            x[token, i] = model.embedding[tokens[token], i]
    for layer in range(layers):
        part_of_cache = Cache(
            cache.keys[layer], cache.values[layer], cache.key_scales[layer], cache.value_scales[layer]
        )
        weights = model.weights[layer]
        _add(x, _attention(x, weights, model, part_of_cache, places, work), work.first, work.end)
        _add(x, _mlp(x, weights, model, work), work.first, work.end)
    _wait(work)
    _logits(x, wanted, model, logits, work)


@kernel
def forward(
    tokens: IntArray,
    rows: IntArray,
    positions: IntArray,
    wanted: IntArray,
    counts: IntArray,
    sizes: IntArray,
    weights: IntArray,
    like: WeightArray,
    embedding: FloatArray,
    cosines: FloatArray,
    sines: FloatArray,
    epsilon: FloatArray,
    keys: CacheArray,
    values: CacheArray,
    key_scales: FloatArray,
    value_scales: FloatArray,
    scratch: IntArray,
    logits: FloatArray,
    job: IntArray,
    thread: int,
) -> None:
    """Set the logits (wanted, V or more) after some of M tokens, and add all of them to the cache.

    The tokens of a row come in order, and all before them are in the cache. `wanted` are the indices of those
    tokens whose logits are asked for. `counts` are M, the number of the wanted ones, and whether each thread takes
    tokens, of rows of their own, through all layers. The logits are the same with any number of threads.
    """
    model = _Model(sizes, weights, like, embedding, cosines, sines, epsilon[0])
    cache, threads = Cache(keys, values, key_scales, value_scales), job[THREADS]
    count, asked = counts[layout.TOKENS], wanted[: counts[layout.WANTED]]
    own = scratch[thread]
    if counts[layout.APART]:
        first, end = share(count, thread, threads)
        if end > first:
            work = _Work(own, own, own, job, 0, 1, 0, end - first, 0)
            places = Places(rows[first:end], positions[first:end])
            _through(tokens[first:end], places, asked[: end - first], model, cache, logits[first:end], work)
        return
    first, end, shared = 0, count, 0
    if threads > 1 and count >= _MANY * threads:
        first, end = share(count, thread, threads)
        own, shared = scratch[0], 1
    work = _Work(scratch[thread], own, scratch[0], job, thread, threads, first, end, shared)
    _through(tokens[:count], Places(rows[:count], positions[:count]), asked, model, cache, logits, work)
