"""Runs a GPT on the CPU without torch: a key-value cache around the compiled forward pass.

Weights stay float32, or are rounded to int8 with a float32 scale per matrix row, which reads a quarter of
the memory for every token. The embedding and the norms are float32 in both cases.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gencli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gencli.decoding.cpu_kernels import WeightArray, Weights
    from gencli.model.shape import Shape

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Precision = Literal["float32", "int8"]

_BLOCK = 64  # tokens of a prompt that go through the layers together
_NEVER = 1 << 62  # multiplications
# the multiplications that one thread does while others are woken, by what wakes them
_WORTH_THREADS = {"omp": 40_000, "tbb": 100_000, "workqueue": 4_000_000}


class Pace:
    """Tells whether steps are faster with several threads at the moment, from what steps took.

    A step waits for all threads at every product. Alone on the machine that pays; with other programs on
    its cores, a step can take a hundred times as long as on one thread. The logits are the same both ways.
    """

    def __init__(self) -> None:
        self._seconds = {False: 0.0, True: 0.0}
        self._since = 0.0

    def together(self) -> bool:
        """Return the faster way, and the slower one whenever trying it costs a 25th of the time."""
        slower = max(self._seconds, key=self._seconds.__getitem__)
        return slower if self._since >= 25 * self._seconds[slower] else not slower

    def took(self, together: bool, seconds: float) -> None:
        """Take note of what a step took: an average for the faster way, the last try of the slower one."""
        known = self._seconds[together]
        slower = max(self._seconds, key=self._seconds.__getitem__)
        self._since = 0.0 if together == slower else self._since + seconds
        if known and together != slower:
            seconds = 0.75 * known + 0.25 * seconds
        self._seconds[together] = seconds


class CpuEngine:
    """Turns tokens into logits, a row of the batch at its own position.

    `weights` holds float32 arrays under the names of Shape.tensors(), norms with one dimension.
    `threads` is at most the number of cores; None takes them all.
    """

    name = "cpu"

    def __init__(
        self,
        shape: Shape,
        weights: Mapping[str, npt.NDArray[np.float32]],
        *,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.context, self.vocabulary = shape.context, shape.vocabulary
        self.lengths: list[int] = []
        self._shape = shape
        self._worth_threads = _worth_threads(threads)
        self._prompt_pace, self._step_pace = Pace(), Pace()
        self._rows = np.empty(0, dtype=np.int64)
        self._weights = _stacked(shape, weights, precision)
        self._keys = self._values = np.empty((0, 0, 0, 0, 0), dtype=np.float32)

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> FloatArray:
        """Read the prompts into a new cache; return the logits [B · copies, V] after each.

        Each prompt is computed once and its row repeated `copies` times, prompt 0's copies first. The
        cache holds `slots` tokens a row, at most the context. Raises UsageError for an empty prompt and
        one that doesn't fit.
        """
        slots = min(slots, self.context)
        for prompt in prompts:
            if not 0 < len(prompt) <= slots:
                raise UsageError(f"a prompt must have from 1 to {slots} tokens here, not {len(prompt)}")
        shape = self._shape
        size = (shape.layers, len(prompts) * copies, shape.kv_heads, slots, shape.head_width)
        self._keys, self._values = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        logits = np.empty((len(prompts), self.vocabulary), dtype=np.float32)
        for place, prompt in enumerate(prompts):
            row, end = place * copies, len(prompt)
            logits[place] = self._prefilled(np.asarray(prompt, dtype=np.int64), row)
            for cache in (self._keys, self._values):
                cache[:, row + 1 : row + copies, :, :end] = cache[:, row : row + 1, :, :end]
        self.lengths = [len(prompt) for prompt in prompts for _ in range(copies)]
        self._rows = np.arange(len(self.lengths))
        return logits.repeat(copies, axis=0)

    def each(self, tokens: Sequence[int]) -> Iterator[FloatArray]:
        """Read a text into a new cache; yield the logits [T, V] after every token, some tokens at a time.

        Raises UsageError for no token and for more than the context holds.
        """
        ids, row = np.asarray(tokens, dtype=np.int64), np.zeros(_BLOCK, dtype=np.int64)
        if ids.size > self.context:
            raise UsageError(f"{ids.size:,} tokens don't fit into a context of {self.context:,}")
        yield self.start([tokens[:1]], slots=ids.size)
        for start in range(1, ids.size, _BLOCK):
            block = ids[start : start + _BLOCK]
            places = np.arange(start, start + block.size)
            every = np.arange(block.size)
            yield self._forward(block, row[: block.size], places, every, self._prompt_pace)
        self.lengths = [ids.size]

    def step(self, tokens: npt.ArrayLike) -> FloatArray:
        """Append one token to every row; return the logits [B · copies, V] for the next.

        Raises UsageError when a row's cache is full.
        """
        if max(self.lengths) >= self._keys.shape[3]:
            raise UsageError(f"the {self._keys.shape[3]} slots of the cache are full")
        positions = np.array(self.lengths, dtype=np.int64)
        every = np.arange(positions.size)
        logits = self._forward(
            np.asarray(tokens, dtype=np.int64), self._rows, positions, every, self._step_pace
        )
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def extend(self, tokens: Sequence[int], *, after: int) -> FloatArray:
        """Forget all but the first `after` tokens of the only row, read more; return the logits [1, V] then.

        Raises UsageError for no token and for more than fit.
        """
        if not 0 < len(tokens) <= self._keys.shape[3] - after:
            raise UsageError(f"{len(tokens)} tokens don't fit after {after}")
        self.lengths = [after + len(tokens)]
        return self._prefilled(np.asarray(tokens, dtype=np.int64), int(self._rows[0]), after)[None]

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, given by their places in the batch; they move up in this order.

        A row that is named again becomes a row of its own: what it holds is copied to a place of the cache
        that no other uses.
        """
        places = self._rows[list(rows)].tolist()
        taken: set[int] = set()
        self._make_room(len(places))
        free = iter(sorted(set(range(self._keys.shape[1])).difference(places)))
        for number, row in enumerate(rows):
            place, end = places[number], self.lengths[row]
            if place in taken:
                places[number] = next(free)
                for cache in (self._keys, self._values):
                    cache[:, places[number], :, :end] = cache[:, place, :, :end]
            taken.add(place)
        self._rows = np.array(places, dtype=np.int64)
        self.lengths = [self.lengths[row] for row in rows]

    def _make_room(self, rows: int) -> None:
        """Enlarge the cache if it holds fewer rows."""
        missing = rows - self._keys.shape[1]
        if missing > 0:
            shape = self._keys.shape
            more = np.zeros((shape[0], max(missing, shape[1]), *shape[2:]), dtype=np.float32)
            self._keys = np.concatenate([self._keys, more], axis=1)
            self._values = np.concatenate([self._values, more], axis=1)

    def _prefilled(self, prompt: IntArray, row: int, after: int = 0) -> FloatArray:
        """Add a prompt to a row of the cache, block by block; return the logits [V] after it.

        It comes after so many tokens that the row holds.
        """
        for start in range(0, prompt.size, _BLOCK):
            block = prompt[start : start + _BLOCK]
            positions = np.arange(after + start, after + start + block.size)
            last = np.array([block.size - 1])
            logits = self._forward(block, np.full(block.size, row), positions, last, self._prompt_pace)
        following: FloatArray = logits[0]
        return following

    def _forward(
        self, tokens: IntArray, rows: IntArray, positions: IntArray, wanted: IntArray, pace: Pace
    ) -> FloatArray:
        from gencli.decoding.cpu_kernels import Cache, Places, forward

        together, started = pace.together(), time.perf_counter()
        logits: FloatArray = forward(
            tokens,
            Places(rows, positions),
            wanted,
            self._weights,
            Cache(self._keys, self._values),
            np.float32(self._shape.norm_epsilon),
            self._worth_threads if together else _NEVER,
        )
        pace.took(together, (time.perf_counter() - started) / tokens.size)
        return logits


