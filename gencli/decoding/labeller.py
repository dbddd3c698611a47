"""From a model folder to the labels of texts: what it was taught, how sure it may be, the engine that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gencli.decoding.labels import Classifier, all_logprobs
from gencli.decoding.prompts import prompt_ids
from gencli.errors import ModelError
from gencli.model.confidence import UNCALIBRATED, read_calibration, shares

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine
    from gencli.model.folder import ModelFolder

ROWS = 32  # texts labelled together


class Labeller:
    """Labels texts with the calibrated probabilities of a fine-tuned model.

    `labels` are those it was taught, unless others are given; `note` is what a user should know of its
    calibration. Raises ModelError for a model that has no labels.
    """

    def __init__(self, folder: ModelFolder, engine: Engine, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels) or folder.task.labels
        check_labels(folder, self.labels)
        calibration, self.note = read_calibration(folder.path)
        # what was fitted for other labels says nothing of these
        self._calibration = calibration if self.labels == folder.task.labels else UNCALIBRATED
        self._tokenizer = folder.tokenizer
        self._classifier = Classifier(
            engine, self._tokenizer, self.labels, temperature=self._calibration.temperature
        )

    def ranked(self, texts: Sequence[str], *, rows: int = ROWS) -> list[list[tuple[str, float]]]:
        """Return for each text all labels with their probabilities, the likeliest first."""
        prompts = [prompt_ids(self._tokenizer, text, chat=True) for text in texts]
        evidence = self._calibration.evidence(texts, len(self.labels))
        logprobs = all_logprobs(self._classifier, prompts, rows=rows, evidence=evidence)
        found = shares(logprobs + evidence, self._calibration.temperature)
        return [sorted(zip(self.labels, row, strict=True), key=lambda one: -one[1]) for row in found.tolist()]


def check_labels(folder: ModelFolder, labels: Sequence[str]) -> None:
    """Raise ModelError, with what to do, if the model can't choose from labels or there are none."""
    if not folder.is_chat:
        raise ModelError(
            "this model was not fine-tuned: it knows no labels",
            where=str(folder.path),
            hint=f"teach it yours: gencli finetune PAIRS -m {folder.path} -o {folder.path}-labels",
        )
    if not labels:
        raise ModelError(
            "this model was taught free answers, not labels",
            where=str(folder.path),
            hint="name the labels to choose from: --labels 'yes,no'",
        )
