"""Figures of merit against scikit-learn's formulas written out, and what must hold for any numbers."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.evaluation.measures import (
    area_under_risk,
    calibration_error,
    confusion_matrix,
    coverage_curve,
    macro_f1,
    paired_difference,
    token_f1,
)

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)
SURE = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def macro_f1_by_hand(truth: list[int], said: list[int]) -> float:
    """As sklearn.metrics.f1_score(average="macro") has it: 2 PR / (P + R) of each label that occurs, averaged."""
    scores = []
    for label in sorted({*truth, *said}):
        hits = sum(t == s == label for t, s in zip(truth, said, strict=True))
        precision = hits / said.count(label) if label in said else 0.0
        recall = hits / truth.count(label) if label in truth else 0.0
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


@given(LABELS)
def test_macro_f1_and_the_confusions_are_those_counted_by_hand(pairs: list[tuple[int, int]]) -> None:
    truth, said = [t for t, _ in pairs], [s for _, s in pairs]
    matrix = confusion_matrix(np.array(truth), np.array(said), 5)
    counted = Counter(pairs)
    assert all(matrix[t, s] == counted[t, s] for t in range(5) for s in range(5))
    assert macro_f1(matrix) == pytest.approx(macro_f1_by_hand(truth, said))


def error_by_hand(confidence: list[float], right: list[bool], bins: int) -> float:
    """Guo et al. 2017, equation 3: |B| / n |acc(B) - conf(B)| summed over the bins ((m - 1) / M, m / M]."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (c, r)
            for c, r in zip(confidence, right, strict=True)
            if low < c <= high or (number == 0 and c == 0)
        ]
        if inside:
            own, share = sum(c for c, _ in inside) / len(inside), sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(own - share)
    return total


def test_the_calibration_error_is_that_of_the_paper() -> None:
    draw = random.Random(1)
    for _ in range(30):
        confidence = [draw.random() for _ in range(200)]
        right = [draw.random() < c**2 for c in confidence]
        found = calibration_error(np.array(confidence), np.array(right, dtype=float), 15)
        assert found == pytest.approx(error_by_hand(confidence, right, 15))


@given(SURE)
def test_the_calibration_error_is_from_0_to_1_and_knows_no_order(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([float(r) for _, r in pairs])
    found = calibration_error(confidence, right)
    assert 0 <= found <= 1
    assert calibration_error(confidence[::-1], right[::-1]) == pytest.approx(found)
    assert calibration_error(right, right) == pytest.approx(0)
    assert calibration_error(1 - right, right) == pytest.approx(1)


@given(SURE)
def test_risk_against_coverage(pairs: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([c for c, _ in pairs]), np.array([float(r) for _, r in pairs])
    curve = coverage_curve(confidence, right)
    assert curve[0].coverage == 1 and curve[0].right == pytest.approx(right.mean())
    assert [point.confidence for point in curve] == sorted(point.confidence for point in curve)
    area = area_under_risk(confidence, right)
    best = area_under_risk(right, right)
    assert best - 1e-9 <= area <= area_under_risk(-right, right) + 1e-9
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    assert area_under_risk(confidence[shuffled], right[shuffled]) == pytest.approx(area)


def test_the_area_is_the_mean_of_the_risks() -> None:
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    assert area_under_risk(confidence, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert coverage_curve(confidence, right, (0.5,))[0].right == 0.5
    assert area_under_risk(np.ones(4), right) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("said", "expected", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The cat, sat.", "the cat sat", 1.0),
        ("a b", "a c", 0.5),
        ("a a b", "a b b", 2 / 3),
        ("", "a", 0.0),
        ("?", "?", 1.0),
        ("?", "!", 0.0),
        ("나는 학교에 간다.", "나는 집에 간다", 2 / 3),
    ],
)
def test_token_f1_counts_words_as_often_as_they_come(said: str, expected: str, score: float) -> None:
    assert token_f1(said, expected) == pytest.approx(score)


def test_the_interval_is_that_of_the_normal_theory() -> None:
    random_numbers = np.random.default_rng(3)
    first = (random_numbers.random(2000) < 0.7).astype(float)
    second = np.where(random_numbers.random(2000) < 0.1, 1.0, first)
    found = paired_difference(first, second)
    deviation = float((second - first).std() / np.sqrt(2000))
    assert found.value == pytest.approx(float((second - first).mean()))
    assert found.margin == pytest.approx(1.96 * deviation, rel=0.15)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_a_difference_turns_its_sign_with_the_models(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.value == pytest.approx(-other.value) and one.margin == pytest.approx(other.margin, abs=1e-9)
    assert paired_difference(first, first).margin == 0
    assert paired_difference(first, first + 0.25).value == pytest.approx(0.25)
    assert paired_difference(first, first + 0.25).margin == pytest.approx(0, abs=1e-9)


def test_a_figure_of_the_means_has_an_interval_too() -> None:
    first = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 2.0]])
    second = np.array([[2.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    found = paired_difference(first, second, lambda means: means[:, 0] / means[:, 1])
    assert found.value == pytest.approx(6 / 8 - 4 / 8) and found.margin > 0
