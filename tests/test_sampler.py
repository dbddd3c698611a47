from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
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

from gencli.decoding import sampler
from gencli.decoding.draws import RowDraws, draw
from gencli.decoding.filters import (
    COLDEST,
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
)
from gencli.decoding.history import History
from gencli.decoding.sampler import FILTER_ORDER, Sampler, Sampling
from gencli.errors import ModelError, UsageError

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


def test_the_filters_run_in_the_stated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def watch(name: str) -> None:
        original = getattr(sampler, name)

        def watched(logits: FloatArray, *rest: Any) -> FloatArray:
            called.append(name)
            return np.asarray(original(logits, *rest), dtype=np.float32)

        monkeypatch.setattr(sampler, name, watched)

    names = (
        "penalise_repetition", "penalise_occurrence", "exclude", "add_bias", "keep_allowed",
        "keep_top_k", "keep_typical", "keep_top_p",
    )  # fmt: skip
    for name in names:
        watch(name)

    def drawing(*arguments: Any) -> int:
        called.append("min_p, temperature")
        return draw(*arguments)

    monkeypatch.setattr(sampler, "draw", drawing)
    Sampler(Sampling(top_p=0.9), seed=0, row=0).draw(random_logits(0, 60), History([1]))
    assert called == [*names, "min_p, temperature"]
    assert FILTER_ORDER == (
        "repetition penalty", "presence and frequency penalty", "no-repeat n-gram", "logit bias", "bans",
        "top-k", "typical-p", "top-p", "min-p", "temperature",
    )  # fmt: skip


def test_each_setting_reaches_its_filter() -> None:
    logits, past = random_logits(3, 60), [5, 5, 7, 5, 7, 9]

    def left(**settings_: Any) -> FloatArray:
        sampling = Sampling(**settings_)
        return sampler.reshaped(logits, sampling, sampling.history(past), None)

    counts = {5: 3, 7: 2, 9: 1}
    for found, expected in (
        (left(presence_penalty=1.5), penalise_occurrence(logits, counts, 1.5, 0.0)),
        (left(frequency_penalty=1.5), penalise_occurrence(logits, counts, 0.0, 1.5)),
        (left(frequency_penalty=1.5, penalty_window=2), penalise_occurrence(logits, {7: 1, 9: 1}, 0.0, 1.5)),
        (left(repetition_penalty=1.5), penalise_repetition(logits, counts, 1.5)),
        (left(no_repeat_ngram=1), exclude(logits, [5, 7, 9])),
        (left(logit_bias=(((8,), 2.0),)), add_bias(logits, past, (((8,), 2.0),))),
    ):
        np.testing.assert_array_equal(found, expected)
        assert (found != logits).any()


def test_top_p_looks_at_what_top_k_left() -> None:
    # of all five ids the first two hold 0.6 of the probability, of the first three they hold 0.75
    logits = logits_of(0.4, 0.2, 0.2, 0.1, 0.1)
    several = Sampler(Sampling(temperature=1.0, top_k=3, top_p=0.74), seed=0, row=0)
    assert {several.draw(logits) for _ in range(200)} == {0, 1}


def test_temperature_comes_after_min_p() -> None:
    logits = logits_of(0.6, 0.3, 0.1)
    hot = Sampler(Sampling(temperature=50.0, top_k=0, min_p=0.4), seed=0, row=0)
    assert {hot.draw(logits) for _ in range(200)} == {0, 1}


def test_greedy_takes_the_highest_after_the_penalty_and_draws_no_random_number() -> None:
    logits = np.array([1.0, 3.0, 2.9], dtype=np.float32)
    greedy = Sampler(Sampling(temperature=0.0, repetition_penalty=1.5), seed=0, row=0)
    before = greedy._random.bit_generator.state
    assert greedy.draw(logits) == 1
    assert greedy.draw(logits, History([1])) == 2
    assert greedy._random.bit_generator.state == before


def test_a_draw_takes_one_uniform_number() -> None:
    drawn, reference = Sampler(Sampling(), seed=5, row=2), Sampler(Sampling(), seed=5, row=2)
    drawn.draw(random_logits(0, 500))
    reference._random.random()
    assert drawn._random.bit_generator.state == reference._random.bit_generator.state


def drawn_ids(seed: int, row: int) -> list[int]:
    one = Sampler(Sampling(temperature=1.0, top_k=0), seed=seed, row=row)
    return [one.draw(random_logits(place, 200)) for place in range(20)]


def test_a_seed_and_a_row_decide_what_is_drawn() -> None:
    assert drawn_ids(7, 1) == drawn_ids(7, 1)
    assert len({tuple(drawn_ids(seed, row)) for seed in (0, 1, 2) for row in (0, 1, 2)}) == 9


