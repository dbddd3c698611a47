"""Batches: of a corpus and of pairs, and what they are scored by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import CorpusError
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, score
from gencli.text.examples import Example
from gencli.training.batches import PackedBatches, PairBatches, in_order, pairs_in_order
from gencli.training.held_out import HeldOut, token_bytes_of
from gencli.training.runtime import choose_runtime
from tests.conftest import random_model, tiny_shape

IDS = (np.arange(4000) * 7919 % 97).astype(np.uint16)


def packed(rows: int = 4, seed: int = 0, context: int = 16) -> PackedBatches:
    return PackedBatches(IDS, [(0, 2000), (2100, 4000)], context=context, rows=rows, seed=seed)


def test_batches_depend_on_seed_and_step_alone() -> None:
    first, again, other = packed(), packed(), packed(seed=1)
    for step in (0, 5, 400, 1):
        assert np.array_equal(first.batch(step).tokens, again.batch(step).tokens)
    assert not np.array_equal(first.batch(0).tokens, other.batch(0).tokens)


def test_targets_are_the_next_tokens_and_windows_stay_inside_their_range() -> None:
    batches = packed(rows=8)
    held_out = set(range(2000, 2100))
    where = {tuple(IDS[i : i + 17]): i for i in range(len(IDS) - 17)}
    for step in range(40):
        batch = batches.batch(step)
        assert batch.size == batch.tokens.size
        assert np.array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        for row in np.concatenate([batch.tokens, batch.targets[:, -1:]], axis=1):
            start = where.get(tuple(row.astype(np.uint16)))
            assert start is None or not held_out & set(range(start, start + 17)) or len(where) < 3900


def test_an_epoch_shows_every_window_once() -> None:
    batches = packed(rows=4)
    starts = [batches._start(number) for number in range(batches.windows)]
    assert len(set(starts)) == batches.windows == (2000 - 16) // 16 + (1900 - 16) // 16
    assert len({(start - starts[0]) % 16 for start in starts if start < 2000}) == 1


def test_a_corpus_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(CorpusError, match="too small"):
        PackedBatches(IDS, [(0, 20)], context=16, rows=1, seed=0)


@settings(deadline=None, max_examples=40)
@given(end=st.integers(2, 300), context=st.integers(2, 40), rows=st.integers(1, 5))
def test_windows_in_order_score_every_token_but_the_first_once(end: int, context: int, rows: int) -> None:
    targets = [
        token
        for batch in in_order(IDS, [(0, end)], context=context, rows=rows)
        for token in batch.targets[batch.targets != IGNORED]
    ]
    assert targets == IDS[1:end].tolist()


def test_capped_windows_are_spread_over_the_text() -> None:
    batches = list(in_order(IDS, [(0, 4000)], context=16, rows=4, most_tokens=160))
    assert sum(batch.size for batch in batches) == 160


def test_a_corpus_of_any_size_is_never_listed() -> None:
    huge = np.broadcast_to(np.uint16(5), 10**12)
    batches = list(
        in_order(huge, [(9, 5 * 10**11), (7 * 10**11, 10**12)], context=16, rows=4, most_tokens=160)
    )
    assert sum(batch.size for batch in batches) == 160
    trained = PackedBatches(huge, [(9, 10**12)], context=16, rows=4, seed=0)
    assert trained.batch(10**9).size == 64


EXAMPLES = [Example(tuple(range(1, 4 + n % 9)), (False, False, *[True] * (1 + n % 9))) for n in range(50)]


def test_pair_batches_show_every_pair_once_an_epoch_and_learn_answers_only() -> None:
    batches = PairBatches(EXAMPLES, rows=8, seed=3, padding=96)
    assert batches.steps_per_epoch == 7
    for epoch in range(2):
        sizes = []
        for step in range(epoch * 7, epoch * 7 + 7):
            batch = batches.batch(step)
            sizes += [int(row.sum()) for row in batch.tokens != 96]
            assert ((batch.targets == IGNORED) | (batch.targets >= 3)).all()
        assert sorted(sizes) == sorted(len(example.ids) - 1 for example in EXAMPLES)
    total = sum(int((b.targets != IGNORED).sum()) for b in pairs_in_order(EXAMPLES, rows=7, padding=96))
    assert total == sum(sum(example.learned) for example in EXAMPLES)


def test_padding_does_not_change_the_loss_of_a_pair() -> None:
    model = random_model(tiny_shape(97))
    sizes = np.ones(97)
    runtime = choose_runtime("cpu", precision="float32", threads=1)
    runs = [
        score(
            model,
            pairs_in_order(EXAMPLES[:9], rows=rows, padding=96),
            token_bytes=sizes,
            precision=runtime.precision,
        )
        for rows in (1, 9)
    ]
    assert runs[0] is not None and runs[1] is not None
    assert math.isclose(runs[0].nats, runs[1].nats, rel_tol=1e-5)
    assert runs[0].tokens == runs[1].tokens


def test_bits_per_byte_of_a_model_that_knows_nothing() -> None:
    model = GPT(tiny_shape(256)).initialise(torch.Generator().manual_seed(0))
    held_out = HeldOut(list(in_order(IDS, [(0, 129)], context=16, rows=4)), np.full(256, 2.0))
    result = held_out.score(model, choose_runtime("cpu", precision="float32", threads=1))
    assert result is not None
    assert math.isclose(result.loss, math.log(256), rel_tol=1e-6)
    assert math.isclose(result.bits_per_byte, 4.0, rel_tol=1e-6)
    assert (
        held_out.score(model, choose_runtime("cpu", precision="float32", threads=1), interrupted=lambda: True)
        is None
    )


def test_an_end_of_document_stands_for_its_line_ends() -> None:
    assert token_bytes_of([b"", b"ab", "각".encode()], end=0, end_bytes=1.5).tolist() == [1.5, 2, 3]
