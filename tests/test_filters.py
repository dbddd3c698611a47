"""Filters: each equals the processor of transformers, or the published formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gencli.decoding.filters import (
    FloatArray,
    add_bias,
    apply_temperature,
    exclude,
    keep_allowed,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_occurrence,
    penalise_repetition,
    places_of_highest,
)
from gencli.decoding.history import History
from gencli.decoding.sampler import Sampler, Sampling

NONE = -math.inf
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(2, 3000)


def random_logits(seed: int, size: int) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 2.5, size).astype(np.float32)


def theirs(processor: Any, logits: FloatArray, seen: list[int] | None = None) -> FloatArray:
    scores = processor(torch.tensor([seen or [0]]), torch.from_numpy(logits.copy())[None])
    return np.asarray(scores[0].numpy(), dtype=np.float32)


def softmax(logits: FloatArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    weights = np.exp(logits - logits.max(), dtype=np.float64)
    return np.asarray(weights / weights.sum())


def logits_of(*probabilities: float) -> FloatArray:
    return np.log(np.array(probabilities, dtype=np.float32))


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, size=SIZES, k=st.integers(1, 450))
def test_top_k_is_that_of_transformers(seed: int, size: int, k: int) -> None:
    logits = np.round(random_logits(seed, size), 1)  # rounding makes ties
    np.testing.assert_array_equal(keep_top_k(logits, k), theirs(TopKLogitsWarper(k), logits))


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, size=SIZES, p=st.floats(0.01, 0.999))
def test_top_p_is_that_of_transformers(seed: int, size: int, p: float) -> None:
    logits = random_logits(seed, size)
    heaped = np.sort(softmax(logits))[::-1].cumsum()
    assume(np.abs(heaped - p).min() > 1e-5 and np.unique(logits).size == size)
    np.testing.assert_array_equal(keep_top_p(logits, p), theirs(TopPLogitsWarper(p), logits))


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, size=SIZES, min_p=st.floats(0.001, 1.0))
def test_min_p_is_that_of_transformers(seed: int, size: int, min_p: float) -> None:
    logits = random_logits(seed, size)
    assume(np.abs(logits - logits.max() - math.log(min_p)).min() > 1e-4 or min_p == 1)
    np.testing.assert_array_equal(keep_min_p(logits, min_p), theirs(MinPLogitsWarper(min_p), logits))


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, seen=st.lists(st.integers(0, 39), min_size=1, max_size=60), penalty=st.floats(0.5, 3))
def test_repetition_penalty_is_that_of_transformers(seed: int, seen: list[int], penalty: float) -> None:
    logits = random_logits(seed, 40)
    expected = theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, seen)
    np.testing.assert_allclose(penalise_repetition(logits, seen, penalty), expected, rtol=1e-6)
    np.testing.assert_allclose(penalise_repetition(logits, set(seen), penalty), expected, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, size=SIZES, temperature=st.floats(0.05, 5))
def test_temperature_is_that_of_transformers(seed: int, size: int, temperature: float) -> None:
    logits = random_logits(seed, size)
    expected = softmax(theirs(TemperatureLogitsWarper(temperature), logits))
    np.testing.assert_allclose(
        softmax(apply_temperature(logits, temperature)), expected, rtol=1e-3, atol=1e-7
    )


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, size=SIZES, mass=st.floats(0.01, 0.99))
def test_typical_is_that_of_transformers(seed: int, size: int, mass: float) -> None:
    logits = random_logits(seed, size)
    shares = softmax(logits)
    distance = np.abs(np.log(shares) - (shares * np.log(shares)).sum())
    heaped = shares[distance.argsort()].cumsum()
    assume(np.abs(heaped - mass).min() > 1e-5 and np.diff(np.sort(distance)).min() > 2e-6)
    np.testing.assert_array_equal(keep_typical(logits, mass), theirs(TypicalLogitsWarper(mass), logits))


IDS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, ids=IDS, ngram=st.integers(1, 5), first=st.integers(0, 40))
def test_no_repeat_ngram_is_that_of_transformers(seed: int, ids: list[int], ngram: int, first: int) -> None:
    logits = random_logits(seed, 8)
    first %= len(ids)  # the rest comes one by one
    history = History(ids[:first], ngram=ngram)
    for identity in ids[first:]:
        history.add(identity)
    expected = theirs(NoRepeatNGramLogitsProcessor(ngram), logits, ids)
    np.testing.assert_array_equal(exclude(logits, history.repeats()), expected)


@settings(deadline=None, max_examples=100)
@given(
    seed=SEEDS,
    ids=IDS,
    bias=st.dictionaries(
        st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
        st.floats(-9, 9),
        min_size=1,
        max_size=5,
    ),
)
def test_logit_bias_is_that_of_transformers(
    seed: int, ids: list[int], bias: dict[tuple[int, ...], float]
) -> None:
    logits = random_logits(seed, 8)
    expected = theirs(
        SequenceBiasLogitsProcessor([[list(key), value] for key, value in bias.items()]), logits, ids
    )
    np.testing.assert_allclose(add_bias(logits, ids, tuple(bias.items())), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, banned=st.sets(st.integers(0, 7), min_size=1, max_size=7))
def test_bans_are_those_of_transformers(seed: int, banned: set[int]) -> None:
    logits = random_logits(seed, 8)
    expected = theirs(NoBadWordsLogitsProcessor([[one] for one in sorted(banned)]), logits)
    allowed = np.array([one not in banned for one in range(8)])
    np.testing.assert_array_equal(keep_allowed(logits, allowed), expected)
    np.testing.assert_array_equal(exclude(logits, banned), expected)


def test_no_end_before_the_least_length_is_that_of_transformers() -> None:
    logits = random_logits(1, 8)
    expected = theirs(MinNewTokensLengthLogitsProcessor(1, 2, 3), logits, [4, 5])
    np.testing.assert_array_equal(exclude(logits, [3]), expected)


@settings(deadline=None, max_examples=100)
@given(
    seed=SEEDS,
    ids=IDS,
    window=st.integers(0, 12),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    first=st.integers(0, 40),
)
def test_presence_and_frequency_are_the_published_formula(
    seed: int, ids: list[int], window: int, presence: float, frequency: float, first: int
) -> None:
    logits = random_logits(seed, 8)
    first %= len(ids)  # the rest comes one by one
    history = Sampling(penalty_window=window).history(ids[:first])
    for identity in ids[first:]:
        history.add(identity)
    recent = ids[-window:] if window else ids
    expected = [
        logit - recent.count(one) * frequency - (recent.count(one) > 0) * presence
        for one, logit in enumerate(logits)
    ]
    found = penalise_occurrence(logits, history.counts, presence, frequency)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert set(history.counts) == set(recent)


def test_nothing_is_excluded_that_would_leave_nothing() -> None:
    logits = np.array([1.0, -np.inf, 2.0], dtype=np.float32)
    assert exclude(logits, [0, 2]) is logits
    assert keep_allowed(logits, np.array([False, True, False])) is logits


def test_filters_by_hand() -> None:
    logits = logits_of(0.5, 0.05, 0.3, 0.15)
    assert np.flatnonzero(keep_top_k(logits, 2) > NONE).tolist() == [0, 2]
    assert np.flatnonzero(keep_top_p(logits, 0.79) > NONE).tolist() == [0, 2]
    assert np.flatnonzero(keep_top_p(logits, 0.81) > NONE).tolist() == [0, 2, 3]
    assert np.flatnonzero(keep_top_p(logits, 0.01) > NONE).tolist() == [0]
    assert np.flatnonzero(keep_min_p(logits, 0.29) > NONE).tolist() == [0, 2, 3]
    assert np.flatnonzero(keep_min_p(logits, 1.0) > NONE).tolist() == [0]
    mixed = np.array([2.0, -2.0, 1.0], dtype=np.float32)
    assert penalise_repetition(mixed, [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]


def test_filters_leave_their_input_as_it_was() -> None:
    logits = random_logits(0, 300)
    before = logits.copy()
    Sampler(Sampling(top_k=20, top_p=0.5, min_p=0.1, repetition_penalty=2.0), seed=0, row=0).draw(
        logits, History([1, 2])
    )
    np.testing.assert_array_equal(logits, before)


def test_a_filter_that_is_off_keeps_everything() -> None:
    logits = random_logits(1, 300)
    for same in (
        *(keep_top_k(logits, 0), keep_typical(logits, 1.0), keep_top_p(logits, 1.0), keep_min_p(logits, 0.0)),
        *(penalise_repetition(logits, [3], 1.0), penalise_occurrence(logits, {3: 1}, 0.0, 0.0)),
        *(exclude(logits, []), add_bias(logits, [3], ()), keep_allowed(logits, None)),
    ):
        assert same is logits


def test_top_p_of_equal_logits_is_the_smallest_set_of_lower_ids() -> None:
    kept = keep_top_p(np.zeros(1000, dtype=np.float32), 0.4995)
    assert np.flatnonzero(kept > NONE).tolist() == list(range(500))


@settings(deadline=None)
@given(seed=SEEDS, size=SIZES, count=st.integers(1, 60))
def test_the_places_of_the_highest_are_those_of_a_whole_sort(seed: int, size: int, count: int) -> None:
    numbers = np.round(random_logits(seed, size), 1)  # with ties
    numbers[np.random.default_rng(seed).random(size) < 0.3] = -np.inf
    expected = np.argsort(-numbers, kind="stable")[:count]
    np.testing.assert_array_equal(places_of_highest(numbers, count), expected)
