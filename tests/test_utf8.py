from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.decoding.utf8 import State, Utf8Mask

UNKNOWN, END, TURN = 0, 1, 2
WORDS = [b"the", " 한국".encode(), "어".encode(), "😀".encode(), b"\n", b"a"]
PIECES = [b"", b"", b"", *(bytes([byte]) for byte in range(256)), *WORDS]
FORBIDDEN = frozenset({UNKNOWN, TURN})
MASK = Utf8Mask(PIECES, forbidden=FORBIDDEN)


def ids(state: State, remaining: int | None) -> set[int]:
    return set(np.flatnonzero(MASK.allowed(state, remaining)).tolist())


def of_byte(byte: int) -> int:
    return 3 + byte


@settings(deadline=None, max_examples=300)
@given(budget=st.integers(1, 12), data=st.data())
def test_any_path_of_allowed_ids_decodes_strictly(budget: int, data: st.DataObject) -> None:
    state, written = MASK.start(), b""
    for left in range(budget, 0, -1):
        several = np.flatnonzero(MASK.allowed(state, left)).tolist()
        multibyte = [one for one in several if PIECES[one][:1] >= b"\x80"]
        chosen: int = data.draw(st.sampled_from(multibyte or several))
        written += PIECES[chosen]
        state = MASK.advance(state, chosen)
        if chosen == END:
            break
    assert state is State.WHOLE
    written.decode("utf-8")


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=8))
def test_every_text_can_be_spelt_in_bytes(text: str) -> None:
    spelling = text.encode("utf-8")
    state = MASK.start()
    for place, byte in enumerate(spelling):
        assert of_byte(byte) in ids(state, len(spelling) - place)
        state = MASK.advance(state, of_byte(byte))
    assert state is State.WHOLE


def test_between_characters_every_whole_piece_and_legal_lead_byte() -> None:
    leads = {*range(0x80), *range(0xC2, 0xF5)}
    assert ids(State.WHOLE, None) == {END, *(of_byte(byte) for byte in leads), *range(259, len(PIECES))}


@pytest.mark.parametrize(
    ("lead", "first", "last"),
    [
        *[(0xC2, 0x80, 0xBF), (0xE0, 0xA0, 0xBF), (0xEA, 0x80, 0xBF), (0xED, 0x80, 0x9F), (0xEF, 0x80, 0xBF)],
        *[(0xF0, 0x90, 0xBF), (0xF1, 0x80, 0xBF), (0xF4, 0x80, 0x8F)],
    ],
)
def test_second_bytes_are_those_of_the_unicode_table(lead: int, first: int, last: int) -> None:
    state = MASK.advance(MASK.start(), of_byte(lead))
    assert ids(state, None) == {of_byte(byte) for byte in range(first, last + 1)}


def test_a_character_begins_only_if_the_budget_finishes_it() -> None:
    lead_of = {2: of_byte(0xC3), 3: of_byte(0xED), 4: of_byte(0xF0)}
    for length, lead in lead_of.items():
        assert lead not in ids(State.WHOLE, length - 1)
        assert lead in ids(State.WHOLE, length)
    assert ids(State.WHOLE, 0) == set()


def test_nothing_begins_that_the_pieces_cannot_finish() -> None:
    no_continuation = {of_byte(byte) for byte in range(0x80, 0xC0)}
    mask = Utf8Mask(PIECES, forbidden=FORBIDDEN | no_continuation)
    allowed = mask.allowed(mask.start(), None)
    assert not allowed[3 + 0xC2 : 3 + 0xF5].any()
    assert allowed[259:].all()


def test_pieces_of_several_bytes_may_cut_a_character() -> None:
    mask = Utf8Mask([b"\xed\x95", b"\x9c", b"\x9cx", b"x", b"\xed\xa0"], forbidden=())
    assert mask.allowed(State.WHOLE, None).tolist() == [True, False, False, True, False]
    inside = mask.advance(State.WHOLE, 0)
    assert mask.allowed(inside, 1).tolist() == [False, True, True, False, False]
    assert mask.advance(inside, 2) is State.WHOLE


def test_rows_are_shared_and_read_only() -> None:
    row = MASK.allowed(State.WHOLE, None)
    assert row is MASK.allowed(State.WHOLE, 1000)
    with pytest.raises(ValueError, match="read-only"):
        row[0] = True
