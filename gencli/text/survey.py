"""What the pairs of a run are like as a whole: what is told before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.text.encoding import counted

if TYPE_CHECKING:
    from gencli.text.pairs import Pair, PairsFile

NAMED = 6  # labels that a note names


@dataclass(frozen=True)
class Survey:
    """Counts over all pairs of a run, those to learn from and those held out.

    `repeated` pairs came before; `contradictions` are prompts with more than one completion; `shared` held-out
    pairs have a prompt that is learned too, and `alike` one that differs from it by no more than case, spaces
    and punctuation. `labels` counts each label to learn from, `unseen` those that are held out alone.
    """

    train: int
    held_out: int
    repeated: int
    contradictions: int
    shared: int
    alike: int
    labels: dict[str, int]
    unseen: tuple[str, ...] = ()
    across: tuple[int, int] = (0, 0)  # of the repeated and the contradictions, what no file has in itself

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each thing that a user should know and no file's own notes tell."""
        told = []
        repeated, contradictions = self.across
        if repeated:
            told.append(f"{counted(repeated, 'example')} repeat one of another file")
        if contradictions:
            told.append(f"{counted(contradictions, 'prompt')} with another completion in another file")
        if self.shared:
            told.append(
                f"{self.shared:,} of {self.held_out:,} held-out pairs have a prompt that is learned too: "
                "the figures on them flatter"
            )
        if self.alike:
            told.append(
                f"{self.alike:,} of {self.held_out:,} held-out pairs have a prompt that is learned too but for "
                "case, spaces and punctuation"
            )
        if self.unseen:
            told.append(f"held out and never learned: {_some(self.unseen)}")
        rare = [label for label, count in self.labels.items() if count < 3]
        if rare:
            told.append(f"fewer than three examples to learn from: {_some(rare)}")
        return told


def survey(
    files: Sequence[PairsFile], train: Sequence[Pair], held_out: Sequence[Pair], labels: Sequence[str]
) -> Survey:
    """Count what is in the pairs of a run."""
    repeated, contradictions = _remarkable(pair for file in files for pair in file.pairs)
    own = [_remarkable(file.pairs) for file in files]
    learned, folded = {_prompt(pair) for pair in train}, {_folded(pair) for pair in train}
    shared = sum(_prompt(pair) in learned for pair in held_out)
    counts = Counter(pair.completion for pair in train)
    others = {pair.completion for pair in held_out} - counts.keys()
    return Survey(
        train=len(train),
        held_out=len(held_out),
        repeated=repeated,
        contradictions=contradictions,
        shared=shared,
        alike=sum(_folded(pair) in folded for pair in held_out) - shared,
        labels={label: counts[label] for label in labels if counts[label]},
        unseen=tuple(sorted(others)) if labels else (),
        across=(repeated - sum(r for r, _ in own), contradictions - sum(c for _, c in own)),
    )


def _remarkable(pairs: Iterable[Pair]) -> tuple[int, int]:
    """Return how many pairs came before, and how many prompts have more than one completion."""
    answers: dict[tuple[object, ...], set[str]] = {}
    count = 0
    for pair in pairs:
        answers.setdefault(pair.turns[:-1], set()).add(pair.completion)
        count += 1
    return count - sum(map(len, answers.values())), sum(len(each) > 1 for each in answers.values())


def _prompt(pair: Pair) -> tuple[object, ...]:
    return pair.turns[:-1]


def _folded(pair: Pair) -> str:
    """Return the prompt without case, spaces and punctuation; itself if nothing else is in it."""
    text = "\0".join(turn.text for turn in pair.turns[:-1])
    return "".join(ch for ch in text.casefold() if ch.isalnum()) or text


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
    return ", ".join(map(repr, labels[:NAMED])) + more
