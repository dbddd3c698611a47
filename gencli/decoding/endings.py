"""The shortest way to complete a text that has been begun, so that a budget never ends too early.

A grammar tells what may follow, not how far its end is. For a regular expression the end is found by asking
for the texts that begin as this one does and are at most k characters longer, for the least k that leaves any. For
JSON it is found by a search over bytes that closes strings, arrays and objects as soon as it can; its answer
is always an end, and nearly always the shortest.
"""

from __future__ import annotations

import functools
import json
import re
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gencli.decoding.grammar import Grammar, byte_tokenizer, id_tokenizer, literal_of, new_matcher
from gencli.text.tokenizer import FIRST_BYTE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llguidance import LLMatcher

    from gencli.text.tokenizer import Tokenizer

LONGEST = 1 << 14  # characters of an end that are looked for
_MOST_STEPS = 4000  # bytes that are tried on the way to the next bracket or comma in JSON
_MOST_STEPS_IN_ALL = 40_000
_MOST_TRIED = 2000  # bytes of parts of an end that are tried
_FEW = 24  # bytes that may come
_QUOTE = ord('"')
_CLOSERS = b"}],"
_USUAL = frozenset(b"0aA -.:@/_")
_SPECIAL = re.compile(r"[^0-9A-Za-z\u00a0-\U0010ffff]")


@dataclass(frozen=True)
class Ending:
    """A text that completes another one, from the byte `begin` of `data` on."""

    data: bytes
    spelling: Spelling
    begin: int = 0

    @cached_property
    def fewest(self) -> tuple[int, ...]:
        """Return how many tokens the rest of `data` takes from each byte on, at least."""
        return self.spelling.fewest(self.data)

    def is_empty(self) -> bool:
        """Tell whether the text is complete without it."""
        return self.begin == len(self.data)

    def fits(self, tokens: int) -> bool:
        """Tell whether so many tokens are enough."""
        return len(self.data) - self.begin <= tokens or self.tokens() <= tokens

    def tokens(self) -> int:
        """Return how many tokens it takes."""
        return self.fewest[self.begin]

    def first(self) -> int:
        """Return the id of its first token."""
        return self.spelling.first(self.data, self.begin, self.fewest)

    def without(self, count: int) -> Ending:
        """Return what is left of it after its first `count` bytes."""
        after = Ending(self.data, self.spelling, min(self.begin + count, len(self.data)))
        if "fewest" in self.__dict__:
            after.__dict__["fewest"] = self.fewest
        return after

    def rest(self) -> bytes:
        """Return its bytes."""
        return self.data[self.begin :]


class Spelling:
    """Spells bytes with as few tokens as a vocabulary allows."""

    def __init__(self, piece_bytes: Sequence[bytes]) -> None:
        self._ids: dict[bytes, int] = {}
        for identity, piece in enumerate(piece_bytes):
            if piece:
                self._ids.setdefault(piece, identity)
        self.lengths = np.array([len(piece) for piece in piece_bytes])
        self._longest = int(self.lengths.max())

    def fewest(self, data: bytes) -> tuple[int, ...]:
        """Return for each place how few tokens spell what comes from there on; every byte is a token."""
        fewest = [0] * (len(data) + 1)
        for place in range(len(data) - 1, -1, -1):
            fewest[place] = 1 + min(fewest[end] for end in self._ends(data, place))
        return tuple(fewest)

    def first(self, data: bytes, place: int, fewest: Sequence[int]) -> int:
        """Return the id with which a shortest spelling goes on, the longest such piece."""
        ends = [end for end in self._ends(data, place) if fewest[end] == fewest[place] - 1]
        return self._ids[data[place : max(ends)]]

    def _ends(self, data: bytes, place: int) -> list[int]:
        last = min(len(data), place + self._longest)
        return [end for end in range(place + 1, last + 1) if data[place:end] in self._ids]


@functools.lru_cache(maxsize=1)
def _spelling(piece_bytes: tuple[bytes, ...]) -> Spelling:
    return Spelling(piece_bytes)


