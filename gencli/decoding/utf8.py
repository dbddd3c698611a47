"""Which ids may come next so that the text is valid UTF-8, whatever is drawn and wherever it stops.

A vocabulary with byte fallback can spell a character as single bytes, and a model can spell it wrong. The
bytes so far are one of eight states (Unicode Standard, table 3-7), each id leads from state to state or
nowhere, and a state is entered only if the rest of its character fits into the tokens that are left.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

_NOWHERE = -1
_NEVER = 1 << 30  # a number of tokens that no budget reaches


class State(IntEnum):
    """What the last character still needs."""

    WHOLE = 0
    ONE_MORE = 1
    TWO_MORE = 2
    THREE_MORE = 3
    AFTER_E0 = 4  # two more; the first not below A0, or the character would have a shorter spelling
    AFTER_ED = 5  # two more; the first not above 9F, or it would be half of a surrogate pair
    AFTER_F0 = 6  # three more; the first not below 90
    AFTER_F4 = 7  # three more; the first not above 8F, where Unicode ends


_STATES = tuple(State)

# from a state: first byte, last byte, the state they lead to
_STEPS: dict[State, tuple[tuple[int, int, State], ...]] = {
    State.WHOLE: (
        (0x00, 0x7F, State.WHOLE),
        (0xC2, 0xDF, State.ONE_MORE),
        (0xE0, 0xE0, State.AFTER_E0),
        (0xE1, 0xEC, State.TWO_MORE),
        (0xED, 0xED, State.AFTER_ED),
        (0xEE, 0xEF, State.TWO_MORE),
        (0xF0, 0xF0, State.AFTER_F0),
        (0xF1, 0xF3, State.THREE_MORE),
        (0xF4, 0xF4, State.AFTER_F4),
    ),
    State.ONE_MORE: ((0x80, 0xBF, State.WHOLE),),
    State.TWO_MORE: ((0x80, 0xBF, State.ONE_MORE),),
    State.THREE_MORE: ((0x80, 0xBF, State.TWO_MORE),),
    State.AFTER_E0: ((0xA0, 0xBF, State.ONE_MORE),),
    State.AFTER_ED: ((0x80, 0x9F, State.ONE_MORE),),
    State.AFTER_F0: ((0x90, 0xBF, State.TWO_MORE),),
    State.AFTER_F4: ((0x80, 0x8F, State.TWO_MORE),),
}


class Utf8Mask:
    """The ids that keep a text valid UTF-8, as rows of a table.

    `piece_bytes[id]` is what the id stands for; an empty piece is a control piece (end of text, say) and may
    come only between characters. `forbidden` are the ids that may never come. A character is begun only if
    the pieces that are not forbidden can finish it.
    """

    def __init__(self, piece_bytes: Sequence[bytes], *, forbidden: Collection[int]) -> None:
        self._next = np.full((len(State), len(piece_bytes)), _NOWHERE, dtype=np.int8)
        whole = []
        for identity, piece in enumerate(piece_bytes):
            if identity in forbidden:
                continue
            if _is_text(piece):  # nearly all are, and may come only between characters
                whole.append(identity)
                continue
            for state in State:
                self._next[state, identity] = _walked(state, piece)
        self._next[State.WHOLE, whole] = State.WHOLE
        self._to_finish = _tokens_to_finish(self._next)
        self._steps = [row.astype(np.uint8).tobytes() for row in self._next]
        self._rows: dict[tuple[State, int], BoolArray] = {}
        self._weights: dict[tuple[State, int], FloatArray] = {}

    def start(self) -> State:
        """Return the state of a text without bytes."""
        return State.WHOLE

    def allowed(self, state: State, remaining: int | None) -> BoolArray:
        """Return whether each id [V] may come next, as a shared read-only array.

        `remaining` tokens are left, this one included; None is a budget without end.
        """
        longest = len(State)
        key = state, longest if remaining is None else min(remaining, longest)
        if key not in self._rows:
            needed = np.append(self._to_finish, _NEVER)[self._next[state]]
            self._rows[key] = needed < key[1]
            self._rows[key].setflags(write=False)
        return self._rows[key]

    def excluded(self, state: State, remaining: int) -> FloatArray:
        """Return what to add to the logits [V] so that nothing comes that may not: 0, or -inf."""
        key = state, min(remaining, len(State))
        if key not in self._weights:
            self._weights[key] = np.where(self.allowed(state, remaining), np.float32(0), np.float32(-np.inf))
            self._weights[key].setflags(write=False)
        return self._weights[key]

    def advance(self, state: State, identity: int) -> State:
        """Return the state after an id that `allowed` named."""
        return _STATES[self._steps[state][identity]]


def _is_text(piece: bytes) -> bool:
    """Tell whether these are whole characters, or none."""
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _walked(state: State, piece: bytes) -> int:
    """Return the state after the bytes of `piece`, _NOWHERE if one of them is illegal."""
    for byte in piece:
        following = [to for first, last, to in _STEPS[state] if first <= byte <= last]
        if not following:
            return _NOWHERE
        state = following[0]
    return state


def _tokens_to_finish(following: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Return per state the fewest tokens that complete its character, _NEVER where nothing does."""
    fewest = np.full(len(State), _NEVER, dtype=np.int64)
    fewest[State.WHOLE] = 0
    reached = [np.flatnonzero(np.bincount(row + 1)[1:]) for row in following]  # the first count is of nowhere
    for _ in State:
        for state in State:
            if state != State.WHOLE and reached[state].size:
                fewest[state] = min(fewest[state], fewest[reached[state]].min() + 1)
    return fewest
