"""What a text has to be: a regular expression or a JSON Schema, checked before a model is opened.

llguidance reads both, tells for any beginning which bytes may follow, and has limits on time and memory. It
is imported when the first grammar is made.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gencli.errors import InputError, MachineError, UsageError
from gencli.text.tokenizer import normalised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llguidance import LLMatcher, LLTokenizer

JsonSchema = dict[str, object] | bool

LARGEST_EXACT = 1 << 53  # beyond it a JSON number is not exact everywhere, here neither
_LONGEST_PATTERN = 100_000  # characters
_HEADER = '%llguidance {"no_forcing": true}\n'  # all spellings of a text are free, not only one of them
# one space or none after a comma and a colon, and no other: text without end is not made of spaces
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
_CARETS = re.compile(r"\n {4}( *)\^+ *\n")
_UNKNOWN_KEY = re.compile(r'Unimplemented keys: \["([^"]+)"')


@dataclass(frozen=True)
class Grammar:
    """The texts that are wanted, in the language of llguidance; `name` is what messages call it.

    `pattern` is what stands between the slashes there if it is a regular expression, None for a schema.
    `patterns` are those that a schema has for its strings.
    """

    name: str
    source: str
    pattern: str | None = None
    patterns: tuple[str, ...] = ()

    def matcher(self, tokenizer: LLTokenizer) -> LLMatcher:
        """Return what follows a text, spelt with the tokenizer's ids, from its beginning."""
        return new_matcher(self.source, tokenizer)

    def matches(self, text: str) -> bool:
        """Tell whether a text is one of those that are wanted."""
        matcher = self.matcher(byte_tokenizer())
        data = list(text.encode("utf-8"))
        return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())


def regex_grammar(pattern: str) -> Grammar:
    """Return the grammar of the texts that `pattern` matches from beginning to end, in NFC.

    The syntax is that of Rust's regex crate, which is Python's without look-around, references to groups
    and word borders. Raises UsageError for a pattern that is none, that no text matches, or that is too large.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise UsageError(f"the pattern is longer than {_LONGEST_PATTERN:,} characters")
    pattern = normalised(pattern)
    literal = literal_of(pattern)
    grammar = Grammar("the pattern", f"{_HEADER}start: /{literal}/", literal)
    matcher = grammar.matcher(byte_tokenizer())
    if matcher.is_error():
        reason, place = _complaint(pattern, matcher.get_error())
        raise UsageError(
            f"the pattern can't be followed: {reason}", where=place,
            hint=r"write it like '\d{3}-\d{4}', '[가-힣]+' or '(yes|no)'",
        )  # fmt: skip
    _check_satisfiable(matcher, UsageError("no text matches the pattern", where=pattern))
    return grammar


def schema_grammar(schema: object, where: str = "") -> Grammar:
    """Return the grammar of the JSON values that a schema allows; `where` names it in messages.

    All of JSON Schema 2020-12 that llguidance knows, which refuses the rest: nothing is ignored. Keys come
    in the order of `properties`. Raises InputError for what is no schema, can't be followed, or allows nothing.
    """
    if not isinstance(schema, dict | bool):
        raise InputError(
            "a JSON Schema is an object",
            where=where,
            hint='write it like {"type": "object", "properties": ...}',
        )
    try:
        wanted = _readable({} if schema is True else {"enum": []} if schema is False else schema, where)
        source = f"{_HEADER}start: %json {json.dumps({**wanted, 'x-guidance': _JSON_STYLE})}"
    except RecursionError:
        raise InputError("the schema is nested too deeply", where=where) from None
    patterns = {value for _, key, value in _places(wanted) if key == "pattern" and isinstance(value, str)}
    grammar = Grammar("the schema", source, patterns=tuple(sorted(patterns)))
    matcher = grammar.matcher(byte_tokenizer())
    if matcher.is_error():
        raise _schema_error(wanted, matcher.get_error(), where)
    _check_satisfiable(matcher, InputError("the schema allows no value", where=where))
    return grammar


def literal_of(pattern: str) -> str:
    """Return a pattern as it stands between slashes in the language of llguidance."""
    made: dict[str, Any] = json.loads(_library().LLMatcher.grammar_from_regex(pattern))
    source: str = made["grammars"][0]["lark_grammar"]
    return source.removeprefix("start: ")[1:-1]


def new_matcher(source: str, tokenizer: LLTokenizer) -> LLMatcher:
    """Return a matcher, or one that is in error."""
    library = _library()
    limits = library.LLParserLimits(max_lexer_states=100_000, verbose_errors=False)
    matcher: LLMatcher = library.LLMatcher(tokenizer, source, log_level=0, limits=limits)
    return matcher


@functools.cache
def byte_tokenizer() -> LLTokenizer:
    """Return the tokenizer whose ids are the bytes; its end of text comes after them."""
    tokenizer: LLTokenizer = _library().LLTokenizer("byte")
    return tokenizer


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = ()

    def __init__(self, piece_bytes: Sequence[bytes], end: int) -> None:
        self.eos_token_id = end
        # 0xFF marks what no text can spell
        self.tokens = [piece or b"\xff<%d>" % identity for identity, piece in enumerate(piece_bytes)]


@functools.lru_cache(maxsize=1)
def id_tokenizer(piece_bytes: tuple[bytes, ...], end: int) -> LLTokenizer:
    """Return the tokenizer whose ids stand for `piece_bytes`; an id without bytes never comes but `end`."""
    tokenizer: LLTokenizer = _library().LLTokenizer(_Vocabulary(piece_bytes, end), slices=[])
    return tokenizer


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MachineError(
            "patterns and schemas need the package llguidance, which can't be loaded here",
            where=str(error), hint="pip install llguidance",
        ) from error  # fmt: skip
    return llguidance


def _complaint(pattern: str, told: str) -> tuple[str, str]:
    """Return llguidance's complaint about a pattern as a reason and a place."""
    reason = next((line[7:] for line in told.split("\n") if line.startswith("error: ")), "")
    carets = _CARETS.search(told)
    if reason and carets:
        # it counts in the pattern as it stands between slashes, where some characters are two
        place = bisect.bisect_left(
            range(len(pattern)), len(carets[1]), key=lambda size: len(literal_of(pattern[:size]))
        )
        return reason, f"character {place + 1} of {pattern}"
    reason = told.rsplit("(in regex): ", maxsplit=1)[-1].split("\n", maxsplit=1)[0].strip()
    return "word borders are not supported" if "lookarounds" in reason else reason, pattern


