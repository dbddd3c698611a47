"""Single sentences of the demo's world, each in Korean and English: plain statements and opinions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from gencli.text.stories.grammar import indefinite, subject, target, topic
from gencli.text.stories.lexicon import (
    ANIMALS,
    APPLE,
    BAKERY,
    BEACH,
    BOOK,
    BUY,
    COLOURED,
    COLOURS,
    COOKIE,
    DRAW,
    EAT,
    EGG,
    FARM,
    FOODS,
    FUR_COLOURS,
    GARDEN,
    GIVE,
    GO,
    HABITATS,
    LIBRARY,
    LIKE,
    MARKET,
    MEET,
    PARK,
    PEOPLE,
    PLACES,
    PLAIN,
    READ,
    SCHOOL,
    SEE,
    SHOP,
    STATION,
    ZOO,
    Colour,
    Item,
    Person,
    Phrase,
    Place,
    Verb,
)

if TYPE_CHECKING:
    from gencli.text.stories.choices import Choices


def other(choices: Choices, *people: Person) -> Person:
    """Return somebody who is not among `people`."""
    return choices.one([person for person in PEOPLE if person not in people])


@dataclass(frozen=True)
class Speaker(Phrase):
    """The subject of a statement and the English forms of "be" and "have" that agree with it."""

    am: str
    was: str
    have: str

    @property
    def is_third(self) -> bool:
        return self.have == "has"


I = Speaker("나", "I", "am", "was", "have")  # noqa: E741
WE = Speaker("우리", "We", "are", "were", "have")
SPEAKERS = (
    I, WE, Speaker("너", "You", "are", "were", "have"), Speaker("그들", "They", "are", "were", "have"),
    *(
        Speaker(korean, english, "is", "was", "has")
        for korean, english in (
            ("그", "He"), ("그녀", "She"), ("내 친구", "My friend"), ("선생님", "The teacher"),
            *((person.korean, person.english) for person in PEOPLE),
        )
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Time:
    """A tense, and perhaps an adverb that goes with it."""

    tense: str
    adverb: Phrase | None = None


PRESENT, PAST = Time("present"), Time("past")
HABIT = Time("present", Phrase("매일", "every day"))
SUNDAYS = Time("present", Phrase("일요일마다", "every Sunday"))
SCHOOL_SENTENCE = Phrase("나는 학교에 간다", "I go to school")
_TIMES = (
    PRESENT, HABIT, PAST, Time("past", Phrase("어제", "yesterday")),
    Time("future"), Time("future", Phrase("내일", "tomorrow")),
)  # fmt: skip
_PLACES_TO: dict[Verb, tuple[Place, ...]] = {
    EAT: (SCHOOL, PARK, BEACH, BAKERY, ZOO, GARDEN, FARM, STATION),
    READ: (LIBRARY, SCHOOL, PARK, STATION, GARDEN, BEACH),
    BUY: (MARKET, SHOP),
}


def clause(speaker: Speaker, verb: Verb, time: Time, korean: str, english: str) -> Phrase:
    """Return "speaker verb complement": `korean` stands before its verb, `english` after it."""
    tense, adverb = time.tense, time.adverb
    if tense == "future":
        forms = verb.future, f"will {verb.base}"
    elif tense == "past":
        forms = verb.past, verb.preterite
    else:
        forms = verb.present, verb.third if speaker.is_third else verb.base
    before, after = (f"{adverb.korean} ", f" {adverb.english}") if adverb else ("", "")
    return Phrase(
        f"{topic(speaker.korean)} {before}{korean} {forms[0]}",
        f"{speaker.english} {forms[1]} {english}{after}",
    )


def is_held_out(line: Phrase) -> bool:
    """Return whether what a sentence or story says is kept for testing: about one in eight.

    A function of the English alone, so that neither language, and no seed, ever gives it away.
    """
    return line.english == SCHOOL_SENTENCE.english or crc32(line.english.encode()) % 8 == 0


def statement(choices: Choices) -> Phrase:
    """Return a plain sentence without a full stop, such as 나는 학교에 간다 / I go to school."""
    speaker, time = choices.one(SPEAKERS), choices.one(_TIMES)
    kind = choices.one((_going, _going, _being, _liking, _having, _giving, _doing, _doing, _doing))
    return kind(choices, speaker, time)


def _going(choices: Choices, speaker: Speaker, time: Time) -> Phrase:
    place = choices.one(PLACES)
    return clause(speaker, GO, time, f"{place.korean}에", f"to {place.english}")


def _being(choices: Choices, speaker: Speaker, time: Time) -> Phrase:
    place = choices.one(PLACES)
    korean, english = ("있었다", speaker.was) if time.tense == "past" else ("있다", speaker.am)
    return Phrase(
        f"{topic(speaker.korean)} {place.korean}에 {korean}", f"{speaker.english} {english} {place.there}"
    )


def _liking(choices: Choices, speaker: Speaker, _: Time) -> Phrase:
    liked = choices.one((*ANIMALS, APPLE, EGG))
    return clause(speaker, LIKE, PRESENT, target(liked.korean), plural(liked.english))


def _having(choices: Choices, speaker: Speaker, time: Time) -> Phrase:
    item = thing(choices)
    korean, english = ("있었다", "had") if time.tense == "past" else ("있다", speaker.have)
    return Phrase(
        f"{topic(speaker.korean)} {subject(item.korean)} {korean}",
        f"{speaker.english} {english} {indefinite(item.english)}",
    )


def _giving(choices: Choices, speaker: Speaker, time: Time) -> Phrase:
    friend, item = _friend(choices, speaker), thing(choices)
    return clause(
        speaker, GIVE, _once(time), f"{friend.korean}에게 {target(item.korean)}",
        f"{friend.english} {indefinite(item.english)}",
    )  # fmt: skip


def _doing(choices: Choices, speaker: Speaker, time: Time) -> Phrase:
    verb = choices.one((EAT, READ, DRAW, MEET, BUY, SEE))
    if verb is MEET:
        friend = _friend(choices, speaker)
        korean, english = friend.korean, friend.english
        places: tuple[Place, ...] = PLACES
    else:
        item = _fitting(choices, verb)
        korean, english = item.korean, indefinite(item.english)
        places = _PLACES_TO.get(verb) or tuple(
            place for place in PLACES if item.thing in HABITATS.get(place, ())
        )
    when = _once(time) if verb is BUY else time
    if choices.chance(0.5):
        place = choices.one(places)
        return clause(speaker, verb, when, f"{place.korean}에서 {target(korean)}", f"{english} {place.there}")
    return clause(speaker, verb, when, target(korean), english)


def _once(time: Time) -> Time:
    return PRESENT if time is HABIT else time


def _friend(choices: Choices, speaker: Speaker) -> Person:
    return choices.one([person for person in PEOPLE if person.korean != speaker.korean])


def _fitting(choices: Choices, verb: Verb) -> Item:
    if verb is EAT:
        return Item(choices.one((APPLE, EGG, COOKIE)))
    if verb is READ:
        return coloured(choices, BOOK)
    if verb is BUY:
        return thing(choices)
    animal = choices.one(ANIMALS)
    return coloured(choices, animal) if verb is DRAW else Item(animal)


def coloured(choices: Choices, word: Phrase, share: float = 0.5) -> Item:
    """Return the thing or animal, with a likely colour in `share` of the cases."""
    if not choices.chance(share):
        return Item(word)
    return Item(word, choices.one(_colours(word)))


def _colours(word: Phrase) -> tuple[Colour, ...]:
    return FUR_COLOURS if word in ANIMALS else COLOURS


def thing(choices: Choices, share: float = 0.5) -> Item:
    """Return something that a person can own, coloured in `share` of the cases where that makes sense."""
    word = choices.one((*COLOURED, *COLOURED, *PLAIN, *FOODS))
    return coloured(choices, word, share) if word in COLOURED else Item(word)


def plural(noun: str) -> str:
    """Return the plural of a noun of the lexicon."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
