"""How well a model answers labelled pairs: what the right answers cost, what it says itself, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.decoder import Engine
from gencli.decoding.labels import Classifier, all_logprobs
from gencli.decoding.prompts import turn_ids
from gencli.decoding.recall import Recalled, Recaller
from gencli.evaluation.answers import Answer, answers
from gencli.evaluation.calibration import (
    HOTTEST_FLOOR,
    ROWS,
    fit_temperature,
    label_error,
)
from gencli.evaluation.cost import Rounded, cost_of
from gencli.evaluation.curves import curve_of, fit_answers
from gencli.evaluation.measures import (
    Array,
    Covered,
    Numbers,
    area_under_risk,
    calibration_error,
    confusion_matrix,
    coverage_curve,
    macro_f1,
    token_f1,
)
from gencli.model.confidence import Calibration, shares
from gencli.model.folder import ModelFolder
from gencli.model.gpt import GPT
from gencli.text.examples import encode_pairs
from gencli.text.pairs import Pair, PairsFile
from gencli.training.batches import pairs_in_order
from gencli.training.held_out import token_bytes_of
from gencli.training.runtime import Runtime

Mask = NDArray[np.bool_]

KEPT, HALVES = "the model's folder", "the other half of these pairs"


@dataclass(frozen=True)
class Judged:
    """What a model says to a pair, how sure it is, and how right that is: 1 exactly, 0 not at all."""

    pair: Pair
    said: str
    confidence: float
    right: float
    exact: bool


@dataclass(frozen=True)
class LabelFigures:
    """How labels were told, with the calibration error (ECE) before and after the temperature.

    `calibrated_by` says where the temperature is from. `ngrams` is what n-grams count beside the model, whose
    accuracy by itself is `model_accuracy`. `confusion` counts each label (row) by the one it was taken for.
    """

    accuracy: float
    model_accuracy: float
    ngrams: float
    macro_f1: float
    ece_before: float
    ece_after: float
    temperature: float
    calibrated_by: str
    labels: list[str]
    confusion: list[list[int]]


@dataclass(frozen=True)
class AnswerFigures:
    """How answers compare with the right ones; `chrf` and `bleu` are sacrebleu's, from 0 to 100."""

    token_f1: float
    chrf: float
    bleu: float
    ece_before: float
    ece_after: float
    calibrated_by: str


@dataclass(frozen=True)
class RecallFigures(AnswerFigures):
    """The figures of the surer of two answers: the model's own, of which the `own` ones tell, and one looked up.

    `recalled` is the share of those that were looked up; `ece_before` is that of the model's own answers.
    """

    own_exact_match: float
    own_token_f1: float
    own_chrf: float
    own_bleu: float
    recalled: float


@dataclass(frozen=True)
class PairsScore:
    """All that is told of a model on a file of pairs. `bits_per_byte` and `loss` are of the right answers."""

    file: str
    model: str
    task: str
    pairs: int
    exact_match: float
    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int
    figures: LabelFigures | AnswerFigures
    aurc: float
    coverage: list[Covered]
    judged: list[Judged] = field(repr=False)

    def record(self) -> dict[str, object]:
        """Return the score as one JSON object."""
        parts = {name: value for name, value in vars(self).items() if name not in ("figures", "judged")}
        own = asdict(self.figures)
        parts["coverage"] = [asdict(point) for point in self.coverage]
        return {"event": "score", **parts, **own}


def score_pairs(
    file: PairsFile,
    folder: ModelFolder,
    model: GPT | Rounded,
    engine: Engine,
    runtime: Runtime,
    calibration: Calibration,
    *,
    rows: int,
    say: Callable[[str], None],
    recaller: Recaller | None = None,
) -> PairsScore:
    """Return what the right answers cost, and how right the model's own are: its labels, or greedy answers.

    With a `recaller` it is what is surer, the greedy answer or the one that is looked up.
    """
    tokenizer = folder.tokenizer
    encoded = encode_pairs(file.pairs, tokenizer, context=model.shape.context)
    for note in encoded.notes:
        say(note)
    batches = pairs_in_order(encoded.examples, rows=rows, padding=tokenizer.pad)
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=0.0)
    cost = cost_of(model, batches, sizes, runtime)
    labels = labels_of(folder, file)
    figures: LabelFigures | AnswerFigures
    if labels:
        judged, figures = judge_labels(file.pairs, folder, engine, labels, calibration)
    else:
        judged, figures = judge_answers(file.pairs, folder, engine, calibration)
        if recaller is not None:
            judged, figures = judge_recalled(judged, figures, folder, recaller)
    sure, right = np.array([one.confidence for one in judged]), np.array([one.right for one in judged])
    return PairsScore(
        str(file.path), str(folder.path), "label" if labels else "answer", len(judged),
        sum(one.exact for one in judged) / len(judged),
        cost.bits_per_byte, cost.loss, cost.tokens, round(cost.nbytes),
        figures, area_under_risk(sure, right), coverage_curve(sure, right), judged,
    )  # fmt: skip


def labels_of(folder: ModelFolder, file: PairsFile) -> tuple[str, ...]:
    """Return the labels that a model chooses from; none if it answers freely.

    A model whose lineage names no task takes those of the file, if its answers are labels.
    """
    if "task" in folder.lineage or len(file.labels) < 2:
        return folder.task.labels
    return file.labels