def _schema_error(schema: Any, told: str, where: str) -> InputError:
    """Return llguidance's complaint about a schema, with the place in it where that is known."""
    reason = told.rpartition("failed to compile JSON schema: ")[2].partition("\n")[0].partition(". Enable")[0]
    places = list(_places(schema))
    unknown = _UNKNOWN_KEY.match(reason)
    place = next((path for path, key, _ in places if unknown and key == unknown[1]), "")
    if unknown:
        reason = f"{unknown[1]} is not supported"
    for path, key, value in places:
        if key == "pattern" and isinstance(value, str) and "regex" in reason:
            matcher = new_matcher(f"{_HEADER}start: /{literal_of(value)}/", byte_tokenizer())
            if matcher.is_error():
                reason, at = _complaint(value, matcher.get_error())
                place = f"{path}, {at}"
                break
    return InputError(
        f"the schema can't be followed: {reason[:1].lower()}{reason[1:].strip()}",
        where=f"{where} {place}".strip(),
    )


def _places(value: Any, path: str = "#") -> Iterator[tuple[str, str, Any]]:
    """Yield (JSON pointer, key, value) for each key of a schema, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield f"{path}/{key}", key, inner
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from _places(inner, f"{path}/{key}")


def _check_satisfiable(matcher: LLMatcher, error: UsageError | InputError) -> None:
    if not matcher.is_accepting():
        matcher.compute_bitmask()
        if matcher.is_stopped():
            raise error


def _readable(value: Any, where: str) -> Any:
    """Return a schema with its texts in NFC. Raises InputError for what llguidance would get wrong."""
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, dict):
        fewest, required = value.get("minProperties"), value.get("required")
        if isinstance(fewest, int) and fewest > max(1, len(required) if isinstance(required, list) else 0):
            raise InputError(
                "the schema can't be followed: minProperties above the number of required keys", where=where
            )
        return {normalised(str(key)): _readable(inner, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(inner, where) for inner in value]
    if isinstance(value, int) and abs(value) > LARGEST_EXACT:
        raise InputError(f"the schema can't be followed: {value} is too large a number", where=where)
    return value
