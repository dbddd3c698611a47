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

    def spans(self, count: int, random: np.random.Generator) -> list[list[int]]:
        """Return what to put in the place of so many prompts: ids, none where a prompt is to stay as it is."""
        chosen = random.random(count) < self.share
        return [self._spans(random) if each and self.prompts else [] for each in chosen.tolist()]

    def mixed(
        self,
        examples: Sequence[Example],
        spans: Sequence[Sequence[int]],
        random: np.random.Generator,
        *,
        longest: int,
    ) -> tuple[list[Example], Beliefs]:
        """Return the examples with the prompts that `spans` gives, and how likely labels are of these.

        An example is then at most `longest` ids.
        """
        others = longest - 1 - max(map(len, self.labels))  # than the label and the marker before it
        rooms = {row: others - asked_of(examples[row])[0] for row, ids in enumerate(spans) if ids}
        asked = {row: spans[row][:room] for row, room in rooms.items() if room > 0}
        if not asked:
            return list(examples), {}
        beliefs = np.exp(self.ngrams.logprobs([self._text(ids) for ids in asked.values()]))
        found = list(examples)
        for (row, ids), belief in zip(asked.items(), beliefs, strict=True):
            number = int(np.searchsorted(np.cumsum(belief), random.random() * belief.sum()))
            label = self.labels[min(number, len(self.labels) - 1)]
            found[row] = _asked(examples[row], ids, label)
        return found, dict(zip(asked, beliefs, strict=True))

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

    `mixing` makes new ones, with labels of their own. `splits` writes a prompt in other pieces, if it is then at
    most `longest` tokens with its answer. About the share `hidden` of its tokens gives way to `gap`.
    """

    longest: int
    mixing: Mixing | None = None
    splits: Splits | None = None
    hidden: float = 0.0
    gap: int = 0

    def spans(self, count: int, random: np.random.Generator) -> list[list[int]]:
        """Return what to put in the place of so many prompts, before they are changed: none where one is to stay."""
        return self.mixing.spans(count, random) if self.mixing is not None else [[] for _ in range(count)]

    def drawn(
        self, examples: Sequence[Example], spans: Sequence[Sequence[int]], random: np.random.Generator
    ) -> tuple[list[Example], Beliefs]:
        """Return the examples, some with the prompts of `spans` and with how likely each label is then, all changed.

        What is drawn depends on the random numbers alone.
        """
        beliefs: Beliefs = {}
        if self.mixing is not None:
            examples, beliefs = self.mixing.mixed(examples, spans, random, longest=self.longest)
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
