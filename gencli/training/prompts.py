"""Prompts as they are learned from: changed another way each time, so that none is learned by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gencli.model.ngrams import Ngrams
from gencli.text.examples import Example
from gencli.text.splits import Splits
from gencli.text.tokenizer import NEWLINE_ID
from gencli.training.label_targets import Beliefs, Path

SPANS, SPAN_LENGTH = 6, 8  # at most, of a prompt that is put together, and tokens in each


@dataclass(frozen=True)
class Mixing:
    """Puts about the `share` of prompts together from spans of others, and lets n-grams say what they are.

    `labels` are the answers there are, as ids, in the order of the n-grams'.
    """

    prompts: Sequence[Sequence[int]]
    labels: Sequence[Path]
    ngrams: Ngrams
    piece_bytes: Sequence[bytes]
    share: float

    def mixed(
        self, examples: Sequence[Example], random: np.random.Generator, *, longest: int
    ) -> tuple[list[Example], Beliefs]:
        """Return the examples with some replaced, of at most `longest` ids, and how likely labels are of these."""
        shares = random.random(len(examples)) if self.prompts else np.ones(len(examples))
        others = longest - 1 - max(map(len, self.labels))  # than the label and the marker before it
        rooms = {
            row: others - asked_of(examples[row])[0] for row in np.flatnonzero(shares < self.share).tolist()
        }
        spans = {row: self._spans(random)[:room] for row, room in rooms.items() if room > 0}
        if not spans:
            return list(examples), {}
        beliefs = np.exp(self.ngrams.logprobs([self._text(ids) for ids in spans.values()]))
        found = list(examples)
        for (row, ids), belief in zip(spans.items(), beliefs, strict=True):
            number = int(np.searchsorted(np.cumsum(belief), random.random() * belief.sum()))
            label = self.labels[min(number, len(self.labels) - 1)]
            found[row] = _asked(examples[row], ids, label)
        return found, dict(zip(spans, beliefs, strict=True))

    def _spans(self, random: np.random.Generator) -> list[int]:
        """Return spans of some prompts, one after the other."""
        found: list[int] = []
        for _ in range(random.integers(1, SPANS, endpoint=True)):
            ids = self.prompts[int(random.integers(len(self.prompts)))]
            length = min(len(ids), int(random.integers(1, SPAN_LENGTH, endpoint=True)))
            first = int(random.integers(0, len(ids) - length, endpoint=True))
            found += ids[first : first + length]
        return found

    def _text(self, ids: Sequence[int]) -> str:
        return b"".join(self.piece_bytes[index] for index in ids).decode("utf-8", "replace")


@dataclass(frozen=True)
class Changes:
    """What is done to prompts, in this order.

    `mixing` makes new ones, with labels of their own, none longer than the longest it finds, so that there is little
    to pad. `splits` writes a prompt in other pieces, if it is then at
    most `longest` tokens with its answer. About the share `hidden` of its tokens gives way to `gap`.
    """

    longest: int
    mixing: Mixing | None = None
    splits: Splits | None = None
    hidden: float = 0.0
    gap: int = 0

    def drawn(
        self, examples: Sequence[Example], random: np.random.Generator
    ) -> tuple[list[Example], Beliefs]:
        """Return the examples, each changed in its own way, and of some how likely each label is.

        What is drawn depends on the random numbers alone.
        """
        beliefs: Beliefs = {}
        if self.mixing is not None:
            most = max(len(example.ids) for example in examples)
            examples, beliefs = self.mixing.mixed(examples, random, longest=min(self.longest, most))
        return [self._rewritten(example, random) for example in examples], beliefs

    def _rewritten(self, example: Example, random: np.random.Generator) -> Example:
        start, end = asked_of(example)
        asked = list(example.ids[start:end])
        others = len(example.ids) - len(asked)
        if self.splits is not None:
            parted = self.splits.drawn(asked, random)
            asked = parted if len(parted) + others <= self.longest else asked
        if self.hidden:
            gaps = random.random(len(asked)) < self.hidden
            asked = [self.gap if gap else index for index, gap in zip(asked, gaps, strict=True)]
        return _asked(example, asked)


def _asked(example: Example, asked: Sequence[int], answer: Sequence[int] | None = None) -> Example:
    """Return an example with another text before its answer, and perhaps another answer, that ends it."""
    start, end = asked_of(example)
    ids, learned = example.ids[end:], example.learned[end:]
    if answer is not None:
        ids, learned = (ids[0], *answer), (False, *[True] * len(answer))
    return Example(
        (*example.ids[:start], *asked, *ids), (*example.learned[:start], *[False] * len(asked), *learned)
    )


def asked_of(example: Example) -> tuple[int, int]:
    """Return where the text before the first answer begins and ends: between its marker and the answer's."""
    end = start = example.learned.index(True) - 1
    while start > 0 and example.ids[start - 1] >= NEWLINE_ID:
        start -= 1
    return start, end
