"""Fits how sure a model may be on pairs that it never learned, and keeps that in its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gencli.decoding.decoder import Engine
from gencli.decoding.engines import open_engine
from gencli.decoding.labels import Classifier, all_logprobs
from gencli.decoding.prompts import turn_ids
from gencli.evaluation.answers import answers
from gencli.evaluation.curves import curve_of, fit_answers
from gencli.evaluation.measures import Array, Numbers, calibration_error, token_f1
from gencli.evaluation.recalling import AUTO, fit_recall
from gencli.model.confidence import (
    NGRAMS_COUNT,
    TEMPERATURES,
    AnswersFit,
    Calibration,
    LabelsFit,
    read_calibration,
    shares,
    write_calibration,
)
from gencli.model.folder import ModelFolder, weights_file
from gencli.model.memory import Memory
from gencli.model.ngrams import Ngrams
from gencli.storage import digest_of
from gencli.text.pairs import Pair

FEWEST_PAIRS = 20
MOST_LABELLED, MOST_ANSWERED = 4000, 400  # pairs that are looked at: more would hardly change the fit
MOST_NUMBERS = 4_000_000  # log-probabilities of labels that are looked at
ROWS = 32
HOTTEST_FLOOR = 2.0  # labels that reach so little probability that it would not matter up to this temperature
_GOLDEN = (math.sqrt(5) - 1) / 2


def calibrate(
    folder: ModelFolder,
    pairs: Sequence[Pair],
    *,
    ngrams: Ngrams | None = None,
    memory: Memory | None = None,
    keep: str = AUTO,
    learned: int | None = None,
    engine: Engine | None = None,
    say: Callable[[str], None] = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> Calibration | None:
    """Fit the confidence of a fine-tuned model on `pairs` that it never learned, and keep it in its folder.

    To be called once its final weights are published, with the held-out pairs of the run. A label task gets a
    temperature, and `ngrams`, or else those in the folder, a weight beside the model; each model gets a calibration
    of its free answers, and what looks them up in `memory`, which is kept as `keep` says, or else in the memory in the
    folder; what stands in `memory` after the first `learned` pairs may be among those that are held out. `engine`
    runs the folder's weights; one is opened if none is given. `say` is told the outcome in a line; `check` is called
    now and then and may raise. Returns None, and keeps nothing, if there are fewer than 20 pairs. Raises
    MachineError when the disk refuses.
    """
    if len(pairs) < FEWEST_PAIRS:
        say(f"no calibration: {len(pairs)} pairs are held out, and {FEWEST_PAIRS} are needed")
        return None
    engine = engine or open_engine(folder)
    check()
    if ngrams is None:
        ngrams = read_calibration(folder.path)[0].ngrams
    most = min(MOST_LABELLED, max(FEWEST_PAIRS, MOST_NUMBERS // max(1, len(folder.task.labels))))
    labels = _labels_fit(folder, thinned(pairs, most), engine, ngrams, check)
    check()
    asked = thinned(pairs, MOST_ANSWERED)
    means, right = _answered(folder, asked, engine, check)
    fit = answers_fit(means, right)
    sure = curve_of(fit.slope, fit.offset)(means)
    lines: list[str] = []
    recall = fit_recall(
        folder, memory, asked, engine, (sure, right), keep=keep, learned=learned, say=lines.append
    )
    counts = labels is not None and labels.ngrams > 0
    found = Calibration(digest_of(weights_file(folder.path)), labels, fit, recall, ngrams if counts else None)
    write_calibration(folder.path, found)
    for line in (told(found), *lines):
        say(line)
    return found


def told(calibration: Calibration) -> str:
    """Return in a line what was fitted."""
    parts = []
    if fit := calibration.labels:
        parts.append(
            f"labels by temperature {fit.temperature:.2f}"
            + (f", n-grams count {fit.ngrams:.2f}" if fit.ngrams else "")
            + f": error {fit.ece_before:.3f} → {fit.ece_after:.3f}"
        )
    if answer := calibration.answers:
        parts.append(f"answers: error {answer.ece_before:.3f} → {answer.ece_after:.3f}")
    count = max(fit.pairs for fit in (calibration.labels, calibration.answers) if fit)
    return f"confidence calibrated on {count:,} held-out pairs; {'; '.join(parts)}"


def thinned(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """Return at most so many pairs, evenly spread over all."""
    count = min(most, len(pairs))
    return [pairs[place * len(pairs) // count] for place in range(count)]


def fit_temperature(logprobs: Array, truth: Numbers) -> float:
    """Return the temperature at which the true labels [N] cost least, from log-probabilities [N, L].

    Guo et al. 2017. A weak pull towards 1, as strong as a single pair, decides where few pairs can't.
    """
    rows = np.arange(len(truth))

    def cost(log_temperature: float) -> float:
        own = shares(logprobs, math.exp(log_temperature))[rows, truth]
        return float(-np.log(np.maximum(own, 1e-300)).sum()) + log_temperature**2

    return math.exp(_lowest(cost, *map(math.log, TEMPERATURES)))


def fit_ngrams(logprobs: Array, evidence: Array, truth: Numbers) -> float:
    """Return what `evidence` [N, L] is to count beside log-probabilities [N, L], at the temperature best for both.

    The cost of the true labels, with a weak pull towards 0.
    """
    rows = np.arange(len(truth))

    def cost(count: float) -> float:
        both = logprobs + count * evidence
        own = shares(both, fit_temperature(both, truth))[rows, truth]
        return float(-np.log(np.maximum(own, 1e-300)).sum()) + 0.1 * count

    return _lowest(cost, *NGRAMS_COUNT, within=0.02)


def _labels_fit(
    folder: ModelFolder,
    pairs: Sequence[Pair],
    engine: Engine,
    ngrams: Ngrams | None,
    check: Callable[[], None],
) -> LabelsFit | None:
    """Return the temperature for a label task; pairs with labels of their own can't count."""
    labels = {label: number for number, label in enumerate(folder.task.labels)}
    known = [pair for pair in pairs if pair.completion in labels]
    if len(known) < FEWEST_PAIRS:
        return None
    tokenizer = folder.tokenizer
    classifier = Classifier(engine, tokenizer, tuple(labels), temperature=HOTTEST_FLOOR)
    prompts = [turn_ids(tokenizer, pair.turns[:-1]) for pair in known]
    logprobs = all_logprobs(classifier, prompts, rows=ROWS, check=check)
    truth = np.array([labels[pair.completion] for pair in known])
    count, joined = 0.0, logprobs
    if ngrams is not None:
        evidence = ngrams.logprobs([pair.prompt for pair in known])
        count = fit_ngrams(logprobs, evidence, truth)
        joined = logprobs + count * evidence
    temperature = fit_temperature(joined, truth)
    before, after = label_error(logprobs, truth, 1.0), label_error(joined, truth, temperature)
    return LabelsFit(temperature, len(known), before, after, count)


