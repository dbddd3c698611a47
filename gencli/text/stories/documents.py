"""The corpus of the demo: short stories in Korean and English, and pages of a phrase book."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.text.stories.choices import Choices
from gencli.text.stories.grammar import indefinite, target, topic
from gencli.text.stories.lexicon import (
    ACTIVITIES,
    DELIGHTED,
    GARDEN,
    GLAD,
    GO,
    HAPPY,
    LIBRARY,
    LIKE,
    PARK,
    PEOPLE,
    PLACES,
    SAD,
    SCHOOL,
    STATION,
    UPSET,
    Phrase,
)
from gencli.text.stories.opinions import opinion
from gencli.text.stories.scenes import Scene, scene
from gencli.text.stories.sentences import (
    HABIT,
    PRESENT,
    SPEAKERS,
    SUNDAYS,
    clause,
    is_held_out,
    statement,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PAGE = 6  # the pairs of sentences on a page of the phrase book
_QUESTIONS = 4  # in an exercise, if so many can be asked
_OPENINGS = (
    Phrase("아침이었다.", "It was morning."), Phrase("금요일이었다.", "It was Friday."),
    Phrase("점심때였다.", "It was lunchtime."), Phrase("조용한 오후였다.", "It was a quiet afternoon."),
)  # fmt: skip
_DATES = (
    Phrase("어느 날", "One day"), Phrase("어제", "Yesterday"), Phrase("지난주에", "Last week"),
    Phrase("지난 금요일에", "Last Friday"),
)  # fmt: skip
_ENDINGS = (
    Phrase("{who}집으로 돌아갔다.", "{who} went home."),
    Phrase("{who}저녁에 일기를 썼다.", "{who} wrote in {his} diary in the evening."),
    Phrase("{who}엄마에게 그 이야기를 했다.", "{who} told {his} mother about it."),
    Phrase("{who}그날 밤 푹 잤다.", "{who} slept well that night."),
)
_PRONOUNS = {"나": "I", "우리": "we"} | {person.korean: person.he for person in PEOPLE}


def stories(*, seed: int = 0, count: int = 3000) -> Iterator[str]:
    """Yield `count` documents without blank lines: stories in one language, pages of a phrase book in both.

    The same for the same arguments on every machine. No phrase book holds a sentence that `examples` keeps
    for testing, whatever the seeds.
    """
    choices = Choices(seed)
    for _ in range(count):
        kind = choices.one(_DOCUMENTS)
        if kind is _phrase_book:
            yield "\n".join(f"{line.korean}\n{line.english}" for line in kind(choices))
        else:
            is_korean = choices.chance(0.5)
            lines = [line.korean if is_korean else line.english for line in kind(choices)]
            yield "\n".join(lines) if kind is _exercise else " ".join(lines)


def corpus_text(documents: Iterable[str]) -> str:
    """Return the documents as one text, with a blank line between two."""
    return "\n\n".join(documents) + "\n"


def _phrase_book(choices: Choices) -> list[Phrase]:
    lines: list[Phrase] = []
    while len(lines) < _PAGE:
        line = statement(choices)
        if not is_held_out(line):
            lines.append(line)
    return lines


def _story(choices: Choices) -> list[Phrase]:
    """Return a scene with an opening and an ending, three to six sentences."""
    told = scene(choices)
    lines = list(told.lines)
    if told.is_dated and choices.chance(0.4):
        date, first = choices.one(_DATES), lines[0]
        english = first.english.replace("It ", "it ", 1) if first.english.startswith("It ") else first.english
        lines[0] = Phrase(f"{date.korean} {first.korean}", f"{date.english} {english}")
    elif told.is_dated and choices.chance(0.6):
        lines.insert(0, choices.one(_OPENINGS))
    return lines + _ending(choices, told)


def _ending(choices: Choices, told: Scene) -> list[Phrase]:
    lead = told.lead
    felt = choices.one((HAPPY, GLAD, DELIGHTED) if told.is_good else (SAD, UPSET))
    feels = Phrase("{who}" + f"{felt.korean}.", "{who} " + f"was {felt.english}.")
    if not told.is_dated:
        return [Phrase("둘은 매일 함께 놀았다.", "They played together every day.")]
    templates = [feels, choices.one(_ENDINGS)] if choices.chance(0.5) else [choices.one((feels, *_ENDINGS))]
    names = [Phrase(f"{topic(lead.korean)} ", lead.english), Phrase("", lead.he.capitalize())]
    return [
        Phrase(line.korean.format(who=who.korean), line.english.format(who=who.english, his=lead.his))
        for line, who in zip(templates, names, strict=False)
    ]


def _exercise(choices: Choices) -> list[Phrase]:
    """Return a scene, then questions about it, each with its answer."""
    told = scene(choices)
    while is_held_out(told.story):
        told = scene(choices)
    asked = choices.several(told.asked, min(_QUESTIONS, len(told.asked)))
    return [told.story, *(line for one in asked for line in (one.question, one.answer))]


def _habits(choices: Choices) -> list[Phrase]:
    """Return what somebody does again and again, in the present tense."""
    speaker = choices.one([one for one in SPEAKERS if one.korean in _PRONOUNS])
    place = choices.one(PLACES)
    verb, done = choices.one(ACTIVITIES[place])
    when = HABIT if place in (SCHOOL, PARK, LIBRARY, GARDEN, STATION) else SUNDAYS
    goes = clause(speaker, GO, when, f"{place.korean}에", f"to {place.english}")
    act = verb.third if speaker.is_third else verb.base
    liking = clause(speaker, LIKE, PRESENT, target(place.korean), place.english)
    pronoun = _PRONOUNS[speaker.korean]
    return [
        Phrase(f"{goes.korean}.", f"{goes.english}."),
        Phrase(
            f"그곳에서 {target(done.korean)} {verb.present}.",
            f"There {pronoun} {act} {indefinite(done.english)}.",
        ),
        Phrase(f"{liking.korean}.", f"{liking.english}."),
    ]


def _everyone(choices: Choices) -> list[Phrase]:
    """Return the opinions of some people."""
    first = Phrase("모두 저마다 다른 하루를 보냈다.", "Everyone had a different day.")
    return [first, *(opinion(choices, person).line for person in choices.several(PEOPLE, 3))]


_DOCUMENTS = (*[_story] * 5, _habits, _everyone, *[_phrase_book] * 3, *[_exercise] * 10)