def test_ids_come_as_often_as_their_probability_says() -> None:
    probabilities = np.array([0.05, 0.4, 0.25, 0.2, 0.1])
    one = Sampler(Sampling(temperature=1.0, top_k=0), seed=3, row=0)
    logits = logits_of(*probabilities)
    counts = np.bincount([one.draw(logits) for _ in range(5000)], minlength=5)
    expected = probabilities * 5000
    assert (((counts - expected) ** 2) / expected).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


def test_a_draw_follows_the_inverse_distribution_in_large_vocabularies_too() -> None:
    logits = random_logits(9, 5000)
    running = softmax(logits).cumsum()
    drawn, reference = (Sampler(Sampling(temperature=1.0, top_k=0), seed=1, row=0) for _ in range(2))
    for _ in range(300):
        expected = int(np.searchsorted(running, reference._random.random(), side="right"))
        found = drawn.draw(logits)
        assert found == expected or abs(running[found] - running[expected]) < 1e-6


def test_what_is_excluded_is_never_drawn() -> None:
    logits = np.full(100, -np.inf, dtype=np.float32)
    logits[[17, 63]] = [-3.0, 80.0]
    one = Sampler(Sampling(temperature=100.0, top_k=0, top_p=0.999), seed=0, row=0)
    assert {one.draw(logits) for _ in range(100)} <= {17, 63}
    cold = Sampler(Sampling(temperature=1e-300), seed=0, row=0)
    assert cold.draw(logits) == 63


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    logits = random_logits(0, 50)
    logits[7] = value
    for sampling in (Sampling(), Sampling(temperature=0.0)):
        with pytest.raises(ModelError, match="not finite"):
            Sampler(sampling, seed=0, row=0).draw(logits)
    with pytest.raises(ModelError, match="not finite"):
        Sampler(Sampling(), seed=0, row=0).draw(np.full(5, -np.inf, dtype=np.float32))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("temperature", -0.1), ("temperature", math.nan), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)],
        *[("min_p", -0.1), ("min_p", 2.0), ("repetition_penalty", 0.0)],
        *[("typical_p", 0.0), ("presence_penalty", math.nan), ("frequency_penalty", 101.0)],
        *[("penalty_window", -1), ("no_repeat_ngram", -1), ("logit_bias", (((1,), math.inf),))],
    ],
)
def test_a_number_out_of_range_is_a_usage_error(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=setting.replace("_", "-")):
        Sampling(**{setting: value})  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.one_of(st.integers(1, 300), st.integers(300, 5000)),
    top_k=st.one_of(st.integers(0, 5), st.integers(0, 320)),
    shift=st.sampled_from([0.0, -40.0, 40.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    temperature=st.sampled_from([1e-300, 0.3, 1.0, 50.0]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_the_compiled_draw_is_that_of_the_filters_one_after_the_other(
    seed: int, size: int, top_k: int, shift: float, min_p: float, temperature: float, uniform: float
) -> None:
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(shift, 4, size), 1).astype(np.float32)  # with ties
    logits[random.random(size) < 0.2] = -np.inf
    logits[random.integers(size)] = 1.0
    filtered = keep_min_p(keep_top_k(logits, top_k), min_p)
    running = softmax(apply_temperature(filtered, temperature)).cumsum()
    found = draw(logits, top_k, min_p, max(temperature, COLDEST), uniform)
    assert filtered[found] > -np.inf
    before = running[found - 1] if found else 0.0
    assert before - 1e-5 <= uniform <= running[found] + 1e-5


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 5),
    top_k=st.sampled_from([0, 1, 7, 50]),
    min_p=st.sampled_from([0.0, 0.1]),
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    threads=st.integers(1, 2),
)
def test_rows_are_drawn_together_as_each_alone(
    seed: int, rows: int, top_k: int, min_p: float, temperature: float, threads: int
) -> None:
    random = np.random.default_rng(seed)
    wide = random.normal(0, 3, (rows, 150)).astype(np.float32)
    logits = wide[:, :131]  # as an engine gives them: rows that are longer than the vocabulary
    added = [np.where(random.random(131) < 0.2, np.float32(-np.inf), np.float32(0)) for _ in range(rows)]
    uniforms = random.random(rows).tolist()
    draws = RowDraws(top_k, min_p, temperature, threads=threads)
    found = draws.draw(logits, added, uniforms)
    for row in range(rows):
        left = logits[row] + added[row]
        if temperature:
            assert found[row] == draw(left, top_k, min_p, temperature, uniforms[row])
        else:
            assert found[row] == left.argmax()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_row_of_logits_that_are_not_finite_is_told(temperature: float, wrong: float) -> None:
    logits = np.array([[0.0, 1.0, 2.0], [0.0, wrong, 1.0], [-np.inf] * 3], np.float32)
    nothing = np.zeros(3, np.float32)
    found = RowDraws(0, 0.0, temperature, threads=1).draw(logits, [nothing] * 3, [0.5] * 3)
    assert found[0] >= 0 and found[1:] == [-1, -1]
    assert draw(logits[1], 0, 0.0, 0.8, 0.5) == draw(logits[2], 2, 0.0, 0.8, 0.5) == -1
