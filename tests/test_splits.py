"""The same text in smaller pieces: nothing is lost, and about as much falls apart as was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.text.splits import Splits, parts_of
from tests.trained import sentences, trained


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_piece_falls_into_two_that_make_it_up(kind: str) -> None:
    tokenizer = trained(kind)
    parts = parts_of(tokenizer)
    assert len(parts) > 30
    for index, (left, right) in parts.items():
        assert tokenizer.piece(left) + tokenizer.piece(right) == tokenizer.piece(index)


def test_a_piece_of_bpe_falls_where_it_was_merged() -> None:
    """A piece and its parts stand in the order of the merges that made them."""
    tokenizer = trained("bpe")
    for index, parts in parts_of(tokenizer).items():
        assert all(part < index or len(tokenizer.piece(part)) == 1 for part in parts)


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_other_pieces_are_the_same_text(text: str, share: float, seed: int) -> None:
    tokenizer = trained("bpe")
    ids = tokenizer.encode(text)
    drawn = Splits(parts_of(tokenizer), share).drawn(ids, np.random.default_rng(seed))
    assert tokenizer.decode(drawn) == tokenizer.decode(ids) and len(drawn) >= len(ids)


def test_about_a_share_of_the_pieces_is_parted() -> None:
    parts = {30: (20, 21), 20: (10, 11)}
    drawn = Splits(parts, 0.25).drawn([30, 7] * 4000, np.random.default_rng(0))
    assert drawn.count(7) == 4000
    assert drawn.count(30) / 4000 == pytest.approx(0.75, abs=0.03)
    assert drawn.count(21) == 4000 - drawn.count(30)
    assert drawn.count(10) / drawn.count(21) == pytest.approx(0.25, abs=0.05)


def test_without_a_share_a_text_stays_as_it_is_and_with_all_of_it_letters_are_left() -> None:
    tokenizer = trained("bpe")
    parts, random = parts_of(tokenizer), np.random.default_rng(0)
    ids = tokenizer.encode(sentences(3))
    assert Splits(parts, 0.0).drawn(ids, random) == ids
    assert not any(index in parts for index in Splits(parts, 1.0).drawn(ids, random))
