"""Batches as a pure function of (seed, step): nothing to save, nothing to skip when a run resumes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gencli.errors import CorpusError
from gencli.model.scoring import IGNORED, Batch
from gencli.text.examples import Example
from gencli.training.label_targets import Beliefs, LabelTargets
from gencli.training.prompts import Changes, asked_of
from gencli.training.shuffle import Shuffle

_Row = tuple[int, list[int]]  # an example's number, and ids to put in the place of its prompt, if any

CHANGES = 1  # tells random numbers for changed prompts from others of the same seed


class Batches(Protocol):
    """What a training loop needs to know of its data."""

    @property
    def steps_per_epoch(self) -> int:
        """Return how many steps show every example once."""

    def batch(self, step: int) -> Batch:
        """Return the rows of optimizer step `step`, counted from 0."""

    def state(self) -> dict[str, Tensor]:
        """Return what the coming batches depend on besides seed and step; it is saved with a checkpoint."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned, from among a checkpoint's tensors."""
        for name, own in self.state().items():
            own.copy_(tensors[name])


class PackedBatches(Batches):
    """Windows of `context` tokens cut from ranges of one long row of ids, in an order shuffled per epoch.

    Every epoch cuts at another offset, so that over many epochs a token is seen at every position.
    """

    def __init__(
        self,
        ids: NDArray[np.unsignedinteger],
        ranges: Sequence[tuple[int, int]],
        *,
        context: int,
        rows: int,
        seed: int,
    ) -> None:
        self.ids, self.context, self.rows, self.seed = ids, context, rows, seed
        # A range of n tokens holds, at any offset below `context`, this many windows of context + 1 tokens.
        self._starts = np.array([start for start, _ in ranges], dtype=np.int64)
        counts = np.array([(end - start - context) // context for start, end in ranges], dtype=np.int64)
        self._ends = np.cumsum(np.maximum(counts, 0))
        self.windows = int(self._ends[-1]) if len(ranges) else 0
        if not self.windows:
            tokens = sum(end - start for start, end in ranges)
            raise CorpusError(
                f"the corpus is too small: {tokens:,} tokens to train on, {2 * context:,} are needed",
                hint="add text"
                + (f", or look back on less with --context {tokens // 4}" if tokens >= 32 else ""),
            )

    @property
    def steps_per_epoch(self) -> int:
        return max(1, -(-self.windows // self.rows))

    def batch(self, step: int) -> Batch:
        numbers = range(step * self.rows, (step + 1) * self.rows)
        starts = [self._start(number) for number in numbers]
        span = np.stack([self.ids[start : start + self.context + 1] for start in starts]).astype(np.int64)
        return Batch(
            np.ascontiguousarray(span[:, :-1]),
            np.ascontiguousarray(span[:, 1:]),
            span.shape[0] * self.context,
        )

    def _start(self, number: int) -> int:
        """Return where the window begins that stands at place `number` of the endless order of windows."""
        epoch, place = divmod(number, self.windows)
        order = Shuffle(self.windows, seed=self.seed, epoch=epoch)
        window = order.at(place)
        part = int(np.searchsorted(self._ends, window, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        return int(self._starts[part]) + order.below(self.context) + (window - first) * self.context


class PairBatches(Batches):
    """Whole examples, `rows` at a time, padded on the right; neighbours are of similar length.

    An epoch's shuffled examples are sorted by length within pools of `POOL` batches, or a twelfth of the epoch
    if that is more, then the batches are shuffled again: little padding, and still another composition in
    every epoch. An example of twice the weight comes twice as often; an epoch has as many as they add up to.
    With `changes` the prompts are changed, another way each time; those that are put together anew are so before all
    are sorted.
    """

    POOL = 16

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        rows: int,
        seed: int,
        padding: int,
        weights: Sequence[float] | None = None,
        targets: LabelTargets | None = None,
        changes: Changes | None = None,
    ) -> None:
        self.examples, self.rows, self.seed, self.padding = examples, rows, seed, padding
        self.targets, self.changes = targets, changes
        self._ends = None if weights is None else np.cumsum(np.array(weights, dtype=np.float64))
        self.drawn = len(examples) if self._ends is None else max(1, round(float(self._ends[-1])))

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.drawn // self.rows)

    def batch(self, step: int) -> Batch:
        rows = self._rows(step)
        examples = [self.examples[number] for number, _ in rows]
        beliefs: Beliefs = {}
        if self.changes is not None:
            random = np.random.default_rng([self.seed, step, CHANGES])
            examples, beliefs = self.changes.drawn(examples, [spans for _, spans in rows], random)
        return padded(examples, self.padding, self.targets, beliefs)

    def numbers(self, step: int) -> list[int]:
        """Return which examples a step's rows are."""
        return [number for number, _ in self._rows(step)]

    def _rows(self, step: int) -> list[_Row]:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place]

    def _order(self, epoch: int) -> list[list[_Row]]:
        if getattr(self, "_ordered", (-1, []))[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            numbers = random.permutation(self._draw(random)).tolist()
            spans = self.changes.spans(len(numbers), random) if self.changes else [[] for _ in numbers]
            shuffled = list(zip(numbers, spans, strict=True))
            pool = self.rows * max(self.POOL, self.steps_per_epoch // 12)
            batches = []
            for start in range(0, len(shuffled), pool):
                near = sorted(shuffled[start : start + pool], key=self._length)
                batches += [near[i : i + self.rows] for i in range(0, len(near), self.rows)]
            self._ordered = epoch, [batches[i] for i in random.permutation(len(batches))]
        return self._ordered[1]

    def _length(self, row: _Row) -> int:
        """Return how many ids a row has; where its prompt is another than its example's, the answer may be so too."""
        number, spans = row
        example = self.examples[number]
        start, end = asked_of(example) if spans else (0, 0)
        return len(example.ids) + len(spans) - (end - start)

    def _draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Return the numbers of an epoch's examples.

        The weights lie side by side in an order drawn anew, and a comb of even teeth that begins anywhere
        picks from them: each example comes as often as its weight says, to within one.
        """
        if self._ends is None:
            return np.arange(len(self.examples))
        order = random.permutation(len(self.examples))
        ends = np.cumsum(np.diff(self._ends, prepend=0.0)[order])
        teeth = (np.arange(self.drawn) + random.random()) * ends[-1] / self.drawn
        places = np.minimum(np.searchsorted(ends, teeth, side="right"), len(order) - 1)
        drawn: NDArray[np.int64] = order[places]
        return drawn


def padded(
    examples: Sequence[Example],
    padding: int,
    labels: LabelTargets | None = None,
    beliefs: Beliefs | None = None,
) -> Batch:
    """Return the examples as one batch; what is not learned, padding included, has the target IGNORED."""
    length = max(len(example.ids) for example in examples) - 1
    tokens = np.full((len(examples), length), padding, dtype=np.int64)
    targets = np.full((len(examples), length), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        ids = np.array(example.ids, dtype=np.int64)
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = np.where(example.learned[1:], ids[1:], IGNORED)
    soft = labels.soft(examples, length, beliefs) if labels is not None else {}
    return Batch(tokens, targets, sum(len(example.ids) - 1 for example in examples), soft)


def in_order(
    ids: NDArray[np.unsignedinteger],
    ranges: Sequence[tuple[int, int]],
    *,
    context: int,
    rows: int,
    most_tokens: int | None = None,
) -> Iterator[Batch]:
    """Yield windows of `context` tokens that cover the ranges once, without overlap, in order.

    Every token but the first of a range is a target once. With `most_tokens`, windows evenly spaced over
    the ranges are kept, about that many tokens in all.
    """
    counts = [-(-max(end - start - 1, 0) // context) for start, end in ranges]
    ends = list(accumulate(counts))
    total = wanted = ends[-1] if ends else 0
    if most_tokens is not None and total * context > most_tokens:
        wanted = max(1, most_tokens // context)

    def span(place: int) -> tuple[int, int]:
        number = place * total // wanted
        part = bisect_right(ends, number)
        begin, end = ranges[part]
        start = begin + (number - ends[part] + counts[part]) * context
        return start, min(start + context, end - 1)

    for first in range(0, wanted, rows):
        group = [span(place) for place in range(first, min(first + rows, wanted))]
        length = max(end - start for start, end in group)
        tokens = np.zeros((len(group), length), dtype=np.int64)
        targets = np.full((len(group), length), IGNORED, dtype=np.int64)
        for row, (start, end) in enumerate(group):
            tokens[row, : end - start] = ids[start:end]
            targets[row, : end - start] = ids[start + 1 : end + 1]
        yield Batch(tokens, targets, sum(end - start for start, end in group))


def pairs_in_order(examples: Sequence[Example], *, rows: int, padding: int) -> Iterator[Batch]:
    """Yield every example once, the short ones first."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    for first in range(0, len(ordered), rows):
        yield padded(ordered[first : first + rows], padding)
