"""What can be asked about a scene, with the answers."""

from __future__ import annotations

from dataclasses import dataclass

from gencli.text.stories.grammar import target, topic
from gencli.text.stories.lexicon import Item, Person, Phrase, Place, Verb


@dataclass(frozen=True)
class Asked:
    """A question and its answer, in both languages."""

    question: Phrase
    answer: Phrase


def where_went(person: Person, place: Place) -> Asked:
    """Ask for the place that a person went to."""
    question = Phrase(f"{topic(person.korean)} 어디에 갔니?", f"Where did {person.english} go?")
    return Asked(question, Phrase(place.korean, f"to {place.english}"))


def who_went(person: Person, place: Place) -> Asked:
    """Ask for the person who went to a place."""
    return Asked(Phrase(f"누가 {place.korean}에 갔니?", f"Who went to {place.english}?"), person)


def what(person: Person, verb: Verb, done: Phrase) -> Asked:
    """Ask for the object of what a person did."""
    korean, english = (
        f"{topic(person.korean)} 무엇을 {verb.asked}?",
        f"What did {person.english} {verb.base}?",
    )
    return Asked(Phrase(korean, english), done)


def who_received(item: Item, friend: Person) -> Asked:
    """Ask for the person who was given a thing."""
    noun = item.thing
    return Asked(Phrase(f"누가 {target(noun.korean)} 받았니?", f"Who received the {noun.english}?"), friend)


def colour(item: Item) -> list[Asked]:
    """Ask for the colour of a thing or an animal, if it has one."""
    if item.colour is None:
        return []
    noun = item.thing
    question = Phrase(f"{topic(noun.korean)} 무슨 색이었니?", f"What colour was the {noun.english}?")
    return [Asked(question, Phrase(item.colour.name, item.colour.english))]
