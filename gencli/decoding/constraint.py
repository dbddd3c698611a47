"""Which ids may come next so that a text becomes one that a grammar wants, and is complete when its budget ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gencli.decoding.endings import LONGEST, Ending, Endings
from gencli.decoding.grammar import Grammar, byte_tokenizer, id_tokenizer
from gencli.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from gencli.text.tokenizer import Tokenizer

BoolArray = npt.NDArray[np.bool_]

_PAUSE = 8  # tokens


@dataclass
class Place:
    """How far a text has come: what may follow, in ids and in bytes, and an end that would complete it."""

    ids: LLMatcher
    data: LLMatcher
    written: bytes = b""
    ending: Ending | None = None
    pause: int = 0  # so many tokens more without a search

    def is_complete(self) -> bool:
        """Tell whether the text is one that is wanted."""
        return bool(self.data.is_accepting())

    def is_over(self) -> bool:
        """Tell whether nothing may follow any more."""
        return bool(self.ids.is_stopped())


class Constraint:
    """Keeps texts within a grammar.

    Of every text an end is known that would complete it. A token is taken only if after it the known end, or a
    shorter one that a search finds, takes no more tokens than are left. Where a search in a schema finds no end
    a text goes on without that promise.
    """

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer) -> None:
        self.grammar = grammar
        self._pieces = tokenizer.piece_bytes
        self._tokenizer = id_tokenizer(tokenizer.piece_bytes, tokenizer.eos)
        self._endings = Endings(grammar, tokenizer)

    def start(self, budget: int) -> Place:
        """Return where a text of at most `budget` tokens begins. Raises UsageError when none is that short."""
        place = Place(self.grammar.matcher(self._tokenizer), self.grammar.matcher(byte_tokenizer()))
        self._search(place)
        if place.ending is None and self.grammar.pattern is not None:
            raise UsageError(
                f"no text of {LONGEST:,} characters or less was found that the pattern allows",
                hint="make it shorter or simpler",
            )
        if place.ending is not None and not place.ending.fits(budget):
            raise UsageError(
                f"the shortest text found that {self.grammar.name} allows takes {place.ending.tokens():,} tokens, "
                f"and {budget:,} may be written",
                hint="raise --max-new-tokens",
            )
        return place

    def allowed(self, place: Place) -> BoolArray:
        """Return whether each id [V] may come next in a text of any length.

        Raises UsageError when the grammar takes too much work.
        """
        bits = np.frombuffer(place.ids.compute_bitmask(), dtype=np.uint8)
        self._check(place)
        return np.unpackbits(bits, count=len(self._pieces), bitorder="little").view(np.bool_)

    def advance(self, place: Place, identity: int) -> Place:
        """Return where a text is after an id that is allowed and not the end of text."""
        piece = self._pieces[identity]
        after = Place(
            place.ids.deep_copy(),
            place.data.deep_copy(),
            place.written + piece,
            pause=max(0, place.pause - 1),
        )
        after.ids.consume_token(identity)
        after.data.consume_tokens(list(piece))
        self._check(after)
        after.ending = self._endings.known(after.data, after.written, piece, place.ending)
        return after

    def may_follow(self, before: Place, place: Place, remaining: int) -> bool:
        """Tell whether a text can still be completed with `remaining` tokens, if before its last one it could.

        A search takes as long as ten tokens or more: after one in vain there is none for a while.
        """
        if before.ending is None or not before.ending.fits(remaining + 1):
            return True
        if place.ending is not None and place.ending.fits(remaining):
            return True
        if place.ending is not None:
            place.ending = self._endings.shorter(place.data, place.ending) or place.ending
            if place.ending.fits(remaining):
                return True
        if before.pause:
            return False
        self._search(place)
        fits = place.ending is None or place.ending.fits(remaining)
        before.pause = 0 if fits else _PAUSE
        return fits

    def _search(self, place: Place) -> None:
        """Look for an end that is shorter than the known one."""
        found = self._endings.found(place.data, place.written)
        if found is not None and (place.ending is None or found.tokens() < place.ending.tokens()):
            place.ending = found

    def _check(self, place: Place) -> None:
        for matcher in (place.ids, place.data):
            if matcher.is_error():
                raise UsageError(
                    f"{self.grammar.name} takes too much work: {matcher.get_error().splitlines()[0]}",
                    hint="make it simpler",
                )
