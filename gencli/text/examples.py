"""Labelled pairs as token ids that fit the context, with a mark on what is to be learned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from gencli.errors import PairsError
from gencli.text.chat import chat_ids

if TYPE_CHECKING:
    from gencli.text.pairs import Pair
    from gencli.text.tokenizer import Tokenizer

Row = TypeVar("Row")


@dataclass(frozen=True)
class Example:
    """One pair as token ids with a mark on each id that is to be learned."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True)
class Examples:
    """All pairs of a run, and what had to be done to them."""

    examples: tuple[Example, ...]
    prompts_cut: int
    answers_cut: int

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each thing that was done."""
        told = []
        if self.prompts_cut:
            told.append(
                f"{self.prompts_cut:,} prompts are longer than the context and were cut from the left"
            )
        if self.answers_cut:
            told.append(
                f"{self.answers_cut:,} answers are longer than the context and were cut, without an end"
            )
        return told


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Tokenizer, *, context: int, last_only: bool = False
) -> Examples:
    """Return the pairs as examples of at most `context` + 1 ids: as many as a model reads and predicts.

    With `last_only` the last answer is learned and no earlier one of its conversation. A prompt that is too
    long loses its beginning, never the answer; an answer too long by itself loses its end, and then does not
    teach the model to stop there.
    """
    examples, prompts, answers = [], 0, 0
    for pair in pairs:
        ids, learned = chat_ids(tokenizer, pair.turns, answer=True)
        if last_only:
            last = max(place for place, each in enumerate(ids) if each == tokenizer.roles["assistant"])
            learned = [place > last for place in range(len(ids))]
        if not any(learned):
            raise PairsError("the answer is empty", where=f"{pair.file}:{pair.line}")
        excess = len(ids) - (context + 1)
        if excess > 0:
            first = learned.index(True) - 1  # the marker of the answer's turn stays
            cut = min(excess, max(0, first - 1))
            ids, learned = ids[:1] + ids[1 + cut :], learned[:1] + learned[1 + cut :]
            prompts += cut > 0
            if len(ids) > context + 1:
                ids, learned = ids[: context + 1], learned[: context + 1]
                answers += 1
        examples.append(Example(tuple(ids), tuple(learned)))
    return Examples(tuple(examples), prompts, answers)


def split_by_prompt(pairs: Sequence[Pair], *, share: float) -> tuple[list[Pair], list[Pair]]:
    """Return (train, held out): pairs with the same prompt always fall on the same side.

    The prompts whose digest comes first are held out, at least one if `share` is above 0 and there are
    two or more. They depend on nothing else: what a model did not learn from when it was fine-tuned is held
    out again when it is aligned on the same prompts.
    """
    return parted(pairs, _prompt, share=share)


def parted(rows: Sequence[Row], prompt: Callable[[Row], str], *, share: float) -> tuple[list[Row], list[Row]]:
    """Return (train, held out) as `split_by_prompt` does, for rows of any kind that have a prompt."""
    prompts = dict.fromkeys(map(prompt, rows))
    ordered = sorted(prompts, key=lambda text: hashlib.sha256(f"0\0{text}".encode()).digest())
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1) if share else 0
    chosen = set(ordered[:count])
    train = [row for row in rows if prompt(row) not in chosen]
    return train, [row for row in rows if prompt(row) in chosen]


def _prompt(pair: Pair) -> str:
    return "\0".join(turn.text for turn in pair.turns[:-1])