def label_error(logprobs: Array, truth: Numbers, temperature: float) -> float:
    """Return the calibration error of the likeliest labels at a temperature."""
    likeliest = shares(logprobs, temperature).max(axis=1)
    return calibration_error(likeliest, (logprobs.argmax(axis=1) == truth).astype(np.float64))


def _answered(
    folder: ModelFolder, pairs: Sequence[Pair], engine: Engine, check: Callable[[], None]
) -> tuple[Array, Array]:
    """Return the mean log-probabilities [N] of the model's answers to pairs, and how right these are [N].

    They come in the order of the pairs.
    """
    found = {}
    for answer in answers(pairs, engine, folder.tokenizer):
        check()
        found[id(answer.pair)] = answer.mean_logprob, token_f1(answer.text, answer.pair.completion)
    means, right = zip(*(found[id(pair)] for pair in pairs), strict=True)
    return np.array(means), np.array(right)


def answers_fit(means: Array, right: Array) -> AnswersFit:
    """Return the fit with its errors on the same answers."""
    slope, offset = fit_answers(means, right)
    after = curve_of(slope, offset)(means)
    return AnswersFit(
        slope, offset, len(means), calibration_error(np.exp(means), right), calibration_error(after, right)
    )


def _lowest(cost: Callable[[float], float], low: float, high: float, *, within: float = 1e-4) -> float:
    """Return where a function with one valley is lowest, by golden sections."""
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    costs = [cost(place) for place in inner]
    while high - low > within:
        if costs[0] < costs[1]:
            high, inner, costs = inner[1], [0.0, inner[0]], [0.0, costs[0]]
            inner[0] = high - _GOLDEN * (high - low)
            costs[0] = cost(inner[0])
        else:
            low, inner, costs = inner[0], [inner[1], 0.0], [costs[1], 0.0]
            inner[1] = low + _GOLDEN * (high - low)
            costs[1] = cost(inner[1])
    return (low + high) / 2
