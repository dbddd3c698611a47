"""Calibration: fits against slow searches of the same formulas, the file it is kept in, and what reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gencli.decoding.engines import open_engine
from gencli.decoding.labeller import Labeller
from gencli.errors import ModelError
from gencli.evaluation.calibration import calibrate, fit_temperature, label_error, thinned
from gencli.evaluation.curves import fit_answers
from gencli.evaluation.pairs import judge_labels
from gencli.model.confidence import (
    CALIBRATION,
    UNCALIBRATED,
    AnswersFit,
    Calibration,
    LabelsFit,
    read_calibration,
    shares,
    write_calibration,
)
from gencli.model.folder import WEIGHTS, open_model, publish
from gencli.model.ngrams import NGRAMS, Ngrams
from gencli.storage import digest_of
from gencli.text.chat import Turn
from gencli.text.pairs import Pair
from gencli.text.tokenizer import Tokenizer
from gencli.training.ngram_fitting import fitted_ngrams
from tests.conftest import random_model, tiny_shape

FITTED = Calibration("", LabelsFit(1.5, 200, 0.1, 0.02), AnswersFit(0.8, 1.2, 100, 0.2, 0.03))


@pytest.fixture
def labeller(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Return a folder with a random model of two labels."""
    path = tmp_path / "labeller"
    shape = tiny_shape(tokenizer.vocabulary)
    lineage = {"kind": "finetuned", "task": {"kind": "label", "labels": ["강", "산"]}}
    weights = random_model(shape, seed=3).weights()
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage=lineage, card="# labeller\n")
    return path


def labelled(count: int) -> list[Pair]:
    return [
        Pair((Turn("user", f"sea {number}"), Turn("assistant", "강" if number % 3 else "산")), "x", number)
        for number in range(count)
    ]


def test_the_temperature_is_found_that_the_data_were_drawn_with() -> None:
    random_numbers = np.random.default_rng(0)
    logits = random_numbers.normal(size=(20_000, 4)) * 3
    for temperature in (0.5, 1.0, 2.5):
        chances = shares(logits, temperature)
        truth = (chances.cumsum(axis=1) > random_numbers.random((20_000, 1))).argmax(axis=1)
        found = fit_temperature(logits, truth)
        assert found == pytest.approx(temperature, rel=0.05)
        assert label_error(logits, truth, found) < 0.015


def test_the_curve_of_answers_costs_least() -> None:
    random_numbers = np.random.default_rng(1)
    means = -random_numbers.exponential(1.0, 300)
    right = np.clip(1.2 + 0.5 * means + random_numbers.normal(0, 0.3, 300), 0, 1)

    def cost(slope: float, offset: float) -> float:
        own = 1 / (1 + np.exp(-(slope * means + offset)))
        return float(-(right * np.log(own) + (1 - right) * np.log(1 - own)).mean())

    slope, offset = fit_answers(means, right)
    grid = [(a, b) for a in np.linspace(0, 4, 81) for b in np.linspace(-4, 4, 161)]
    best = min(grid, key=lambda point: cost(*point))
    assert slope == pytest.approx(best[0], abs=0.1) and offset == pytest.approx(best[1], abs=0.1)


@pytest.mark.parametrize("right", [np.ones(30), np.zeros(30), np.linspace(1, 0, 30)])
def test_the_curve_is_finite_and_never_falls(right: np.ndarray) -> None:
    slope, offset = fit_answers(np.linspace(-3, 0, 30), right)
    assert slope >= 0 and math.isfinite(offset)


def test_confidence_is_the_curve_or_the_length_normalised_probability() -> None:
    assert UNCALIBRATED.confidence([-1.0, -2.0]) == pytest.approx(math.exp(-1.5))
    assert FITTED.confidence([-1.0, -2.0]) == pytest.approx(1 / (1 + math.exp(1.5 * 0.8 - 1.2)))


