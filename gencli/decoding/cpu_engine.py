"""Runs a GPT on the CPU without torch: a key-value cache around the compiled forward pass.

Weights stay float32, or are rounded to int8 with a float32 scale per matrix row, which reads a quarter of
the memory for every token. The embedding and the norms are float32 in both cases.
"""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gencli.decoding.cpu_weights import Precision, Weights, placed
from gencli.errors import UsageError
from gencli.kernels import layout
from gencli.kernels.machine_code import Function
from gencli.kernels.room import Room, whole
from gencli.kernels.team import Job, cores, summon

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gencli.model.shape import Shape

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_BLOCK = 64  # tokens of a prompt that go through the layers together
_SHORT = 16  # tokens of a prompt that are read before a helper could come
_NEAR_BYTES = 32 << 20  # weights of at most this size stay in the processor's cache, where threads share them
_forward = Function("forward", "forward")


class Pace:
    """Tells which of several ways to make a step is the fastest at the moment, from what steps took.

    With several threads a step may wait for all of them at every product. Alone on the machine that pays; with
    other programs on its cores, a step can take a hundred times as long as on one thread. The logits are the
    same every way.
    """

    def __init__(self, ways: Sequence[str]) -> None:
        self._seconds = dict.fromkeys(ways, 0.0)
        self._since = dict.fromkeys(ways, 0.0)

    def way(self) -> str:
        """Return the fastest way, or a slower one whenever trying it costs a 25th of the time."""
        fastest = min(self._seconds, key=self._seconds.__getitem__)
        due = (way for way, seconds in self._seconds.items() if self._since[way] >= 25 * seconds)
        return next((way for way in due if way != fastest), fastest)

    def took(self, way: str, seconds: float) -> None:
        """Take note of what a step took: an average for the fastest way, the last try of a slower one."""
        known, fastest = self._seconds[way], min(self._seconds, key=self._seconds.__getitem__)
        for other in self._since:
            self._since[other] += seconds
        self._since[way] = 0.0
        self._seconds[way] = 0.75 * known + 0.25 * seconds if known and way == fastest else seconds


