"""The labelled pairs of the demo: questions about a story, labels of a sentence, translations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.errors import UsageError
from gencli.text.stories.choices import Choices
from gencli.text.stories.lexicon import PEOPLE, Phrase
from gencli.text.stories.opinions import opinion
from gencli.text.stories.scenes import scene
from gencli.text.stories.sentences import SCHOOL_SENTENCE, is_held_out, statement

if TYPE_CHECKING:
    from collections.abc import Iterable

# the order in which examples follow one another: as many of each task, as many of each language
_TURN = (
    ("translation", "korean"), ("question", "korean"), ("label", "korean"),
    ("translation", "korean"), ("question", "english"), ("label", "english"),
)  # fmt: skip
_FIRST_TRAINING = (
    Phrase("나는 시장에 간다", "I go to the market"),
    Phrase("우리는 학교에 간다", "We go to school"),
)
_LABELS = {"korean": ("긍정", "부정"), "english": ("positive", "negative")}
_TRIALS = 1000  # draws in a row that bring nothing new before the grammar counts as told out


@dataclass(frozen=True)
class Example:
    """A prompt and what to answer; `task` is "question", "label" or "translation"."""

    task: str
    prompt: str
    completion: str


def examples(*, seed: int = 0, train: int, test: int) -> tuple[list[Example], list[Example]]:
    """Return `train` and `test` examples, balanced over tasks and languages, the same on every machine.

    What a test example says is in no training example, in neither language, and every word of it is in
    some. The first test example is 나는 학교에 간다. Raises UsageError for more than the grammar can tell, or
    for so few training examples that they lack the words of the test.
    """
    draws = _Draws(Choices(seed))
    learned = [draws.next(index, held_out=False) for index in range(train)]
    known = {word for example in learned for word in words(example.prompt, example.completion)}
    return learned, [draws.next(index, held_out=True, known=known) for index in range(test)]


def pairs_lines(several: Iterable[Example]) -> str:
    """Return the examples as JSON Lines with the keys prompt and completion."""
    return "".join(
        json.dumps({"prompt": one.prompt, "completion": one.completion}, ensure_ascii=False) + "\n"
        for one in several
    )


def words(*texts: str) -> set[str]:
    """Return the words of the texts without punctuation."""
    return {word for text in texts for word in re.findall(r"\w+", text)}


class _Draws:
    """Draws examples that were not drawn before."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.prompts: set[str] = set()

    def next(self, index: int, *, held_out: bool, known: set[str] | None = None) -> Example:
        """Return example `index` of a set. Raises UsageError if none is left."""
        task, language = _TURN[index % len(_TURN)]
        fixed = _fixed(index, held_out=held_out)
        for _ in range(_TRIALS):
            said, example = (fixed, _translation(fixed)) if fixed else self.draw(task, language)
            fresh = example.prompt not in self.prompts and is_held_out(said) == held_out
            if fresh and (known is None or words(example.prompt, example.completion) <= known):
                self.prompts.add(example.prompt)
                return example
        raise UsageError(
            f"the demo's grammar can't tell so many: no {task} number {index:,}",
            hint="ask for 600 to 12,000 examples to train on",
        )

    def draw(self, task: str, language: str) -> tuple[Phrase, Example]:
        """Return what an example says, in both languages, and the example."""
        if task == "translation":
            line = statement(self.choices)
            return line, _translation(line)
        if task == "label":
            felt = opinion(self.choices, self.choices.one(PEOPLE))
            label = _LABELS[language][0 if felt.is_good else 1]
            return felt.line, Example(task, getattr(felt.line, language), label)
        told = scene(self.choices)
        asked = self.choices.one(told.asked)
        prompt = f"{getattr(told.story, language)}\n{getattr(asked.question, language)}"
        return told.story, Example(task, prompt, getattr(asked.answer, language))


def _fixed(index: int, *, held_out: bool) -> Phrase | None:
    """Return the translation that stands at this place in every set, if one does."""
    if held_out:
        return SCHOOL_SENTENCE if index == 0 else None
    return {0: _FIRST_TRAINING[0], 3: _FIRST_TRAINING[1]}.get(index)


def _translation(line: Phrase) -> Example:
    return Example("translation", line.korean, line.english)
