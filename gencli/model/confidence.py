"""How sure a model may be: a few numbers fitted on pairs that it never learned, kept beside its weights.

    calibration.json     format, the sha256 of the weights it was fitted for,
                         labels: temperature, and what n-grams count; answers: slope and offset; recall: what keys
                         count, slope and offset; each with its pairs, and how well it does on them
    ngrams.safetensors   what n-grams say of labels, if they count
    memory.jsonl  memory.safetensors
                         the pairs that answers are looked up in, if they are kept

A label's log-probability is that of the model, and so many times that of the n-grams: a product of experts (Hinton
2002). Its probability is its share after all are divided by the temperature (Guo et al. 2017).
An answer's confidence is 1 / (1 + exp(-(slope · x + offset))), where x is the mean log-probability of its
tokens, its end among them (Platt 1999): the token F1 to expect of it, 1 being exactly right. Without a
calibration it is exp(x), the length-normalised probability. That of an answer that was looked up is the same curve of
how alike the prompts are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencli.errors import ModelError
from gencli.model.folder import read_json, weights_file
from gencli.model.ngrams import NGRAMS, Ngrams, read_ngrams, write_ngrams
from gencli.storage import digest_of, replace_file

CALIBRATION = "calibration.json"
FORMAT = 1
TEMPERATURES = (0.05, 20.0)  # least and most
NGRAMS_COUNT = (0.0, 10.0)
SLOPES, OFFSETS = (0.0, 100.0), (-100.0, 100.0)
KEYS_COUNT = (0.0, 1000.0)
PARTS = ("labels", "answers", "recall")
_MOST_PAIRS = 10**12


@dataclass(frozen=True)
class LabelsFit:
    """The temperature of labels, and their calibration error (ECE) on the pairs of the fit, before and after.

    `ngrams` is what the log-probabilities of n-grams count beside those of the model, which count 1.
    """

    temperature: float
    pairs: int
    ece_before: float
    ece_after: float
    ngrams: float = 0.0


@dataclass(frozen=True)
class AnswersFit:
    """How the probability of an answer becomes its confidence, with the errors before and after."""

    slope: float
    offset: float
    pairs: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class RecallFit:
    """How answers are looked up in the memory whose files have these digests, and what that is good for.

    `keys` is what the cosine of keys counts beside that of n-grams. The token F1 on the pairs of the fit: of the
    model's own answers, of those that were looked up, and of the surer of both.
    """

    keys: float
    slope: float
    offset: float
    pairs: int
    own: float
    recalled: float
    surer: float
    rows_digest: str = ""
    keys_digest: str = ""

    @property
    def digests(self) -> tuple[str, str]:
        """Return the digests of the memory's files."""
        return self.rows_digest, self.keys_digest

    def confidences(self, similarities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the token F1 to expect of answers to prompts that are so alike [N]."""
        return sigmoid(self.slope * similarities + self.offset)


@dataclass(frozen=True)
class Calibration:
    """What was fitted for the weights with this digest, with the n-grams that count if any do."""

    weights: str = ""
    labels: LabelsFit | None = None
    answers: AnswersFit | None = None
    recall: RecallFit | None = None
    ngrams: Ngrams | None = field(default=None, compare=False)

    def evidence(self, texts: Sequence[str], labels: int) -> NDArray[np.float64]:
        """Return what the n-grams of the texts add to the model's log-probabilities of so many labels [N, labels].

        Nothing is added where none count. Raises ModelError for n-grams of another number of labels.
        """
        if self.labels is None or self.ngrams is None or not self.labels.ngrams:
            return np.zeros((len(texts), labels))
        if self.ngrams.labels != labels:
            raise ModelError(
                f"{NGRAMS} is of {self.ngrams.labels:,} labels, and the model has {labels:,}",
                hint=f"copy the model again, or delete {CALIBRATION} and {NGRAMS}",
            )
        return self.labels.ngrams * self.ngrams.logprobs(texts)

    @property
    def temperature(self) -> float:
        """Return the temperature of labels; 1 if none was fitted."""
        return self.labels.temperature if self.labels else 1.0

    def confidence(self, logprobs: Sequence[float]) -> float:
        """Return the confidence in an answer whose tokens, end included, have these log-probabilities."""
        mean = sum(logprobs) / max(1, len(logprobs))
        if self.answers is None:
            return math.exp(min(0.0, mean))
        return float(sigmoid(np.array([self.answers.slope * mean + self.answers.offset]))[0])


UNCALIBRATED = Calibration()


def shares(logprobs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return probabilities [N, L] that add up to one from log-probabilities, divided by a temperature."""
    scaled = logprobs / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    positive = 1 / (1 + np.exp(-np.abs(x)))
    return np.asarray(np.where(x >= 0, positive, 1 - positive))


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Keep a calibration in a model folder. Raises MachineError when the disk refuses."""
    about: dict[str, object] = {"format": FORMAT, "weights": calibration.weights}
    if calibration.ngrams is not None:
        write_ngrams(path, calibration.ngrams)
        about["ngrams"] = digest_of(path / NGRAMS)
    about |= {name: asdict(part) for name in PARTS if (part := getattr(calibration, name))}
    replace_file(path / CALIBRATION, json.dumps(about, indent=2) + "\n")


def read_calibration(path: Path) -> tuple[Calibration, str]:
    """Return the calibration in a model folder, and what a user should know about it, "" if nothing.

    A folder without one, or with one that was fitted for other weights or n-grams, is uncalibrated. Raises
    ModelError for a file that holds anything else.
    """
    if not (path / CALIBRATION).exists():
        return UNCALIBRATED, ""
    found, ngrams = _parsed(path / CALIBRATION)
    if found.weights != digest_of(weights_file(path)):
        return UNCALIBRATED, f"{CALIBRATION} was fitted for other weights than these, and is not used"
    if not ngrams:
        return found, ""
    if not (path / NGRAMS).is_file() or digest_of(path / NGRAMS) != ngrams:
        return UNCALIBRATED, f"{CALIBRATION} was fitted for another {NGRAMS} than this, and is not used"
    return replace(found, ngrams=read_ngrams(path)), ""


def _parsed(path: Path) -> tuple[Calibration, str]:
    """Return what a file says, and the digest of the n-grams, "" if it names none."""
    values = read_json(path)
    if values.get("format") != FORMAT or not isinstance(values.get("weights"), str):
        raise _damaged(path, f'no "weights" and "format": {FORMAT}')
    labels, answers, recall = (_part(values, name, path) for name in PARTS)
    found = Calibration(
        str(values["weights"]),
        LabelsFit(
            _number(labels, "temperature", *TEMPERATURES, path), int(_number(labels, "pairs", 1, _MOST_PAIRS, path)),
            _number(labels, "ece_before", 0, 1, path), _number(labels, "ece_after", 0, 1, path),
            _number({"ngrams": 0.0, **labels}, "ngrams", *NGRAMS_COUNT, path),
        ) if labels else None,
        AnswersFit(
            _number(answers, "slope", *SLOPES, path), _number(answers, "offset", *OFFSETS, path),
            int(_number(answers, "pairs", 1, _MOST_PAIRS, path)),
            _number(answers, "ece_before", 0, 1, path), _number(answers, "ece_after", 0, 1, path),
        ) if answers else None,
        RecallFit(
            _number(recall, "keys", *KEYS_COUNT, path), _number(recall, "slope", *SLOPES, path),
            _number(recall, "offset", *OFFSETS, path), int(_number(recall, "pairs", 1, _MOST_PAIRS, path)),
            _number(recall, "own", 0, 1, path), _number(recall, "recalled", 0, 1, path),
            _number(recall, "surer", 0, 1, path),
            str(recall.get("rows_digest")), str(recall.get("keys_digest")),
        ) if recall else None,
    )  # fmt: skip
    return found, str(values.get("ngrams", ""))


def _part(values: dict[str, object], name: str, path: Path) -> dict[str, object]:
    part = values.get(name, {})
    if not isinstance(part, dict):
        raise _damaged(path, f"{name!r} is no object")
    return part


def _number(part: dict[str, object], name: str, least: float, most: float, path: Path) -> float:
    value = part.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _damaged(path, f"{name!r} is not from {least:g} to {most:g}")
    return float(value)


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"this is not a calibration: {reason}",
        where=str(path),
        hint="delete it, and fit a new one: gencli evaluate PAIRS -m MODEL --calibrate",
    )
