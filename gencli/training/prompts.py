"""Prompts as they are learned from: changed another way each time, so that none is learned by heart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gencli.text.examples import Example
from gencli.text.splits import Splits
from gencli.text.tokenizer import NEWLINE_ID

SPANS, SPAN_LENGTH = 6, 8  # at most, of a prompt that is put together, and tokens in each


@dataclass(frozen=True)
class Changes:
    """What is done to prompts; nothing of it touches what is learned.

    The share `mixed` is put together from spans of prompts with the same answer: what a model can say of them
    is what each span says by itself, as in naive Bayes. `splits` writes a prompt in other pieces, if it is then
    at most `longest` tokens with its answer. About the share `hidden` of its tokens gives way to `gap`.
    """

    longest: int
    mixed: float = 0.0
    splits: Splits | None = None
    hidden: float = 0.0
    gap: int = 0


class Prompts:
    """Draws examples with changed prompts; what is drawn depends on the random numbers alone."""

    def __init__(self, examples: Sequence[Example], changes: Changes) -> None:
        self.examples, self.changes = examples, changes
        self._alike: dict[tuple[int, ...], list[int]] = defaultdict(list)  # examples of each answer
        for number, example in enumerate(examples):
            self._alike[_answer(example)].append(number)

    def drawn(self, numbers: Sequence[int], random: np.random.Generator) -> list[Example]:
        """Return the examples of these numbers, each changed in its own way."""
        return [self._changed(self.examples[number], random) for number in numbers]

    def _changed(self, example: Example, random: np.random.Generator) -> Example:
        changes = self.changes
        start, end = _asked(example)
        asked = list(example.ids[start:end])
        others = len(example.ids) - len(asked)
        if changes.mixed and random.random() < changes.mixed:
            asked = self._mixed(self._alike[_answer(example)], random)[: changes.longest - others]
        if changes.splits is not None:
            parted = changes.splits.drawn(asked, random)
            asked = parted if len(parted) + others <= changes.longest else asked
        if changes.hidden:
            gaps = random.random(len(asked)) < changes.hidden
            asked = [changes.gap if gap else index for index, gap in zip(asked, gaps, strict=True)]
        return Example(
            (*example.ids[:start], *asked, *example.ids[end:]),
            (*example.learned[:start], *[False] * len(asked), *example.learned[end:]),
        )

    def _mixed(self, alike: Sequence[int], random: np.random.Generator) -> list[int]:
        """Return spans of prompts of some examples, one after the other."""
        mixed: list[int] = []
        for _ in range(random.integers(1, SPANS, endpoint=True)):
            other = self.examples[alike[int(random.integers(len(alike)))]]
            start, end = _asked(other)
            length = min(end - start, int(random.integers(1, SPAN_LENGTH, endpoint=True)))
            first = int(random.integers(start, end - length, endpoint=True))
            mixed += other.ids[first : first + length]
        return mixed


def _asked(example: Example) -> tuple[int, int]:
    """Return where the text before the first answer begins and ends: between its marker and the answer's."""
    end = start = example.learned.index(True) - 1
    while start > 0 and example.ids[start - 1] >= NEWLINE_ID:
        start -= 1
    return start, end


def _answer(example: Example) -> tuple[int, ...]:
    return example.ids[example.learned.index(True) :]