def test_a_calibration_is_kept_and_counts_for_its_weights_alone(labeller: Path) -> None:
    assert read_calibration(labeller) == (UNCALIBRATED, "")
    kept = Calibration(digest_of(labeller / WEIGHTS), FITTED.labels, FITTED.answers)
    write_calibration(labeller, kept)
    assert read_calibration(labeller) == (kept, "")
    write_calibration(labeller, Calibration("0" * 64, FITTED.labels))
    found, note = read_calibration(labeller)
    assert found == UNCALIBRATED and "other weights" in note


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "{}", '{"format": 2, "weights": "a"}', '{"format": 1, "weights": "a", "labels": 3}',
        '{"format": 1, "weights": "a", "labels": {"temperature": 0, "pairs": 1, "ece_before": 0, "ece_after": 0}}',
        '{"format": 1, "weights": "a", "labels": {"temperature": 1e99, "pairs": 1, "ece_before": 0, "ece_after": 0}}',
        '{"format": 1, "weights": "a", "labels": {"temperature": true, "pairs": 1, "ece_before": 0, "ece_after": 0}}',
        '{"format": 1, "weights": "a", "answers": {"slope": -1, "offset": 0, "pairs": 1, "ece_before": 0, "ece_after": 0}}',
        '{"format": 1, "weights": "a", "answers": {"slope": NaN, "offset": 0, "pairs": 1, "ece_before": 0, "ece_after": 0}}',
    ],
)  # fmt: skip
def test_what_is_no_calibration_is_refused(labeller: Path, content: str) -> None:
    (labeller / CALIBRATION).write_text(content)
    with pytest.raises(ModelError) as caught:
        read_calibration(labeller)
    assert CALIBRATION in caught.value.where


def test_a_model_is_calibrated_on_held_out_pairs(labeller: Path) -> None:
    lines: list[str] = []
    found = calibrate(open_model(labeller), labelled(60), say=lines.append)
    assert found is not None and found.labels is not None and found.answers is not None
    assert read_calibration(labeller) == (found, "")
    assert found.labels.pairs == 60 and found.labels.ece_after < found.labels.ece_before
    assert found.answers.ece_after < 0.1
    assert len(lines) == 1 and "60 held-out pairs" in lines[0]
    assert json.loads((labeller / CALIBRATION).read_text())["weights"] == digest_of(labeller / WEIGHTS)


def test_ngrams_count_beside_the_model_and_are_kept(labeller: Path) -> None:
    """A random model knows nothing, and the n-grams everything."""
    pairs = [
        Pair((Turn("user", f"{word} {number}"), Turn("assistant", label)), "x", number)
        for number in range(80)
        for word, label in [("great", "강") if number % 3 else ("awful", "산")]
    ]
    texts, labels = [pair.prompt for pair in pairs], [int(pair.completion == "산") for pair in pairs]
    ngrams = fitted_ngrams(texts[:40], labels[:40], 2)
    folder = open_model(labeller)
    found = calibrate(folder, pairs[40:], ngrams=ngrams)
    assert found is not None and found.labels is not None and found.labels.ngrams > 0.5
    assert read_calibration(labeller) == (found, "")
    engine = open_engine(folder)
    ranked = Labeller(folder, engine).ranked(["great 1000", "awful 1000"])
    assert [row[0][0] for row in ranked] == ["강", "산"]
    assert all(row[0][1] > 0.8 for row in ranked)
    judged, figures = judge_labels(pairs[40:], folder, engine, folder.task.labels, found)
    assert figures.accuracy == 1 > figures.model_accuracy and figures.ngrams == found.labels.ngrams
    assert all(one.exact for one in judged)
    others = Labeller(folder, engine, ["산", "강"]).ranked(["great 1000"])[0]
    assert others != ranked[0]
    assert calibrate(folder, pairs[:40]) is not None
    kept = read_calibration(labeller)[0]
    assert kept.ngrams is not None and np.array_equal(kept.ngrams.vectors, ngrams.vectors)


def test_ngrams_that_changed_do_not_count(labeller: Path) -> None:
    ngrams = Ngrams(np.array([1, 5], np.uint64), np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    fit = LabelsFit(1.5, 200, 0.1, 0.02, 1.0)
    write_calibration(labeller, Calibration(digest_of(labeller / WEIGHTS), fit, ngrams=ngrams))
    assert read_calibration(labeller)[0].labels == fit
    with pytest.raises(ModelError, match="2 labels, and the model has 3"):
        read_calibration(labeller)[0].evidence(["x"], 3)
    (labeller / NGRAMS).write_bytes((labeller / NGRAMS).read_bytes()[:-4])
    found, note = read_calibration(labeller)
    assert found == UNCALIBRATED and NGRAMS in note
    (labeller / NGRAMS).unlink()
    assert read_calibration(labeller)[0] == UNCALIBRATED


def test_a_few_pairs_are_too_few(labeller: Path) -> None:
    lines: list[str] = []
    assert calibrate(open_model(labeller), labelled(19), say=lines.append) is None
    assert "20 are needed" in lines[0] and not (labeller / CALIBRATION).exists()


def test_many_pairs_are_thinned_evenly() -> None:
    pairs = labelled(10)
    assert [pair.line for pair in thinned(pairs, 5)] == [0, 2, 4, 6, 8]
    assert thinned(pairs, 50) == pairs
