from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import UsageError
from gencli.text.stories import Example, corpus_text, examples, pairs_lines, stories
from gencli.text.stories.choices import Choices
from gencli.text.stories.grammar import indefinite, target, topic, with_particle
from gencli.text.stories.lexicon import ANIMALS, COLOURED, COLOURS, PEOPLE, PLACES, PLAIN
from gencli.text.stories.scenes import scene
from gencli.text.stories.sentences import SPEAKERS, Time, clause, is_held_out, plural, statement

TRAIN, TEST = examples(seed=0, train=1800, test=300)
DOCUMENTS = list(stories(seed=0, count=1500))
SYLLABLES = st.integers(0xAC00, 0xD7A3).map(chr)
KOREAN = re.compile("[가-힣]")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def final_of(syllable: str) -> str:
    """Return the final consonant as a conjoining jamo, by way of Unicode's decomposition."""
    return unicodedata.normalize("NFD", syllable)[2:]


def test_the_same_seed_gives_the_same_text_on_every_machine() -> None:
    text = corpus_text(stories(seed=7, count=40))
    text += "".join(pairs_lines(part) for part in examples(seed=7, train=600, test=60))
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "904b15d457e00d654157bb75f638fcc85f976b9fa8e41983ab6fc4870437ea89"
    )


def test_another_seed_gives_other_text() -> None:
    assert list(stories(seed=0, count=20)) != list(stories(seed=1, count=20))
    assert examples(seed=0, train=600, test=9)[0] != examples(seed=1, train=600, test=9)[0]


def test_a_shorter_corpus_is_the_beginning_of_a_longer_one() -> None:
    assert list(stories(seed=0, count=100)) == DOCUMENTS[:100]


def test_the_default_corpus_has_the_promised_size_and_is_made_at_once() -> None:
    started = time.process_time()
    text = corpus_text(stories())
    assert time.process_time() - started < 2
    assert 500_000 < len(text.encode()) < 800_000
    assert text.count("\n\n") == 2999
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_documents_hold_no_blank_line_and_no_stray_space() -> None:
    for document in DOCUMENTS:
        assert all(line == line.strip() and line for line in document.split("\n"))
        assert "  " not in document
        assert "{" not in document
        assert document == unicodedata.normalize("NFC", document)


def test_both_languages_have_their_share_of_the_corpus() -> None:
    kinds = Counter(
        "both"
        if KOREAN.search(one) and re.search("[A-Za-z]", one)
        else "korean"
        if KOREAN.search(one)
        else "english"
        for one in DOCUMENTS
    )
    assert all(kinds[kind] > 0.12 * len(DOCUMENTS) for kind in ("both", "korean", "english"))
    assert abs(kinds["korean"] - kinds["english"]) < 0.1 * len(DOCUMENTS)


def test_a_story_has_three_to_six_sentences() -> None:
    told = [one for one in DOCUMENTS if "\n" not in one]
    assert len(told) > 300
    assert all(3 <= len(re.findall(r"\.", one)) <= 6 for one in told)


def test_stories_are_not_told_twice_all_the_time() -> None:
    assert len(set(DOCUMENTS)) > 0.95 * len(DOCUMENTS)


@given(SYLLABLES)
@settings(deadline=None, max_examples=300)
def test_particles_follow_the_final_consonant(syllable: str) -> None:
    closed = final_of(syllable) != ""
    assert topic(syllable) == syllable + ("은" if closed else "는")
    assert target(syllable) == syllable + ("을" if closed else "를")
    assert with_particle(syllable, "이/가") == syllable + ("이" if closed else "가")
    assert with_particle(syllable, "과/와") == syllable + ("과" if closed else "와")
    assert with_particle(syllable, "이었다/였다") == syllable + ("이었다" if closed else "였다")
    takes_ro = final_of(syllable) in ("", "\u11af")
    assert with_particle(syllable, "으로/로") == syllable + ("로" if takes_ro else "으로")


@pytest.mark.parametrize(
    ("word", "pair", "expected"),
    [
        ("미나", "은/는", "미나는"), ("준", "은/는", "준은"), ("시장", "으로/로", "시장으로"), ("책", "을/를", "책을"),
        ("학교", "으로/로", "학교로"), ("말", "으로/로", "말로"), ("사과", "을/를", "사과를"), ("벤", "과/와", "벤과"),
    ],
)  # fmt: skip
def test_particles_of_words(word: str, pair: str, expected: str) -> None:
    assert with_particle(word, pair) == expected