class Endings:
    """Finds ends of texts that a grammar wants, for one vocabulary."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer) -> None:
        self._grammar, self._tokenizer = grammar, tokenizer
        self._spelling = _spelling(tokenizer.piece_bytes)
        self._end_of_bytes = int(byte_tokenizer().eos_token)

    def known(self, matcher: LLMatcher, written: bytes, piece: bytes, before: Ending | None) -> Ending | None:
        """Return an end of `written`, which the byte matcher has read, if the end before its last piece tells one.

        It is a part of that: what comes after `piece`, or after as many characters, all of it, or less. Inside a
        character the rest of that comes first.
        """
        if matcher.is_accepting():
            return Ending(b"", self._spelling)
        if before is None:
            return None
        rest = before.rest()
        size = max(1, len(piece.decode("utf-8", "ignore")))
        characters = len(rest.decode("utf-8", "ignore")[:size].encode("utf-8"))
        counts = [*[len(piece)] * rest.startswith(piece), characters, 0, *range(1, len(rest))]
        missing = _missing_bytes(written)
        if (found := self._part(matcher, before, counts)) is not None or not missing:
            return found
        matcher = matcher.deep_copy()
        data = b""
        for _ in range(missing):
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            data += bytes([int(np.unpackbits(mask, bitorder="little")[0x80:0xC0].argmax()) + 0x80])
            if not matcher.consume_token(data[-1]):
                return None
        after = Ending(b"", self._spelling) if matcher.is_accepting() else self._part(matcher, before, counts)
        return None if after is None else Ending(data + after.rest(), self._spelling)

    def shorter(self, matcher: LLMatcher, known: Ending) -> Ending | None:
        """Return the shortest part of a known end that is one too, None if there is none but all of it."""
        return self._part(matcher, known, range(len(known.rest()) - 1, 0, -1))

    def _part(self, matcher: LLMatcher, known: Ending, counts: Iterable[int]) -> Ending | None:
        """Return what is left of a known end without its first bytes, for the first count that leaves an end."""
        rest = known.rest()
        tried = 0
        for count in counts:
            wanted = [*rest[count:], self._end_of_bytes]
            accepted = matcher.validate_tokens(wanted)
            if accepted == len(wanted):
                return known.without(count)
            tried += accepted
            if tried > _MOST_TRIED:
                break
        return None

    def found(self, matcher: LLMatcher, written: bytes) -> Ending | None:
        """Return an end by a search; None if none of reasonable length was found."""
        if self._grammar.pattern is None:
            data = _closed(matcher, written, self._examples)
        else:
            data = self._matched(self._grammar.pattern, written)
        return None if data is None else Ending(data, self._spelling)

    @cached_property
    def _examples(self) -> tuple[bytes, ...]:
        """Return for each pattern of a schema a string that matches it, as it is spelt in JSON, with its quote."""
        cores = [
            literal_of(pattern.removeprefix("^").removesuffix("$")) for pattern in self._grammar.patterns
        ]
        found = [self._matched(core, b"") for core in cores]
        return tuple(
            json.dumps(one.decode("utf-8"), ensure_ascii=False)[1:].encode("utf-8") for one in found if one
        )

    def _matched(self, pattern: str, written: bytes) -> bytes | None:
        """Return the rest of a text of least length that begins with `written` and matches."""
        text = written.decode("utf-8", "ignore")  # what is cut off at its end is the beginning of a character
        known = _SPECIAL.sub(lambda special: f"\\x{{{ord(special[0]):x}}}", text)
        tokenizer = id_tokenizer(self._tokenizer.piece_bytes, self._tokenizer.eos)

        def within(longest: int) -> LLMatcher | None:
            source = f"start: TEXT\nTEXT: /{pattern}/ & /{known}(?s:.{{0,{longest}}})/"
            matcher = new_matcher(f'%llguidance {{"no_forcing": true}}\n{source}', tokenizer)
            fits = not matcher.is_error() and matcher.consume_tokens(self._byte_ids(written))
            if fits and not matcher.is_accepting():
                matcher.compute_bitmask()
                fits = not matcher.is_stopped()
            return matcher if fits else None

        most = 1
        while (matcher := within(most)) is None:
            most *= 2
            if most > LONGEST:
                return None
        least = most // 2  # too few, or 0
        while most - least > 1 + most // 16:  # a long end may be a little longer than the shortest
            middle = (most + least) // 2
            better = within(middle)
            most, least, matcher = (middle, least, better) if better else (most, middle, matcher)
        return self._walked(matcher, 4 * most)

    def _walked(self, matcher: LLMatcher, longest: int) -> bytes | None:
        """Return the bytes of a way to the end, always by the longest piece that may come."""
        data = b""
        while not matcher.is_accepting():
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.unpackbits(bits, count=self._spelling.lengths.size, bitorder="little")
            chosen = int((allowed * self._spelling.lengths).argmax())
            data += self._tokenizer.piece_bytes[chosen]
            if not allowed.any() or len(data) > longest or not matcher.consume_token(chosen):
                return None
        return data

    def _byte_ids(self, data: bytes) -> list[int]:
        return [FIRST_BYTE_ID + byte for byte in data]


@dataclass
class _Node:
    """A place in a JSON text: how it got there from where the search began."""

    matcher: LLMatcher
    path: bytes
    inside: bool  # a string

    @cached_property
    def mask(self) -> bytes:
        """Return which bytes may come, and whether the end may, as bits."""
        mask: bytes = self.matcher.compute_bitmask()
        return mask

    def allowed(self) -> list[int]:
        """Return the bytes that may come."""
        bits = np.unpackbits(np.frombuffer(self.mask, dtype=np.uint8), count=256, bitorder="little")
        several: list[int] = np.flatnonzero(bits).tolist()
        return several

    def after(self, byte: int) -> _Node:
        """Return the place after one more byte."""
        matcher = self.matcher.deep_copy()
        matcher.consume_token(byte)
        return _Node(
            matcher, self.path + bytes([byte]), self.inside ^ (byte == _QUOTE and not self.is_escaped())
        )

    def ends(self, examples: Sequence[bytes]) -> Iterator[_Node]:
        """Yield places after the end of the string here: after its quote alone, or the shortest end of an example."""
        for example in (b'"', *examples):
            for begin in range(len(example) - 1, -1, -1):
                part = list(example[begin:])
                if self.matcher.validate_tokens(part) == len(part):
                    node = _Node(self.matcher.deep_copy(), self.path + example[begin:], inside=False)
                    node.matcher.consume_tokens(part)
                    yield node

    def is_escaped(self) -> bool:
        """Tell whether the next character belongs to the backslash before it."""
        return (len(self.path) - len(self.path.rstrip(b"\\"))) % 2 == 1


def _closed(matcher: LLMatcher, written: bytes, examples: Sequence[bytes]) -> bytes | None:
    """Return bytes that close all that is open in a JSON text; `examples` are ways to the end of some strings."""
    node = _Node(matcher.deep_copy(), written, _is_inside_a_string(written))
    left = _MOST_STEPS_IN_ALL
    while not node.matcher.is_accepting():
        reached, tried = _nearest_closer(node, examples)
        left -= tried
        if reached is None or left < 0:
            return None
        node = reached
    return node.path[len(written) :]


def _nearest_closer(begin: _Node, examples: Sequence[bytes]) -> tuple[_Node | None, int]:
    """Return the place after the nearest closing bracket or comma, or the end, and how many bytes were tried.

    Of the bytes after which the same bytes may follow only one is tried, and in a string that may end here
    no other than its quote.
    """
    waiting = deque([begin])
    tried = 0
    while waiting and tried < _MOST_STEPS:
        node = waiting.popleft()
        if node.matcher.is_accepting():
            return node, tried
        several = node.allowed()
        if not node.inside:
            closer = next((byte for byte in _CLOSERS if byte in several), None)
            if closer is not None:
                return node.after(closer), tried + 1
        elif not node.is_escaped():
            end = next(node.ends(examples), None)
            if end is not None:
                waiting.append(end)
                continue
            several = _some(several)
        seen = set()
        # the largest digit of a number first: it reaches a least number soonest
        order = sorted(several, reverse=not node.inside)
        for byte in sorted(order, key=lambda byte: not chr(byte).isalnum()):
            following = node.after(byte)
            tried += 1
            if following.mask not in seen:
                seen.add(following.mask)
                waiting.append(following)
    return None, tried


def _some(several: list[int]) -> list[int]:
    """Return the bytes that are tried in a string: of many, only some that stand for letters, digits and signs."""
    if len(several) <= _FEW:
        return several
    return [byte for byte in several if byte in _USUAL] or several


def _is_inside_a_string(written: bytes) -> bool:
    plain = re.sub(rb"\\.", b"", written, flags=re.DOTALL)
    return plain.count(b'"') % 2 == 1


def _missing_bytes(written: bytes) -> int:
    """Return how many bytes the last character of a text lacks."""
    for back in range(1, min(3, len(written)) + 1):
        byte = written[-back]
        if byte >= 0xC0:
            return (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) - back
        if byte < 0x80:
            break
    return 0