class CpuEngine:
    """Turns tokens into logits, a row of the batch at its own position.

    `weights` holds float32 arrays under the names of Shape.tensors(), norms with one dimension.
    `threads` is at most the number of cores; None takes them all. If `in_place`, the arrays of weights are the
    engine's from now on: float32 matrices are packed where they stand, which saves the memory for a copy.
    """

    name = "cpu"

    def __init__(
        self,
        shape: Shape,
        weights: Mapping[str, npt.NDArray[np.float32]],
        *,
        precision: Precision = "float32",
        threads: int | None = None,
        in_place: bool = False,
    ) -> None:
        self.context, self.vocabulary = shape.context, shape.vocabulary
        self.lengths: list[int] = []
        self._shape = shape
        self.threads = cores() if threads is None else max(1, min(threads, cores()))
        self._rows = np.empty(0, dtype=np.int64)
        self._slots = 0
        self._weights = placed(shape, weights, precision, in_place=in_place)
        self._cache = self._empty_cache(0, 0)
        ways = ["together", "alone"] if self.threads > 1 else ["alone"]
        near = self._weights.nbytes <= _NEAR_BYTES
        self._prompt_pace, self._step_pace = Pace(ways), Pace(ways)
        self._batch_pace = Pace(["apart", *ways] if near and len(ways) > 1 else ways)

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> FloatArray:
        """Read the prompts into a new cache; return the logits [B · copies, V] after each.

        Each prompt is computed once and its row repeated `copies` times, prompt 0's copies first. The
        cache holds `slots` tokens a row, at most the context. Raises UsageError for an empty prompt and
        one that doesn't fit.
        """
        self._hold(prompts, len(prompts) * copies, slots)
        logits = np.empty((len(prompts), self.vocabulary), dtype=np.float32)
        for numbers, after in self._read(prompts, np.arange(len(prompts)) * copies):
            logits[numbers] = after
        for row, prompt in zip(range(0, len(prompts) * copies, copies), prompts, strict=True):
            self._cache.copy(row, range(row + 1, row + copies), len(prompt))
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
            yield self._through(block, row[: block.size], places, every, self._prompt_pace)
        self.lengths = [ids.size]

    def step(self, tokens: npt.ArrayLike) -> FloatArray:
        """Append one token to every row; return the logits [B · copies, V] for the next.

        They hold until the engine is asked for more, as do those of `each` and `extend`.
        Raises UsageError when a row's cache is full.
        """
        if max(self.lengths) >= self._slots:
            raise UsageError(f"the {self._slots} slots of the cache are full")
        positions = np.array(self.lengths, dtype=np.int64)
        pace = self._step_pace if positions.size == 1 else self._batch_pace
        every = np.arange(positions.size)
        logits = self._through(np.asarray(tokens, dtype=np.int64), self._rows, positions, every, pace)
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def extend(self, tokens: Sequence[int], *, after: int) -> FloatArray:
        """Forget all but the first `after` tokens of the only row, read more; return the logits [1, V] then.

        Raises UsageError for no token and for more than fit.
        """
        if not 0 < len(tokens) <= self._slots - after:
            raise UsageError(f"{len(tokens)} tokens don't fit after {after}")
        self.lengths = [after + len(tokens)]
        *_, (_, logits) = self._read([tokens], self._rows[:1], after)
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, given by their places in the batch; they move up in this order.

        A row that is named again becomes a row of its own: what it holds is copied to a place of the cache
        that no other uses.
        """
        places = self._rows[list(rows)].tolist()
        taken: set[int] = set()
        self._make_room(len(places))
        free = iter(sorted(set(range(self._cache.keys.shape[1])).difference(places)))
        for number, row in enumerate(rows):
            place, end = places[number], self.lengths[row]
            if place in taken:
                places[number] = next(free)
                self._cache.copy(place, [places[number]], end)
            taken.add(place)
        self._rows = np.array(places, dtype=np.int64)
        self.lengths = [self.lengths[row] for row in rows]

    def vectors(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Read the prompts, in each other's place; return the normed vectors [B, W] after them.

        They are what the head makes logits of. Raises UsageError for what `start` refuses.
        """
        lengths = [len(prompt) for prompt in prompts]
        most = _BLOCK // max(min(lengths, default=0), 1) + 2  # prompts that one block has tokens of
        rows = min(len(prompts), most)
        self._hold(prompts, rows, max(lengths, default=0))
        found = np.empty((len(prompts), self._shape.width), dtype=np.float32)
        for numbers, _ in self._read(prompts, np.arange(len(prompts)) % rows):
            found[numbers] = self._call.normed(numbers.size)
        return found

    def _hold(self, prompts: Sequence[Sequence[int]], rows: int, slots: int) -> None:
        """Have a cache of so many rows and slots, at most the context, unless a prompt does not fit."""
        slots = min(slots, self.context)
        for prompt in prompts:
            if not 0 < len(prompt) <= slots:
                raise UsageError(f"a prompt must have from 1 to {slots} tokens here, not {len(prompt)}")
        if (rows, slots) != (self._cache.keys.shape[1], self._slots):
            self._slots = slots
            self._use(self._empty_cache(rows, slots))

    def _make_room(self, rows: int) -> None:
        """Enlarge the cache if it holds fewer rows."""
        held = self._cache.keys.shape[1]
        if rows > held:
            larger = self._empty_cache(max(rows, 2 * held), self._slots)
            for part, before in zip(larger, self._cache, strict=True):
                part[:, :held] = before
            self._use(larger)

    def _empty_cache(self, rows: int, slots: int) -> Cache:
        """Return room for keys and values; they are rounded like the weights."""
        shape, kind = self._shape, self._weights.kind.dtype
        slots, width = whole(slots, layout.GROUP), shape.head_width
        every = (shape.layers, rows, shape.kv_heads)
        columns = whole(width, layout.KEY_GROUP) if kind == np.uint8 else width
        keys = (slots // layout.BLOCK, layout.BLOCK * columns)
        values = (-(-width // layout.BLOCK), layout.BLOCK * slots)
        sizes: Any = (*every, *keys), (*every, *values), (*every, slots)
        scales: tuple[int, ...] = sizes[2] if kind != np.float32 else (*every, 0)
        single = np.dtype(np.float32)
        arrays = [(sizes[0], kind), (sizes[1], kind), (scales, single), (scales, single)]
        room = Room(math.prod(size) * each.itemsize for size, each in arrays)
        return Cache(*(room.take(size, each) for size, each in arrays))

    def _use(self, cache: Cache) -> None:
        """Make the forward pass work with this cache."""
        self._cache = cache
        self._call = _Call(self._shape, self._weights, cache, self._slots, self.threads)

    def _read(
        self, prompts: Sequence[Sequence[int]], rows: IntArray, after: int = 0
    ) -> Iterator[tuple[IntArray, FloatArray]]:
        """Add each prompt to its row of the cache, block by block, those that are short in one block with others.

        They come after so many tokens that the rows hold. Yields, with every block, which prompts end in it, and the
        logits [numbers, V] after them.
        """
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        tokens, ends = np.fromiter(chain.from_iterable(prompts), np.int64), np.cumsum(lengths)
        numbers = np.repeat(np.arange(lengths.size), lengths)
        positions = np.arange(after, after + tokens.size) - (ends - lengths)[numbers]
        if tokens.size > _SHORT:
            summon(self.threads)
        for start in range(0, tokens.size, _BLOCK):
            some = slice(start, start + _BLOCK)
            done = np.flatnonzero((ends > start) & (ends <= start + _BLOCK))
            places, last = positions[some], ends[done] - 1 - start
            yield done, self._through(tokens[some], rows[numbers[some]], places, last, self._prompt_pace)

    def _through(
        self, tokens: IntArray, rows: IntArray, positions: IntArray, wanted: IntArray, pace: Pace
    ) -> FloatArray:
        """Take tokens through the layers; return the logits [wanted, V]."""
        way, started = pace.way(), time.perf_counter()
        threads = 1 if way == "alone" else self.threads
        logits = self._call(tokens, rows, positions, wanted, threads=threads, apart=way == "apart")
        pace.took(way, (time.perf_counter() - started) / tokens.size)
        return logits[:, : self.vocabulary]


class Cache(NamedTuple):
    """The keys and values of all tokens so far, as compiled attention has them: for each layer, row and head.

    They are float32, or of bytes with a scale for each vector.
    """

    keys: npt.NDArray[Any]  # (L, B, K, ...)
    values: npt.NDArray[Any]  # (L, B, K, ...)
    key_scales: FloatArray  # (L, B, K, S), or with no slots where they are float32
    value_scales: FloatArray  # (L, B, K, S)

    def copy(self, row: int, others: Iterable[int], end: int) -> None:
        """Copy the first `end` slots of a row, or some more, to others."""
        blocks, columns = -(-end // layout.BLOCK), layout.BLOCK * whole(end, layout.GROUP)
        for other in others:
            for part, slots in ((self.keys, blocks), (self.key_scales, end), (self.value_scales, end)):
                part[:, other, :, :slots] = part[:, row, :, :slots]
            self.values[:, other, :, :, :columns] = self.values[:, row, :, :, :columns]


class _Call:
    """The forward pass with all that it works on, for up to a block of tokens or one token of each row."""

    def __init__(self, shape: Shape, weights: Weights, cache: Cache, slots: int, threads: int) -> None:
        rows = cache.keys.shape[1]
        most, vocabulary = max(rows, _BLOCK), whole(shape.vocabulary, layout.BLOCK)
        self._tokens, self._rows, self._positions, self._wanted = np.zeros((4, most), np.int64)
        self._counts = np.zeros(3, np.int64)
        self._width = shape.width
        sizes = (
            shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_width, shape.hidden,
            shape.vocabulary, whole(max(slots, shape.head_width), layout.GROUP),
        )  # fmt: skip
        words = layout.scratch_words(sizes, most)
        room = Room(4 * each for each in [*(words * threads), most * vocabulary])
        self._scratch = [[room.take((each,), np.float32) for each in words] for _ in range(threads)]
        scratch = [[each.__array_interface__["data"][0] for each in own] for own in self._scratch]
        self._logits = room.take((most, vocabulary), np.float32)
        epsilon = np.array([shape.norm_epsilon], np.float32)
        self._job = Job(
            _forward, self._tokens, self._rows, self._positions, self._wanted, self._counts, np.array(sizes),
            weights.addresses, weights.kind, weights.embedding, weights.cosines, weights.sines, epsilon, *cache,
            np.array(scratch, np.int64), self._logits, threads=threads,
        )  # fmt: skip

    def __call__(
        self,
        tokens: IntArray,
        rows: IntArray,
        positions: IntArray,
        wanted: IntArray,
        *,
        threads: int,
        apart: bool,
    ) -> FloatArray:
        """Return the logits [wanted, V or more]; they hold until the next call."""
        count, asked = tokens.size, wanted.size
        self._tokens[:count], self._rows[:count], self._positions[:count] = tokens, rows, positions
        self._wanted[:asked] = wanted
        self._counts[:] = count, asked, apart
        self._job(threads)
        return self._logits[:asked]

    def normed(self, wanted: int) -> FloatArray:
        """Return the vectors [wanted, W] that the logits of the last call's wanted tokens were made of.

        Unless threads took tokens apart, the first thread made all of these.
        """
        return self._scratch[0][layout.NORMED][: wanted * self._width].reshape(wanted, self._width)
