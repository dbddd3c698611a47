"""Texts that must match a pattern or a schema: checked with Python's re, json and the jsonschema library."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencli.decoding.beams import search
from gencli.decoding.constraint import Constraint
from gencli.decoding.decoder import Token, generate
from gencli.decoding.endings import Endings, Spelling
from gencli.decoding.grammar import Grammar, byte_tokenizer, regex_grammar, schema_grammar
from gencli.decoding.sampler import Sampling
from gencli.errors import GencliError, InputError, UsageError
from gencli.text.tokenizer import Tokenizer
from tests.conftest import Cli
from tests.trained import trained

TOKENIZER = trained()
FREE = Sampling(temperature=1.0, top_k=0)


class Noise:
    """An engine whose logits are drawn: every row its own, the same whatever rows stand beside it."""

    name, context, threads = "noise", 64, 1

    def __init__(self, tokenizer: Tokenizer, seed: int, rising: str = "") -> None:
        self.vocabulary, self._seed, self._numbers, self._step = tokenizer.vocabulary, seed, [0], 0
        self._rising = tokenizer.encode(rising)

    def _logits(self) -> NDArray[np.float32]:
        rows = [np.random.default_rng([self._seed, one, self._step]) for one in self._numbers]
        logits = np.stack([row.normal(0, 3, self.vocabulary) for row in rows]).astype(np.float32)
        logits[:, self._rising] += 9
        self._step += 1
        return logits

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        self._numbers, self._step = [copy for _ in prompts for copy in range(copies)], 0
        return self._logits()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._logits()

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        return self._logits()

    def keep(self, rows: Sequence[int]) -> None:
        self._numbers = [self._numbers[row] for row in rows]

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        raise AssertionError


def written(
    grammar: Grammar, tokens: int, seed: int = 0, *, copies: int = 1, rising: str = "", **more: Any
) -> list[list[Token]]:
    """Return the tokens of each text that noise writes."""
    rows: list[list[Token]] = [[] for _ in range(copies)]
    engine = Noise(TOKENIZER, seed, rising)
    more = {"sampling": FREE, **more}
    for event in generate(
        engine, TOKENIZER, [[1]], seed=seed, max_new_tokens=tokens, grammar=grammar, copies=copies, **more
    ):
        if isinstance(event, Token):
            rows[event.row].append(event)
    return rows


def text_of(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


ATOMS = st.sampled_from(
    ["a", "가", "나다", " ", r"\.", "[a-c]", "[가-힣]", "[0-9]", "[^a]", ".", "the", "습니다"]
)
COUNTS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{3,}"])


def patterns() -> st.SearchStrategy[str]:
    def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        joined = st.lists(inner, min_size=1, max_size=3).map("".join)
        either = st.lists(joined, min_size=2, max_size=3).map("|".join).map("({})".format)
        return joined | st.builds("{}{}".format, either, COUNTS)

    return st.recursive(st.builds("{}{}".format, ATOMS, COUNTS), deeper, max_leaves=6)


@settings(deadline=None, max_examples=120)
@given(pattern=patterns(), tokens=st.integers(1, 30), seed=st.integers(0, 99))
def test_any_text_matches_whatever_its_budget(pattern: str, tokens: int, seed: int) -> None:
    grammar = regex_grammar(pattern)
    try:
        (row,) = written(grammar, tokens, seed)
    except UsageError as error:
        assert "shortest text found" in error.message
        return
    assert re.fullmatch(pattern, text_of(row)), (pattern, text_of(row))
    assert len(row) <= tokens and row[-1].complete and row[-1].finish in {"stop", "length"}


NAMES = st.sampled_from(["a", "b", "이름", "the"])
FIXED: list[dict[str, Any]] = [
    {"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": ["integer", "null"]}, {"type": "string"},
    {"type": "string", "minLength": 3}, {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^[a-c가]{1,3}$"}, {"type": "string", "pattern": "다$"},
    {"enum": ["good", "나쁨", 7, None]}, {"const": {"a": [1, "둘"]}},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 12.25},
]  # fmt: skip
RANGES = st.builds(
    lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
    st.integers(-200, 200),
    st.integers(0, 300),
)
SHORT = st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 5))
LEAVES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(FIXED) | RANGES | SHORT


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    def deeper(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        lists = st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner, st.integers(0, 2), st.integers(0, 2),
        )  # fmt: skip
        objects = st.builds(
            lambda properties, needed, others: {
                "type": "object", "properties": properties, "additionalProperties": others,
                "required": [name for name in properties if name in needed],
            },
            st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES), st.sampled_from([False, True, {"type": "null"}]),
        )  # fmt: skip
        return lists | objects | st.lists(inner, min_size=2, max_size=2).map(lambda both: {"anyOf": both})

    return st.recursive(LEAVES, deeper, max_leaves=6)


@settings(deadline=None, max_examples=120)
@given(schema=schemas(), tokens=st.integers(1, 70), seed=st.integers(0, 99))
def test_any_json_is_valid_whatever_its_budget(schema: dict[str, Any], tokens: int, seed: int) -> None:
    grammar = schema_grammar(schema)
    try:
        (row,) = written(grammar, tokens, seed)
    except UsageError as error:
        assert "shortest text found" in error.message
        return
    jsonschema.validate(json.loads(text_of(row)), schema, cls=jsonschema.Draft202012Validator)
    assert len(row) <= tokens and row[-1].complete


def test_a_recursive_schema_closes_whatever_is_open() -> None:
    schema = {
        "type": "object", "properties": {"v": {"type": "string"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["v", "next"], "additionalProperties": False,
    }  # fmt: skip
    grammar = schema_grammar(schema)
    depths = set()
    for seed, tokens in itertools.product(range(6), (20, 60)):
        (row,) = written(grammar, tokens, seed, rising='{"v":"next')
        jsonschema.validate(json.loads(text_of(row)), schema)
        depths.add(text_of(row).count("{"))
    assert max(depths) > 2


@pytest.mark.parametrize(
    ("pattern", "language"),
    [
        ("(긍정|부정)", ["긍정", "부정"]),
        ("(the|then|them)( house)?", [a + b for a in ("the", "then", "them") for b in ("", " house")]),
        ("[가나]{1,2}!", ["가!", "나!", "가가!", "가나!", "나가!", "나나!"]),
    ],
)
def test_the_ids_that_may_come_are_those_of_a_text_in_the_language(pattern: str, language: list[str]) -> None:
    """Walks all spellings of a finite language, with each id of the vocabulary tried at each place."""
    constraint = Constraint(regex_grammar(pattern), TOKENIZER)
    texts = {text.encode() for text in language}
    places, seen = [constraint.start(99)], set()
    while places:
        place = places.pop()
        allowed = set(np.flatnonzero(constraint.allowed(place)).tolist())
        expected = {
            identity for identity, piece in enumerate(TOKENIZER.piece_bytes)
            if piece and any(text.startswith(place.written + piece) for text in texts)
        }  # fmt: skip
        assert allowed == expected | ({TOKENIZER.eos} if place.written in texts else set())
        assert place.is_complete() == (place.written in texts)
        assert place.is_over() == (not expected)
        for identity in expected:
            if place.written + TOKENIZER.piece_bytes[identity] not in seen:
                places.append(constraint.advance(place, identity))
                seen.add(places[-1].written)
    assert texts <= seen


def end_of(grammar: Grammar, begun: str | bytes) -> bytes:
    begun = begun.encode() if isinstance(begun, str) else begun
    matcher = grammar.matcher(byte_tokenizer())
    assert matcher.consume_tokens(list(begun))
    found = Endings(grammar, TOKENIZER).found(matcher, begun)
    assert found is not None
    return found.rest()


@pytest.mark.parametrize(
    ("pattern", "begun", "ending"),
    [
        (r".+습니다\.", "오늘은 ", "습니다."), (r".+습니다\.", "오늘은 습니", "다."), (r".*foo", "x" * 300, "foo"),
        ("(a|b)*a(a|b){3}c", "abbb", "c"), ("(yes|nope)!*", "n", "ope"), ("x/y\"'", "x", "/y\"'"),
        ("[가-가]{3}", "가".encode()[:2], b"\x80" + "가가".encode()),
    ],
)  # fmt: skip
def test_the_shortest_way_to_a_match(pattern: str, begun: str | bytes, ending: str | bytes) -> None:
    ending = ending.encode() if isinstance(ending, str) else ending
    assert end_of(regex_grammar(pattern), begun) == ending


@pytest.mark.parametrize(
    ("schema", "begun", "ending"),
    [
        ({}, '[[{"a":"x\\', '""}]]'), ({}, '{"', '":0}'), ({"type": "array"}, "[", "]"),
        ({"enum": ["긍정", "부정"]}, '"부', '정"'), ({"type": "string", "pattern": "foo$"}, '"xf', 'oo"'),
        ({"type": "integer", "minimum": 120}, "1", "20"),
    ],
)  # fmt: skip
def test_the_shortest_way_to_valid_json(schema: dict[str, Any], begun: str, ending: str) -> None:
    found = end_of(schema_grammar(schema), begun)
    json.loads(begun + found.decode())
    assert len(found) <= len(ending.encode())


@settings(deadline=None, max_examples=60)
@given(
    text=st.text(alphabet="abc", min_size=1, max_size=7), more=st.sets(st.text("abc", min_size=2, max_size=3))
)
def test_no_spelling_has_fewer_tokens(text: str, more: set[str]) -> None:
    spelling = Spelling([b"a", b"b", b"c", b"", *(one.encode() for one in more)])
    pieces = {"a", "b", "c", *more}

    def fewest(rest: str) -> int:
        starts = [piece for piece in pieces if rest.startswith(piece)]
        return 1 + min(fewest(rest[len(piece) :]) for piece in starts) if rest else 0

    counts = spelling.fewest(text.encode())
    assert list(counts) == [fewest(text[place:]) for place in range(len(text) + 1)]


def test_a_row_is_the_same_in_any_company() -> None:
    grammar = regex_grammar("[가-힣 ]+(습니다|light)")
    eight = [text_of(row) for row in written(grammar, 12, copies=8)]
    assert len(set(eight)) == 8
    assert [text_of(row) for row in written(grammar, 12, copies=3)] == eight[:3]


def test_greedy_and_search_match_too() -> None:
    for seed, pattern in itertools.product(range(5), ("[가-힣]{2,5}", r"\d{3}-\d{4}", "(a|b)*c")):
        grammar = regex_grammar(pattern)
        (row,) = written(grammar, 8, seed, sampling=Sampling(temperature=0.0))
        assert re.fullmatch(pattern, text_of(row))
        ((_, found),) = search(
            Noise(TOKENIZER, seed),
            TOKENIZER,
            [[1]],
            beams=3,
            sampling=FREE,
            max_new_tokens=8,
            grammar=grammar,
        )
        assert re.fullmatch(pattern, found.text) and found.complete and len(found.ids) <= 8


def test_the_shortest_way_is_kept_to_inside_a_character() -> None:
    pattern = "a|[^a]*가"
    assert "가".encode() not in TOKENIZER.piece_bytes
    for seed in range(40):
        (row,) = written(regex_grammar(pattern), 4, seed)
        assert re.fullmatch(pattern, text_of(row)), text_of(row)


def test_a_budget_that_just_suffices_leaves_the_choice() -> None:
    grammar = regex_grammar(r"\d{3}-\d{4}")
    texts = {text_of(row) for row in written(grammar, 8, copies=20)}
    assert len(texts) == 20
    with pytest.raises(UsageError, match="takes 8 tokens, and 7 may be written"):
        written(grammar, 7)


def test_other_rules_give_way_but_stop_strings() -> None:
    (row,) = written(regex_grammar("[ab]{6}"), 9, bans=["b"], min_new_tokens=9, sampling=Sampling(top_k=1))
    assert text_of(row) == "aaaaaa"
    assert {text_of(row) for row in written(regex_grammar("긍정|부정"), 9, bans=["정"])} <= {"긍정", "부정"}
    (row,) = written(regex_grammar("a{9}"), 20, stop=["aaaa"])
    assert text_of(row) == "" and row[-1].finish == "stop" and not row[-1].complete
    (row,) = written(regex_grammar("a+b*"), 20, stop=["b"], rising="b")
    assert re.fullmatch("a+", text_of(row)) and row[-1].complete


def test_a_pattern_is_read_in_nfc() -> None:
    (row,) = written(regex_grammar("\u1112\u1161\u11ab"), 9)
    assert text_of(row) == "한"
    (row,) = written(schema_grammar({"const": "\u1112\u1161\u11ab"}), 9)
    assert json.loads(text_of(row)) == "한"


@pytest.mark.parametrize(
    ("pattern", "told", "place"),
    [
        ("가(나", "unclosed group", "character 2 of"), ("a/b[c", "unclosed character class", "character 4 of"),
        (r"(a)\1", "backreferences are not supported", "character 4 of"), ("a(?=b)", "look-around", "character 2"),
        (r"\bx", "word borders are not supported", ""), (r"[^\s\S]", "no text matches", ""),
        ("a{5,2}", "invalid repetition count range", "character 2"), ("*", "missing expression", "character 1"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_told_with_its_place(pattern: str, told: str, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        regex_grammar(pattern)
    assert told in caught.value.message and place in caught.value.where and pattern in caught.value.where


@pytest.mark.parametrize(
    ("schema", "told", "place"),
    [
        ({"items": {"uniqueItems": True}}, "uniqueItems is not supported", "#/items/uniqueItems"),
        ({"items": {"type": "string", "pattern": "a(b"}}, "unclosed group", "#/items/pattern, character 2 of a(b"),
        ({"enum": []}, "unsatisfiable", "s.json"), ({"$ref": "#"}, "allows no value", "s.json"),
        ({"type": "text"}, "invalid type: text", ""), ({"$ref": "#/$defs/x"}, "does not exist", ""),
        ({"const": 10**20}, "too large a number", ""), ({"minProperties": 2}, "minProperties", ""), ([1], "an object", ""),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum (3) is greater", ""), (False, "anyOf is empty", ""),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_told_with_its_place(schema: object, told: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        schema_grammar(schema, "s.json")
    assert told in caught.value.message and place in caught.value.where


@pytest.mark.parametrize(
    "pattern",
    [r"(a|b)*a(a|b){20}", r"(\w{1000}){1000}", r"((a{0,99}){0,99}){0,99}b", r"(.*a){30}", r"(x+x+)+y"],
)
def test_a_pattern_that_explodes_elsewhere_ends_in_time(pattern: str) -> None:
    try:
        (row,) = written(regex_grammar(pattern), 40, rising="abxy")
    except GencliError:
        return
    assert row[-1].complete and len(row) <= 40


OPTIONS = ["-n", 30, "-s", 1, "-q", "--json"]
SCHEMA = {
    "type": "object",
    "properties": {"강": {"enum": [1, "산"]}},
    "required": ["강"],
    "additionalProperties": False,
}


def test_one_prompt_several_samples_and_many_prompts(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "-m", model_folder, *OPTIONS, "--regex", "[가-힣]+ (sea|sky)"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("강\nsea\n", encoding="utf-8")
    records = [
        *cli(*arguments, "강").records, *cli(*arguments, "강", "--num-samples", 5).records,
        *cli(*arguments, "--input", prompts).records, *cli(*arguments, "강", "--beams", 3).records,
    ]  # fmt: skip
    assert len(records) == 9
    for record in records:
        assert re.fullmatch("[가-힣]+ (sea|sky)", str(record["text"])) and record["matches"] is True
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    for wanted in (schema, json.dumps(SCHEMA)):
        outcome = cli("generate", "강", "-m", model_folder, *OPTIONS, "--json-schema", wanted)
        jsonschema.validate(json.loads(str(outcome.records[0]["text"])), SCHEMA)


def test_a_text_that_ends_too_early_is_told(cli: Cli, model_folder: Path) -> None:
    arguments = ["generate", "강", "-m", model_folder, "-n", 30, "-s", 1, "--regex", "[a-z]{20}"]
    letters = [flag for letter in "abcdefghijklmnopqrstuvwxyz" for flag in ("--stop", letter)]
    stopped = cli(*arguments, *letters, "--json")
    assert stopped.records[0]["matches"] is False
    assert "a text ended at a stop string before matching the pattern" in stopped.err
    endless = (
        '{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"],"additionalProperties":false}'
    )
    cut = cli("generate", "강", "-m", model_folder, "-n", 9, "--json-schema", endless, "--num-samples", 2)
    assert cut.code == 0 and "2 texts ended at --max-new-tokens before matching the schema" in cut.err


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--regex", "a(b"], 2, "unclosed group"), (["--json-schema", "none.json"], 3, "no such file"),
        (["--json-schema", "."], 3, "not in a regular file"), (["--json-schema", '{"type":'], 3, "--json-schema:1:9"),
        (["--regex", "a", "--json-schema", "{}"], 2, "can't both"), (["--regex", "a", "--choices", "a,b"], 2, "--choices"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_model_is_opened(
    cli: Cli, flags: list[str], code: int, told: str
) -> None:
    outcome = cli("generate", "x", "-m", "nowhere", *flags)
    assert (outcome.code, outcome.out) == (code, "") and told in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6
