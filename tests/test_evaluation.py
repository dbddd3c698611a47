"""gencli evaluate on pairs: its figures against those made of what the model is seen to say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from gencli.evaluation.comparison import compare
from gencli.evaluation.measures import token_f1
from gencli.evaluation.pairs import AnswerFigures, Judged, LabelFigures, PairsScore
from gencli.model.confidence import AnswersFit, Calibration, LabelsFit, read_calibration, write_calibration
from gencli.model.folder import WEIGHTS
from gencli.storage import digest_of
from gencli.text.chat import Turn
from gencli.text.pairs import Pair
from gencli.text.tokenizer import Tokenizer
from tests.conftest import WORDS, Cli
from tests.labelling import LABELS, labeller


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    rows = [
        {"text": f"{word} 그리고 {other}", "label": LABELS[(number + place) % 2]}
        for number, word in enumerate(WORDS[:8])
        for place, other in enumerate(WORDS[8:14])
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def answers_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{word}?", "completion": f"The {word} is here."} for word in WORDS]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_labels_are_scored_as_classify_tells_them(
    cli: Cli, tmp_path: Path, tokenizer: Tokenizer, labels_file: Path
) -> None:
    model = labeller(tmp_path / "model", tokenizer)
    write_calibration(model, Calibration(digest_of(model / WEIGHTS), LabelsFit(1.7, 100, 0.1, 0.0)))
    wrong = tmp_path / "wrong.jsonl"
    outcome = cli("evaluate", labels_file, "-m", model, "--json", "--errors", wrong)
    assert outcome.code == 0, outcome.err
    record: Any = outcome.records[0]
    truth = [row["label"] for row in rows_of(labels_file)]
    told: Any = cli("classify", "-i", labels_file, "-m", model, "--json", "--all").records
    said = [row["label"] for row in told]
    hits = [t == s for t, s in zip(truth, said, strict=True)]
    assert record["task"] == "label" and record["temperature"] == 1.7 and record["pairs"] == 48
    assert record["accuracy"] == record["exact_match"] == pytest.approx(np.mean(hits))
    counted = [
        [sum(t == a and s == b for t, s in zip(truth, said, strict=True)) for b in LABELS] for a in LABELS
    ]
    assert record["labels"] == LABELS and record["confusion"] == counted
    sure = sorted(((row["probability"], hit) for row, hit in zip(told, hits, strict=True)), reverse=True)
    half = next(point for point in record["coverage"] if point["coverage"] == 0.5)
    assert half["right"] == pytest.approx(np.mean([hit for _, hit in sure[:24]]))
    errors = rows_of(wrong)
    assert len(errors) == hits.count(False) and "wrong answers are in" in outcome.err
    assert [row["confidence"] for row in errors] == sorted(
        (row["confidence"] for row in errors), reverse=True
    )
    lines = {row["line"] for row in errors}
    assert lines == {number for number, hit in enumerate(hits, 1) if not hit}


def test_labels_that_a_model_does_not_know_are_missed(cli: Cli, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = labeller(tmp_path / "model", tokenizer)
    file = tmp_path / "others.csv"
    file.write_text("text,label\n강,강\n산,바다\n새,강\n꽃,바다\n", encoding="utf-8")
    record: Any = cli("evaluate", file, "-m", model, "--json").records[0]
    assert record["labels"] == [*LABELS, "바다"] and record["confusion"][2][2] == 0
    assert record["accuracy"] <= 0.5 and record["calibrated_by"] == "the other half of these pairs"


def test_answers_are_scored_as_sacrebleu_does(
    cli: Cli, tmp_path: Path, tokenizer: Tokenizer, answers_file: Path
) -> None:
    model = labeller(tmp_path / "model", tokenizer, task={"kind": "answer", "labels": []})
    wrong = tmp_path / "wrong.jsonl"
    outcome = cli("evaluate", answers_file, "-m", model, "--json", "--errors", wrong)
    assert outcome.code == 0, outcome.err
    record: Any = outcome.records[0]
    errors = sorted(rows_of(wrong), key=lambda row: row["line"])
    assert len(errors) == len(WORDS) and record["exact_match"] == 0
    said, expected = [row["said"] for row in errors], [row["expected"] for row in errors]
    assert record["chrf"] == pytest.approx(CHRF().corpus_score(said, [expected]).score)
    assert record["bleu"] == pytest.approx(BLEU().corpus_score(said, [expected]).score)
    scores = [token_f1(ours, theirs) for ours, theirs in zip(said, expected, strict=True)]
    assert record["token_f1"] == pytest.approx(np.mean(scores))
    greedy: Any = cli(
        "generate", errors[0]["prompt"], "-m", model, "-t", 0, "-n", 200, "--json", "--logprobs", 0
    ).records[0]
    assert greedy["text"].strip().startswith(said[0][:10])
    assert record["ece_before"] > record["ece_after"]


def test_calibrating_keeps_the_fit_and_the_next_evaluation_uses_it(
    cli: Cli, tmp_path: Path, tokenizer: Tokenizer, labels_file: Path
) -> None:
    model = labeller(tmp_path / "model", tokenizer)
    before: Any = cli("evaluate", labels_file, "-m", model, "--json").records[0]
    assert before["calibrated_by"] == "the other half of these pairs"
    outcome = cli("evaluate", labels_file, "-m", model, "--json", "--calibrate")
    assert outcome.records[0] == before and "calibrated on 48 held-out pairs" in outcome.err
    kept = read_calibration(model)[0]
    assert kept.temperature == pytest.approx(before["temperature"], rel=0.01)
    after: Any = cli("evaluate", labels_file, "-m", model, "--json").records[0]
    assert after["calibrated_by"] == "the model's folder" and after["temperature"] == kept.temperature
    assert after["ece_before"] == before["ece_before"] and after["ece_after"] < before["ece_before"]


def test_two_models_stand_side_by_side(
    cli: Cli, tmp_path: Path, tokenizer: Tokenizer, labels_file: Path, answers_file: Path
) -> None:
    one = labeller(tmp_path / "one", tokenizer)
    other = labeller(tmp_path / "other", tokenizer, seed=4)
    options = ["evaluate", labels_file, "-m", one, "--against", other]
    first, second, comparison = [dict(record) for record in cli(*options, "--json").records]
    assert (first["model"], second["model"]) == (str(one), str(other))
    assert comparison["event"] == "comparison"
    for figure in ("accuracy", "macro_f1"):
        told: Any = comparison[figure]
        assert told["value"] == pytest.approx(float(str(first[figure])) - float(str(second[figure])))
        assert told["margin"] > 0
    shown = cli(*options).out
    assert "95 % interval" in shown and "points of accuracy" in shown and "Truth (row)" in shown
    free = labeller(tmp_path / "free", tokenizer, task={"kind": "answer", "labels": []})
    mixed = cli("evaluate", answers_file, "-m", free, "--against", one, "--json").records[2]
    assert "exact_match" in mixed and "accuracy" not in mixed
    assert "taken for" not in cli("evaluate", answers_file, "-m", free).out


def judged(said: list[str], expected: list[str], task: str) -> PairsScore:
    pairs = [Pair((Turn("user", "x"), Turn("assistant", text)), "f", 1) for text in expected]
    rows = [
        Judged(pair, text, 0.5, token_f1(text, pair.completion), text == pair.completion)
        for pair, text in zip(pairs, said, strict=True)
    ]
    figures = (
        LabelFigures(0, 0, 0, 0, 0, 0, 1, "", [], [])
        if task == "label"
        else AnswerFigures(0, 0, 0, 0, 0, "")
    )  # fmt: skip
    return PairsScore("f", "m", task, len(rows), 0, 0, 0, 0, 0, figures, 0, [], rows)


def test_a_difference_is_said_in_points() -> None:
    expected = ["a b c"] * 200
    worse = ["a b c"] * 100 + ["a b"] * 100
    better = ["a b c"] * 150 + ["a b"] * 50
    found = compare(judged(worse, expected, "answer"), judged(better, expected, "answer"))
    assert found.figures["exact_match"].value == pytest.approx(0.25)
    assert found.figures["exact_match"].margin == pytest.approx(1.96 * math.sqrt(0.1875 / 200), rel=0.2)
    assert found.figures["token_f1"].value == pytest.approx(0.25 * 0.2)
    metric = CHRF()
    gap = metric.sentence_score("a b c", ["a b c"]).score - metric.sentence_score("a b", ["a b c"]).score
    assert found.figures["chrf"].value == pytest.approx(gap / 4)
    assert found.lines()[0].startswith("m better by 25.0 ± ") and found.lines()[0].endswith("exact match")
    same = compare(judged(worse, expected, "answer"), judged(worse, expected, "answer"))
    assert same.lines()[0].startswith("no difference that these pairs can show: +0.0 ± 0.0")
    labels = compare(judged(["a", "b"] * 50, ["a"] * 100, "label"), judged(["a"] * 100, ["a"] * 100, "label"))
    assert labels.lines()[0].startswith("m better by 50.0 ± ")


def test_an_uncalibrated_answer_is_judged_by_halves_and_a_calibrated_one_by_its_folder(
    cli: Cli, tmp_path: Path, tokenizer: Tokenizer, answers_file: Path
) -> None:
    model = labeller(tmp_path / "model", tokenizer, task={"kind": "answer", "labels": []})
    fit = AnswersFit(0.0, 2.0, 50, 0.1, 0.0)
    write_calibration(model, Calibration(digest_of(model / WEIGHTS), None, fit))
    record: Any = cli("evaluate", answers_file, "-m", model, "--json").records[0]
    assert record["calibrated_by"] == "the model's folder"
    assert all(p["confidence"] == pytest.approx(1 / (1 + math.exp(-2))) for p in record["coverage"])
    assert len({round(point["right"], 9) for point in record["coverage"]}) == 1  # none is surer than another
