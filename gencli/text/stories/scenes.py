"""What happens in the demo's world: scenes of two or three sentences, with questions a reader can answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.text.stories.grammar import indefinite, subject, target, topic, with_particle
from gencli.text.stories.lexicon import (
    ACTIVITIES,
    BAKERY,
    BEAR,
    BIRD,
    BUY,
    CAKE,
    COLOURED,
    DUCK,
    ELEPHANT,
    FUR_COLOURS,
    HABITATS,
    LOSE,
    MARKET,
    PEOPLE,
    PET_FOODS,
    PET_NAMES,
    PETS,
    PLACES,
    PLAIN,
    SEE,
    SHOP,
    WEATHER,
    Item,
    Person,
    Phrase,
    Place,
)
from gencli.text.stories.questions import Asked, colour, what, where_went, who_received, who_went
from gencli.text.stories.sentences import coloured, other, thing

if TYPE_CHECKING:
    from gencli.text.stories.choices import Choices


@dataclass(frozen=True)
class Scene:
    """What happens, to whom, and what can be asked.

    `is_dated` if "One day" can stand before it; `is_good` if it leaves the lead in a good mood.
    """

    lead: Person
    lines: tuple[Phrase, ...]
    asked: tuple[Asked, ...]
    is_dated: bool = True
    is_good: bool = True

    @property
    def story(self) -> Phrase:
        """Return the lines as one text."""
        return Phrase(" ".join(one.korean for one in self.lines), " ".join(one.english for one in self.lines))


def scene(choices: Choices) -> Scene:
    """Return a random scene."""
    return choices.one((_shopping, _outing, _meeting, _loss, _gift, _sighting, _pet, _weather))(choices)


def _shopping(choices: Choices) -> Scene:
    person, place = choices.one(PEOPLE), choices.one((MARKET, SHOP, BAKERY))
    item = Item(CAKE) if place is BAKERY else thing(choices, 0.8)
    lines = [
        _went(choices, person, place),
        Phrase(f"{target(item.korean)} 샀다.", f"{person.he.capitalize()} bought {item.one.english}."),
    ]
    asked = [where_went(person, place), what(person, BUY, item.one), *colour(item)]
    if choices.chance(0.4):
        friend, word = other(choices, person), item.thing
        korean = f"{topic(person.korean)} {friend.korean}에게 {target(word.korean)} 주었다."
        lines.append(Phrase(korean, f"{person.he.capitalize()} gave the {word.english} to {friend.english}."))
        asked.append(who_received(item, friend))
    else:
        asked.append(who_went(person, place))
    return Scene(person, tuple(lines), tuple(asked))


def _outing(choices: Choices) -> Scene:
    person, place = choices.one(PEOPLE), choices.one(PLACES)
    verb, done = choices.one(ACTIVITIES[place])
    act = f"{person.he.capitalize()} {verb.preterite} {indefinite(done.english)}."
    lines = [_went(choices, person, place), Phrase(f"{target(done.korean)} {verb.past}.", act)]
    asked = [where_went(person, place), what(person, verb, Item(done).one)]
    if choices.chance(0.4):
        friend = other(choices, person)
        lines.append(Phrase(f"{friend.korean}도 그곳에 있었다.", f"{friend.english} was there too."))
    else:
        asked.append(who_went(person, place))
    return Scene(person, tuple(lines), tuple(asked))


def _meeting(choices: Choices) -> Scene:
    first, second = choices.several(PEOPLE, 2)
    here, there, between = choices.several(PLACES, 3)
    lines = [_went(choices, first, here), _went(choices, second, there)]
    asked = [make(*pair) for make in (where_went, who_went) for pair in ((first, here), (second, there))]
    if choices.chance(0.5):
        lines.append(
            Phrase(f"나중에 두 사람은 {between.korean}에서 만났다.", f"Later they met {between.there}.")
        )
        question = Phrase("두 사람은 어디에서 만났니?", "Where did they meet?")
        asked.append(Asked(question, between.location))
    return Scene(first, tuple(lines), tuple(asked))


def _loss(choices: Choices) -> Scene:
    person, place, word = choices.one(PEOPLE), choices.one(PLACES), choices.one((*COLOURED, *PLAIN))
    item = coloured(choices, word) if word in COLOURED else Item(word)
    his, who = f"{person.his} {item.english}", topic(person.korean)
    lines = [Phrase(f"{who} {target(item.korean)} 잃어버렸다.", f"{person.english} lost {his}.")]
    lost = Phrase(f"{who} 무엇을 잃어버렸니?", f"What did {person.english} lose?")
    where = Phrase(
        f"{who} 어디에서 {target(word.korean)} 찾았니?",
        f"Where did {person.english} find the {word.english}?",
    )
    asked = [
        Asked(lost, Phrase(item.korean, his)),
        Asked(where, place.location),
        *colour(item),
    ]
    finder, he = person.he.capitalize(), ""
    if choices.chance(0.5):
        friend = other(choices, person)
        helped = f"{subject(friend.korean)} {target(person.korean)} 도와주었다."
        lines.append(Phrase(helped, f"{friend.english} helped {person.him}."))
        helper = Phrase(f"누가 {target(person.korean)} 도와주었니?", f"Who helped {person.english}?")
        asked.append(Asked(helper, friend))
        finder, he = person.english, f"{who} "
    lines.append(
        Phrase(f"{he}{place.korean}에서 {target(word.korean)} 찾았다.", f"{finder} found it {place.there}.")
    )
    return Scene(person, tuple(lines), tuple(asked))


def _gift(choices: Choices) -> Scene:
    giver, friend = choices.several(PEOPLE, 2)
    item = thing(choices, 0.8)
    given = f"{topic(giver.korean)} {friend.korean}에게 {target(item.korean)} 주었다."
    thanks = choices.one((
        Phrase("고맙다고 말했다", "said thank you"), Phrase("활짝 웃었다", "smiled happily"),
        Phrase("선물이 마음에 들었다", "liked the present"),
    ))  # fmt: skip
    lines = (
        Phrase(given, f"{giver.english} gave {friend.english} {item.one.english}."),
        Phrase(f"{topic(friend.korean)} {thanks.korean}.", f"{friend.english} {thanks.english}."),
    )
    given_what = Phrase(
        f"{topic(giver.korean)} {friend.korean}에게 무엇을 주었니?",
        f"What did {giver.english} give to {friend.english}?",
    )
    who = Phrase(f"누가 {target(item.thing.korean)} 주었니?", f"Who gave the {item.thing.english}?")
    asked = (
        Asked(given_what, item.one), Asked(who, giver),
        who_received(item, friend), *colour(item),
    )  # fmt: skip
    return Scene(giver, lines, asked)


def _sighting(choices: Choices) -> Scene:
    person, place = choices.one(PEOPLE), choices.one(list(HABITATS))
    animal = choices.one(HABITATS[place])
    item = Item(animal) if animal in (ELEPHANT, BEAR) else coloured(choices, animal, 0.8)
    action = choices.one((
        Phrase("잠을 자고 있었다", "was sleeping"), Phrase("물을 마셨다", "drank some water"),
        Phrase("조용히 앉아 있었다", "sat quietly"), _parting(animal),
    ))  # fmt: skip
    who = topic(person.korean)
    seen = Phrase(
        f"{who} {place.korean}에서 {target(item.korean)} 보았다.",
        f"{person.english} saw {item.one.english} {place.there}.",
    )
    then = Phrase(f"{topic(animal.korean)} {action.korean}.", f"The {animal.english} {action.english}.")
    where = Phrase(
        f"{who} 어디에서 {target(animal.korean)} 보았니?",
        f"Where did {person.english} see the {animal.english}?",
    )
    asked = (
        what(person, SEE, item.one), Asked(where, place.location), *colour(item),
    )  # fmt: skip
    return Scene(person, (seen, then), asked)


def _parting(animal: Phrase) -> Phrase:
    if animal in (ELEPHANT, BEAR):
        return Phrase("과일을 먹었다", "ate some fruit")
    return Phrase("날아갔다", "flew away") if animal in (BIRD, DUCK) else Phrase("달아났다", "ran away")


def _pet(choices: Choices) -> Scene:
    person, animal, name = choices.one(PEOPLE), choices.one(PETS), choices.one(PET_NAMES)
    item, food = Item(animal, choices.one(FUR_COLOURS)), choices.one(PET_FOODS[animal])
    named = f"{animal.korean}의 이름은 {with_particle(name.korean, '이었다/였다')}."
    lines = (
        Phrase(
            f"{person.korean}에게는 {subject(item.korean)} 있었다.",
            f"{person.english} had {item.one.english}.",
        ),
        Phrase(named, f"The {animal.english}'s name was {name.english}."),
        Phrase(
            f"{topic(name.korean)} {target(food.korean)} 좋아했다.", f"{name.english} liked {food.english}."
        ),
    )
    called = Phrase(f"{animal.korean}의 이름은 무엇이었니?", f"What was the {animal.english}'s name?")
    eaten = Phrase(f"{topic(name.korean)} 무엇을 좋아했니?", f"What did {name.english} like?")
    owner = Phrase(f"누구에게 {subject(animal.korean)} 있었니?", f"Who had a {animal.english}?")
    asked = (
        Asked(called, name), Asked(eaten, food),
        Asked(owner, person), *colour(item),
    )  # fmt: skip
    return Scene(person, lines, asked, is_dated=False)


def _weather(choices: Choices) -> Scene:
    weather, verb, word, places = choices.one(WEATHER)
    person, place = choices.one(PEOPLE), choices.one(places)
    item = coloured(choices, word, 0.8) if word in COLOURED else Item(word)
    did = f"{topic(person.korean)} {place.korean}에서 {target(item.korean)} {verb.past}."
    line = Phrase(did, f"{person.english} {verb.preterite} {item.one.english} {place.there}.")
    where = Phrase(
        f"{topic(person.korean)} 어디에서 {target(word.korean)} {verb.asked}?",
        f"Where did {person.english} {verb.base} the {word.english}?",
    )
    who = Phrase(f"누가 {target(word.korean)} {verb.asked}?", f"Who {verb.preterite} the {word.english}?")
    asked = (
        what(person, verb, item.one), Asked(where, place.location),
        Asked(who, person), *colour(item),
    )  # fmt: skip
    return Scene(person, (weather, line), asked, is_good=verb is not LOSE)


def _went(choices: Choices, person: Person, place: Place) -> Phrase:
    korean, english = choices.one(
        (("에 갔다", "went"), ("으로/로 걸어갔다", "walked"), ("으로/로 달려갔다", "ran"))
    )
    particle, verb = korean.split(" ")
    where = with_particle(place.korean, particle) if "/" in particle else place.korean + particle
    return Phrase(
        f"{topic(person.korean)} {where} {verb}.", f"{person.english} {english} to {place.english}."
    )