def judge_labels(
    pairs: Sequence[Pair],
    folder: ModelFolder,
    engine: Engine,
    labels: Sequence[str],
    calibration: Calibration,
) -> tuple[list[Judged], LabelFigures]:
    """Return the likeliest label of each pair, and the figures. A label the model doesn't know is always missed."""
    tokenizer = folder.tokenizer
    kept = calibration.labels is not None and tuple(labels) == folder.task.labels
    names = [*labels, *sorted({pair.completion for pair in pairs} - set(labels))]
    numbers = {name: number for number, name in enumerate(names)}
    truth = np.array([numbers[pair.completion] for pair in pairs])
    warmth = max(calibration.temperature, HOTTEST_FLOOR)
    classifier = Classifier(engine, tokenizer, labels, temperature=warmth)
    own = all_logprobs(classifier, [turn_ids(tokenizer, pair.turns[:-1]) for pair in pairs], rows=ROWS)
    logprobs = own + calibration.evidence([pair.prompt for pair in pairs], len(labels)) if kept else own
    said = logprobs.argmax(axis=1)
    right = (said == truth).astype(np.float64)
    if kept:
        temperature, after = calibration.temperature, shares(logprobs, calibration.temperature).max(axis=1)
    else:
        temperature, after = _temperature_by_halves(logprobs, truth)
    matrix = confusion_matrix(truth, said, len(names))
    ngrams = calibration.labels.ngrams if kept and calibration.labels else 0.0
    figures = LabelFigures(
        float(right.mean()), float((own.argmax(axis=1) == truth).mean()), ngrams, macro_f1(matrix),
        label_error(own, truth, 1.0), calibration_error(after, right),
        temperature, KEPT if kept else HALVES, names, matrix.tolist(),
    )  # fmt: skip
    judged = [
        Judged(pair, names[label], sure, good, good == 1)
        for pair, label, sure, good in zip(pairs, said.tolist(), after.tolist(), right.tolist(), strict=True)
    ]
    return judged, figures


def judge_answers(
    pairs: Sequence[Pair], folder: ModelFolder, engine: Engine, calibration: Calibration
) -> tuple[list[Judged], AnswerFigures]:
    """Return the model's greedy answer to each pair, and the figures; how right it is, is its token F1."""
    places = {id(pair): place for place, pair in enumerate(pairs)}
    said: list[Answer] = sorted(
        answers(pairs, engine, folder.tokenizer), key=lambda answer: places[id(answer.pair)]
    )
    right = np.array([token_f1(answer.text, answer.pair.completion) for answer in said])
    means = np.array([answer.mean_logprob for answer in said])
    fit = calibration.answers
    sure = curve_of(fit.slope, fit.offset)(means) if fit else _curve_by_halves(means, right)
    texts, expected = [answer.text.strip() for answer in said], [pair.completion.strip() for pair in pairs]
    figures = AnswerFigures(
        float(right.mean()), chrf(texts, expected), bleu(texts, expected),
        calibration_error(np.exp(means), right), calibration_error(sure, right), KEPT if fit else HALVES,
    )  # fmt: skip
    judged = [
        Judged(pair, text, confidence, good, text == wanted)
        for pair, text, confidence, good, wanted in zip(
            pairs, texts, sure.tolist(), right.tolist(), expected, strict=True
        )
    ]
    return judged, figures


def judge_recalled(
    own: Sequence[Judged], figures: AnswerFigures, folder: ModelFolder, recaller: Recaller
) -> tuple[list[Judged], RecallFigures]:
    """Return the surer of each pair's own answer and the one that is looked up, and the figures."""
    prompts = [turn_ids(folder.tokenizer, one.pair.turns[:-1]) for one in own]
    found = recaller.nearest([one.pair.prompt for one in own], prompts)
    judged = [
        _recalled(one.pair, near) if near.confidence > one.confidence else one
        for one, near in zip(own, found, strict=True)
    ]
    texts, expected = [one.said for one in judged], [one.pair.completion.strip() for one in judged]
    sure, right = np.array([one.confidence for one in judged]), np.array([one.right for one in judged])
    return judged, RecallFigures(
        float(right.mean()), chrf(texts, expected), bleu(texts, expected), figures.ece_before,
        calibration_error(sure, right), figures.calibrated_by,
        sum(one.exact for one in own) / len(own), figures.token_f1, figures.chrf, figures.bleu,
        sum(one is not before for one, before in zip(judged, own, strict=True)) / len(own),
    )  # fmt: skip


def _recalled(pair: Pair, near: Recalled) -> Judged:
    text, wanted = near.pair.answer.strip(), pair.completion.strip()
    return Judged(pair, text, near.confidence, token_f1(near.pair.answer, pair.completion), text == wanted)


def chrf(said: Sequence[str], expected: Sequence[str]) -> float:
    """Return sacrebleu's chrF2 of all answers together (Popović 2015, Post 2018)."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(said), [list(expected)]).score)


def bleu(said: Sequence[str], expected: Sequence[str]) -> float:
    """Return sacrebleu's BLEU of all answers together (Papineni et al. 2002, Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU().corpus_score(list(said), [list(expected)]).score)


def _temperature_by_halves(logprobs: Array, truth: Numbers) -> tuple[float, Array]:
    """Return the temperature for all pairs, and confidences where each half is judged by that of the other."""
    known = truth < logprobs.shape[1]
    after = shares(logprobs, 1.0).max(axis=1)
    for ours, others in _halves(len(truth)):
        fitted = fit_temperature(logprobs[others & known], truth[others & known])
        after[ours] = shares(logprobs[ours], fitted).max(axis=1)
    return fit_temperature(logprobs[known], truth[known]), after


def _curve_by_halves(means: Array, right: Array) -> Array:
    sure = np.exp(means)
    for ours, others in _halves(len(means)):
        sure[ours] = curve_of(*fit_answers(means[others], right[others]))(means[ours])
    return sure


def _halves(count: int) -> list[tuple[Mask, Mask]]:
    """Return (every second pair, the others) both ways round; nothing for a single pair."""
    even = np.arange(count) % 2 == 0
    return [(even, ~even), (~even, even)] if count > 1 else []
