"""Sentences that say how somebody felt or what they thought of a place, with whether that is good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.text.stories.grammar import indefinite, subject, target, topic, with_particle
from gencli.text.stories.lexicon import (
    ANGRY,
    BAD_FEELINGS,
    CAKE,
    COLOURED,
    DELIGHTED,
    EXCITED,
    GLAD,
    GOOD_FEELINGS,
    HAPPY,
    LONELY,
    PLACES,
    PLAIN,
    PROUD,
    SAD,
    SCHOOL,
    UPSET,
    Person,
    Phrase,
)
from gencli.text.stories.sentences import other

if TYPE_CHECKING:
    from gencli.text.stories.choices import Choices

_TURNS = (
    (Phrase("처음에는", "at first"), Phrase("나중에는", "later")),
    (Phrase("아침에는", "in the morning"), Phrase("저녁에는", "in the evening")),
    (Phrase("어제는", "yesterday"), Phrase("오늘은", "today")),
)
_PRAISE = (Phrase("아름답다고", "beautiful"), Phrase("깨끗하다고", "clean"), Phrase("좋다고", "nice"))
_BLAME = (Phrase("더럽다고", "dirty"), Phrase("시끄럽다고", "noisy"), Phrase("지루하다고", "boring"))


@dataclass(frozen=True)
class Opinion:
    """A sentence, and whether it says something good."""

    line: Phrase
    is_good: bool


def opinion(choices: Choices, person: Person) -> Opinion:
    """Return what a person felt or thought; good and bad are equally likely."""
    is_good = choices.chance(0.5)
    kind = choices.one((_feeling, _reason, _turn, _judgement))
    return Opinion(kind(choices, person, is_good), is_good)


def _any_feeling(choices: Choices, is_good: bool) -> Phrase:
    """Return a good or a bad feeling: a Korean predicate in the past, an English adjective."""
    return choices.one(GOOD_FEELINGS if is_good else BAD_FEELINGS)


def _feeling(choices: Choices, person: Person, is_good: bool) -> Phrase:
    felt, place = _any_feeling(choices, is_good), choices.one(PLACES)
    return Phrase(
        f"{topic(person.korean)} {place.korean}에서 {felt.korean}.",
        f"{person.english} was {felt.english} {place.there}.",
    )


def _reason(choices: Choices, person: Person, is_good: bool) -> Phrase:
    reason, feelings = (_good_reason if is_good else _bad_reason)(choices, person)
    felt = choices.one(feelings)
    return Phrase(
        f"{topic(person.korean)} {reason.korean} {felt.korean}.",
        f"{person.english} was {felt.english} because {person.he} {reason.english}.",
    )


def _good_reason(choices: Choices, person: Person) -> tuple[Phrase, tuple[Phrase, ...]]:
    owned, friend = choices.one((*COLOURED, *PLAIN)), other(choices, person)
    given = choices.one((*COLOURED, CAKE))
    return choices.one((
        (Phrase(f"{target(owned.korean)} 찾아서", f"found {person.his} {owned.english}"), (HAPPY, GLAD)),
        (
            Phrase(f"{target(given.korean)} 선물로 받아서", f"got {indefinite(given.english)} as a present"),
            (HAPPY, GLAD, DELIGHTED),
        ),
        (Phrase("상을 받아서", "won a prize"), (HAPPY, GLAD, PROUD, EXCITED)),
        (Phrase(f"{target(friend.korean)} 만나서", f"met {friend.english}"), (HAPPY, GLAD, DELIGHTED)),
    ))  # fmt: skip


def _bad_reason(choices: Choices, person: Person) -> tuple[Phrase, tuple[Phrase, ...]]:
    owned, friend = choices.one((*COLOURED, *PLAIN)), other(choices, person)
    lost = Phrase(f"{target(owned.korean)} 잃어버려서", f"lost {person.his} {owned.english}")
    quarrel = Phrase(f"{with_particle(friend.korean, '과/와')} 싸워서", f"had a fight with {friend.english}")
    missed = Phrase(f"{target(friend.korean)} 만나지 못해서", f"could not meet {friend.english}")
    return choices.one((
        (lost, (SAD, ANGRY, UPSET)), (Phrase("컵을 깨뜨려서", "broke a cup"), (SAD, UPSET)),
        (quarrel, (SAD, ANGRY, UPSET)), (missed, (SAD, LONELY, UPSET)),
    ))  # fmt: skip


def _turn(choices: Choices, person: Person, is_good: bool) -> Phrase:
    first, last = _any_feeling(choices, not is_good), _any_feeling(choices, is_good)
    before, after = choices.one(_TURNS)
    return Phrase(
        f"{topic(person.korean)} {before.korean} {first.korean[:-1]}지만 {after.korean} {last.korean}.",
        f"{person.english} was {first.english} {before.english}, "
        f"but {after.english} {person.he} was {last.english}.",
    )


def _judgement(choices: Choices, person: Person, is_good: bool) -> Phrase:
    quality = choices.one(_PRAISE if is_good else _BLAME)
    place = choices.one([place for place in PLACES if place is not SCHOOL])
    return Phrase(
        f"{topic(person.korean)} {subject(place.korean)} {quality.korean} 생각했다.",
        f"{person.english} thought {place.english} was {quality.english}.",
    )
