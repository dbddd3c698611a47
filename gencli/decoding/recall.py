"""Looks up what a model learned: the pair whose prompt is most like a new one, and how far to trust its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.many import batches_by_length
from gencli.decoding.trie import fitted
from gencli.errors import ModelError
from gencli.model.confidence import CALIBRATION, Calibration, RecallFit
from gencli.model.memory import KEYS, ROWS, Floats, Memory, Remembered, memory_digests, read_memory

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine
    from gencli.model.folder import ModelFolder

Found = tuple[NDArray[np.int64], NDArray[np.float64]]

TOGETHER = 32  # prompts
_AT_ONCE = 1 << 24  # cosines


@dataclass(frozen=True)
class Recalled:
    """The pair most like a prompt, how alike they are, and the token F1 to expect of its answer."""

    pair: Remembered
    similarity: float
    confidence: float


@dataclass(frozen=True)
class Recaller:
    """Finds the nearest of the pairs in a memory, as its fit says what counts how much."""

    engine: Engine
    memory: Memory
    fit: RecallFit

    def nearest(self, texts: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[Recalled]:
        """Return for each last question, and all that the model reads before it answers, the nearest pair.

        What the engine held is forgotten.
        """
        places, similarities = nearest(
            self.memory, texts, vectors_of(self.engine, prompts), keys=self.fit.keys
        )
        confidences = self.fit.confidences(similarities)
        return [
            Recalled(self.memory.rows[place], similarity, confidence)
            for place, similarity, confidence in zip(
                places.tolist(), similarities.tolist(), confidences.tolist(), strict=True
            )
        ]


def open_recaller(folder: ModelFolder, engine: Engine, calibration: Calibration, note: str) -> Recaller:
    """Return what looks up answers for the model in a folder, with what `read_calibration` says of that.

    Raises ModelError if it has no memory of its own.
    """
    fit = calibration.recall
    if fit is None:
        raise ModelError(
            note or "this model keeps no memory of the pairs that it learned from",
            where=str(folder.path),
            hint="fine-tune one that does: gencli finetune PAIRS -m BASE -o MODEL --memory on",
        )
    if not holds(folder, fit):
        raise ModelError(
            f"{ROWS} and {KEYS} are not those that {CALIBRATION} was fitted for",
            where=str(folder.path),
            hint="copy the model again, or fine-tune it again with --memory on",
        )
    return Recaller(engine, read_memory(folder.path, folder.shape.width), fit)


def holds(folder: ModelFolder, fit: RecallFit) -> bool:
    """Tell whether the memory in a folder is the one of the fit."""
    return memory_digests(folder.path) == fit.digests


def vectors_of(
    engine: Engine, prompts: Sequence[Sequence[int]], *, check: Callable[[], None] = lambda: None
) -> Floats:
    """Return what a model makes of prompts [B, W], those of like length read together.

    Of one that is too long the first id and the most recent ones are read. `check` may raise.
    """
    read = [fitted(prompt, engine.context) for prompt in prompts]
    found: list[Floats | None] = [None] * len(read)
    for numbers in batches_by_length(range(len(read)), lambda number: len(read[number]), TOGETHER):
        check()
        for number, vector in zip(numbers, engine.vectors([read[number] for number in numbers]), strict=True):
            found[number] = vector
    return np.stack([vector for vector in found if vector is not None])


def nearest(memory: Memory, texts: Sequence[str], vectors: Floats, *, keys: float) -> Found:
    """Return the places of the pairs most like B prompts and their similarities (B,); the first of equals."""
    (found,) = nearest_by(memory, texts, vectors, [keys])
    return found


def nearest_by(
    memory: Memory, texts: Sequence[str], vectors: Floats, weights: Sequence[float]
) -> list[Found]:
    """Return `nearest` for each of several weights of the keys, from cosines that are made once."""
    rows = max(1, _AT_ONCE // len(memory.rows))
    parts = []
    for first in range(0, len(texts), rows):
        grams, keys = memory.cosines(texts[first : first + rows], vectors[first : first + rows])
        sums = [grams + np.float32(weight) * keys for weight in weights]
        parts.append([(each.argmax(axis=1), each.max(axis=1).astype(np.float64)) for each in sums])
    return [
        (np.concatenate([part[0] for part in own]), np.concatenate([part[1] for part in own]))
        for own in zip(*parts, strict=True)
    ]
