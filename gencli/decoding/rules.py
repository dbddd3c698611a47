"""What may come next in a text, by all rules together; drawing and searching ask here.

First the rules that always hold: valid UTF-8, and what the text has to match. They leave a mask of ids. Then
those that give way where nothing else is left: no end before the least length, no banned text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gencli.decoding.bans import Bans
from gencli.decoding.filters import FloatArray, exclude
from gencli.decoding.utf8 import State, Utf8Mask
from gencli.text.tokenizer import Tokenizer, normalised

if TYPE_CHECKING:
    from gencli.decoding.constraint import Place
    from gencli.decoding.grammar import Grammar

BoolArray = npt.NDArray[np.bool_]
EXCLUDED = np.float32(-np.inf)


class Progress(NamedTuple):
    """How far a text has come, as each rule sees it."""

    state: State = State.WHOLE
    tail: bytes = b""  # what may be the beginning of a banned text
    place: Place | None = None  # in what the text has to match

    def is_complete(self) -> bool:
        """Tell whether the text may end here."""
        return self.place is None or self.place.is_complete()

    def is_over(self) -> bool:
        """Tell whether nothing but the end can come."""
        return self.place is not None and self.place.is_over()


class Rules:
    """The rules for the texts of one job."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bans: Sequence[str] = (),
        min_new_tokens: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        self.end = tokenizer.eos
        self._mask = _mask(tokenizer.piece_bytes, tokenizer.control_ids - {tokenizer.eos})
        self._bans = Bans([normalised(text) for text in bans], tokenizer.piece_bytes)
        self._least = min_new_tokens
        self._constraint = None
        if grammar is not None:
            from gencli.decoding.constraint import Constraint

            self._constraint = Constraint(grammar, tokenizer)
        # whether nothing counts but that the text is valid UTF-8
        self.is_plain = self._constraint is None and not self._bans and min_new_tokens == 0

    def start(self, budget: int) -> Progress:
        """Return where a text of `budget` tokens begins. Raises UsageError when none is that short."""
        place = None if self._constraint is None else self._constraint.start(budget)
        return Progress(self._mask.start(), place=place)

    def possible(
        self, progress: Progress, logits: FloatArray, written: int, remaining: int
    ) -> FloatArray | None:
        """Return the logits [V] with -inf for what may not come; None if nothing may.

        `written` tokens are there, `remaining` are left, the next one included.
        """
        left: FloatArray
        if self._constraint is None or progress.place is None:
            left = logits + self._mask.excluded(progress.state, remaining)
        else:
            allowed = self._mask.allowed(progress.state, remaining) & self._constraint.allowed(progress.place)
            if not allowed.any():
                return None
            left = np.where(allowed, logits, EXCLUDED)
        return exclude(left, (self.end,)) if written < self._least else left

    def excluded(self, progress: Progress, remaining: int) -> FloatArray:
        """Return what to add to the logits [V] so that nothing comes that may not, if the rules are plain."""
        return self._mask.excluded(progress.state, remaining)

    def welcome(self, progress: Progress) -> BoolArray | None:
        """Return whether each id [V] spells nothing banned; None if nothing is."""
        return self._bans.allowed(progress.tail) if self._bans else None

    def after(self, progress: Progress, identity: int, remaining: int) -> Progress | None:
        """Return where the text is after an id, None if `remaining` tokens could not complete it any more."""
        after = self.advanced(progress, identity)
        before, place = progress.place, after.place
        if self._constraint is None or before is None or place is None:
            return after
        return after if self._constraint.may_follow(before, place, remaining) else None

    def shortest_way(self, progress: Progress) -> tuple[int, Progress]:
        """Return the id that begins the known end of the text, or ends it, and where the text is after it."""
        ending = None if progress.place is None else progress.place.ending
        chosen = self.end if ending is None or ending.is_empty() else ending.first()
        return chosen, self.advanced(progress, chosen)

    def advanced(self, progress: Progress, identity: int) -> Progress:
        """Return where the text is after an id."""
        if identity == self.end:
            return progress
        state = self._mask.advance(progress.state, identity)
        if self.is_plain:
            return progress if state is progress.state else Progress(state)
        place = progress.place
        if self._constraint is not None and place is not None:
            place = self._constraint.advance(place, identity)
        tail = self._bans.advance(progress.tail, identity) if self._bans else b""
        return Progress(state, tail, place)

    def matches(self, text: str) -> bool:
        """Tell whether a text is what was asked for."""
        return self._constraint is None or self._constraint.grammar.matches(text)


@functools.lru_cache(maxsize=1)
def _mask(piece_bytes: tuple[bytes, ...], forbidden: frozenset[int]) -> Utf8Mask:
    """Return a mask made once for many batches: the ids that spell valid UTF-8 and end, and nothing else."""
    return Utf8Mask(piece_bytes, forbidden=forbidden)