def test_a_word_that_is_not_korean_takes_no_particle() -> None:
    with pytest.raises(ValueError, match="Hangul"):
        topic("Mina")


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an apple"),
        ("book", "a book"),
        ("umbrella", "an umbrella"),
        ("red umbrella", "a red umbrella"),
    ],
)
def test_the_english_article(noun: str, expected: str) -> None:
    assert indefinite(noun) == expected


def test_articles_agree_throughout() -> None:
    text = "\n".join([*DOCUMENTS, *(f"{one.prompt}\n{one.completion}" for one in TRAIN)])
    assert "an apple" in text
    assert "a book" in text
    assert not re.findall(r"\ba [aeiou]", text)
    assert not re.findall(r"\ban [^aeiou]", text)


def test_particles_agree_throughout() -> None:
    nouns = "|".join(word.korean for word in (*PEOPLE, *PLACES, *ANIMALS, *COLOURED, *PLAIN))
    text = "\n".join([*DOCUMENTS, *(one.prompt for one in TRAIN)])
    seen = re.findall(rf"(?<![가-힣])(?:{nouns})(?:은|는|을|를|으로|로)(?![가-힣])", text)
    assert len(seen) > 1000
    for one in set(seen):
        stem = next(noun for noun in nouns.split("|") if re.fullmatch(rf"{noun}(은|는|을|를|으로|로)", one))
        ending = one.removeprefix(stem)
        pair = next(pair for pair in ("은/는", "을/를", "으로/로") if ending in pair.split("/"))
        assert with_particle(stem, pair) == one


def test_verbs_agree_with_their_subject_and_time() -> None:
    from gencli.text.stories.lexicon import GO

    english = {
        (one.english, tense): clause(one, GO, Time(tense), "학교에", "to school").english
        for one in SPEAKERS
        for tense in ("present", "past", "future")
    }
    assert english["I", "present"] == "I go to school"
    assert english["They", "present"] == "They go to school"
    assert english["Mina", "present"] == "Mina goes to school"
    assert english["The teacher", "past"] == "The teacher went to school"
    assert english["We", "future"] == "We will go to school"
    assert clause(SPEAKERS[0], GO, Time("future"), "학교에", "").korean == "나는 학교에 갈 것이다"


def test_plurals() -> None:
    assert [plural(noun) for noun in ("cat", "puppy", "horse")] == ["cats", "puppies", "horses"]


def test_the_school_sentence_is_a_test_example_and_never_learned() -> None:
    school = Example("translation", "나는 학교에 간다", "I go to school")
    for seed in range(3):
        train, test = examples(seed=seed, train=600, test=6)
        assert school in test
        assert all("나는 학교에 간다" not in one.prompt for one in train)
    assert all("I go to school" not in line.split("\n") for line in DOCUMENTS)
    assert all("나는 학교에 간다" not in line.split("\n") for line in DOCUMENTS)


def test_no_test_prompt_is_learned() -> None:
    learned = {one.prompt for one in TRAIN}
    tested = {one.prompt for one in TEST}
    assert not learned & tested
    assert len(learned) == len(TRAIN)
    assert len(tested) == len(TEST)


def test_no_test_story_is_learned_under_another_question() -> None:
    def told(several: list[Example]) -> set[str]:
        return {one.prompt.split("\n")[0] for one in several if one.task == "question"}

    assert told(TEST)
    assert not told(TRAIN) & told(TEST)


def test_no_test_translation_is_learned_by_its_english() -> None:
    def english(several: list[Example]) -> set[str]:
        return {one.completion for one in several if one.task == "translation"}

    assert english(TEST)
    assert not english(TRAIN) & english(TEST)


@pytest.mark.parametrize("seed", [0, 5])
def test_no_document_gives_a_test_example_away(seed: int) -> None:
    lines = {line for document in stories(seed=seed) for line in document.split("\n")}
    for one in TEST:
        if one.task == "translation":
            assert one.prompt not in lines
            assert one.completion not in lines
    pages = [document.split("\n") for document in stories(seed=seed) if "?" in document]
    assert pages
    asked = {f"{page[0]}\n{question}" for page in pages for question in page[1:]}
    assert not asked & {one.prompt for one in TEST}


