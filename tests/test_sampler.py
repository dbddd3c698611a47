"""Sampling: the order of the filters, the random streams, and the compiled draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.decoding import sampler
from gencli.decoding.draws import RowDraws, draw
from gencli.decoding.filters import (
    COLDEST,
    FloatArray,
    add_bias,
    apply_temperature,
    exclude,
    keep_min_p,
    keep_top_k,
    penalise_occurrence,
    penalise_repetition,
)
from gencli.decoding.history import History
from gencli.decoding.sampler import FILTER_ORDER, Sampler, Sampling
from gencli.errors import ModelError, UsageError
from tests.test_filters import logits_of, random_logits, softmax


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