def _worth_threads(threads: int | None) -> int:
    """Set the number of threads, None for all cores; return from how many multiplications on to use them."""
    import numba

    cores = numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(cores if threads is None else max(1, min(threads, cores)))
    return _WORTH_THREADS[numba.threading_layer()] if numba.get_num_threads() > 1 else _NEVER


def _stacked(shape: Shape, weights: Mapping[str, npt.NDArray[np.float32]], precision: Precision) -> Weights:
    """Return the weights stacked over the layers, all read-only so that one compiled signature fits them."""
    from gencli.decoding.cpu_kernels import Weights

    def layers(*names: str) -> FloatArray:
        parts = [[weights[f"model.layers.{i}.{name}.weight"] for name in names] for i in range(shape.layers)]
        rows = sum(len(part) for part in parts[0])
        stack = np.empty((shape.layers, rows, *parts[0][0].shape[1:]), dtype=np.float32)
        for layer, part in zip(stack, parts, strict=True):
            np.concatenate(part, out=layer)
        return stack

    def matrices(*names: str) -> tuple[WeightArray, FloatArray]:
        return _rounded(layers(*names), precision)

    return Weights(
        *map(
            _frozen,
            (
                weights["model.embed_tokens.weight"],
                layers("input_layernorm"),
                *matrices("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                layers("self_attn.q_norm"),
                layers("self_attn.k_norm"),
                *matrices("self_attn.o_proj"),
                layers("post_attention_layernorm"),
                *matrices("mlp.gate_proj", "mlp.up_proj"),
                *matrices("mlp.down_proj"),
                weights["model.norm.weight"],
                *_rounded(weights["lm_head.weight"], precision),
                *_rotary(shape),
            ),
        )
    )


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    contiguous = np.ascontiguousarray(np.asarray(array)).view()
    contiguous.setflags(write=False)
    return contiguous


def _rounded(matrices: FloatArray, precision: Precision) -> tuple[WeightArray, FloatArray]:
    """Return matrices (..., rows, columns) as they are or as int8, and the scale of each row."""
    if precision == "float32":
        return matrices, np.ones(matrices.shape[:-1], dtype=np.float32)
    scales = np.maximum(np.abs(matrices).max(axis=-1), np.float32(1e-30)) / np.float32(127)
    rounded = matrices / scales[..., None]
    return np.rint(rounded, out=rounded).astype(np.int8), scales


def _rotary(shape: Shape) -> tuple[FloatArray, FloatArray]:
    """Return the cosines and sines (context, D / 2) of rotary positions, in float32 throughout."""
    powers = np.arange(0, shape.head_width, 2, dtype=np.float32) / np.float32(shape.head_width)
    speeds = np.float32(1) / np.float32(shape.rope_theta) ** powers
    angles = np.arange(shape.context, dtype=np.float32)[:, None] * speeds
    return np.cos(angles), np.sin(angles)