def test_every_word_of_the_test_is_learned() -> None:
    for train, test in ((TRAIN, TEST), examples(seed=3, train=600, test=60)):
        known = {word for one in train for word in words(f"{one.prompt} {one.completion}")}
        for one in test:
            assert words(f"{one.prompt} {one.completion}") <= known


def test_tasks_and_languages_are_balanced() -> None:
    for part in (TRAIN, TEST):
        tasks = Counter(one.task for one in part)
        assert tasks == dict.fromkeys(("translation", "question", "label"), len(part) // 3)
        for task in ("question", "label"):
            korean = sum(bool(KOREAN.search(one.prompt)) for one in part if one.task == task)
            assert korean == len(part) // 6
        labels = Counter(one.completion for one in part if one.task == "label")
        assert set(labels) == {"긍정", "부정", "positive", "negative"}
        assert min(labels.values()) > 0.3 * len(part) / 6


def test_labels_and_answers_speak_the_language_of_the_prompt() -> None:
    for one in TRAIN + TEST:
        if one.task != "translation":
            assert bool(KOREAN.search(one.prompt)) == bool(KOREAN.search(one.completion))
        else:
            assert KOREAN.search(one.prompt)
            assert not KOREAN.search(one.completion)


def test_answers_are_short_and_can_be_found_in_the_story() -> None:
    names = {colour.name: colour.korean for colour in COLOURS}
    for one in TRAIN + TEST:
        if one.task != "question":
            continue
        story, question = one.prompt.split("\n")
        assert question.endswith("?")
        assert 2 <= story.count(".") <= 3
        assert 1 <= len(one.completion.split()) <= 3
        answer = names.get(one.completion, one.completion).removeprefix("to ")
        assert answer in story


def test_a_question_has_one_answer() -> None:
    choices = Choices(11)
    for _ in range(2000):
        told = scene(choices)
        for language in ("korean", "english"):
            asked = [getattr(one.question, language) for one in told.asked]
            assert len(asked) == len(set(asked))


def test_examples_read_as_meant() -> None:
    assert all(one.task in {"question", "label", "translation"} for one in TRAIN)
    where = [one for one in TRAIN if re.search("Where did .* go", one.prompt)]
    assert any(one.completion == "to the market" for one in where)
    assert any(one.prompt.endswith("어디에 갔니?") and one.completion == "시장" for one in TRAIN)
    assert {"빨간색", "red"} <= {one.completion for one in TRAIN}
    for one in TRAIN:
        if one.task == "label" and "sad, but" not in one.prompt and " was happy" in one.prompt:
            assert one.completion == "positive" or "but" in one.prompt


def test_about_one_statement_in_eight_is_held_out() -> None:
    choices = Choices(2)
    held_out = sum(is_held_out(statement(choices)) for _ in range(4000))
    assert 400 < held_out < 640


def test_pairs_are_json_lines_with_korean_as_it_is() -> None:
    lines = pairs_lines(TEST).splitlines()
    assert len(lines) == len(TEST)
    assert [json.loads(line) for line in lines] == [
        {"prompt": one.prompt, "completion": one.completion} for one in TEST
    ]
    assert "학교" in lines[0]
    assert pairs_lines([]) == ""


def test_more_than_the_grammar_can_tell_is_refused() -> None:
    with pytest.raises(UsageError, match="no label number"):
        examples(seed=0, train=200_000, test=3)


def test_too_few_examples_to_know_the_words_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no \w+ number"):
        examples(seed=0, train=6, test=60)


def test_choices_are_even_and_different() -> None:
    choices = Choices(0)
    counts = Counter(choices.one("abcd") for _ in range(4000))
    assert all(850 < counts[letter] < 1150 for letter in "abcd")
    assert all(len(set(choices.several("abcd", 3))) == 3 for _ in range(50))
    assert sum(choices.chance(0.25) for _ in range(4000)) == pytest.approx(1000, abs=130)
    assert any(a != b for a, b in pairwise(choices.one(range(1000)) for _ in range(10)))
