"""Fits how answers are looked up, and finds whether that is worth it, on pairs that a model never learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.decoder import Engine
from gencli.decoding.prompts import turn_ids
from gencli.decoding.recall import holds, nearest_by, vectors_of
from gencli.evaluation.curves import curve_of, fit_answers
from gencli.evaluation.measures import Array, Difference, paired_difference, token_f1
from gencli.model.confidence import RecallFit, read_calibration
from gencli.model.folder import ModelFolder
from gencli.model.memory import (
    ROWS,
    Floats,
    Memory,
    memory_digests,
    memory_of,
    read_memory,
    write_memory,
)
from gencli.text.pairs import Pair
from gencli.text.tokenizer import Tokenizer

KEYS_TRIED = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
AUTO, ON, OFF = "auto", "on", "off"  # whether a memory is kept


def remembered(
    folder: ModelFolder, pairs: Sequence[Pair], engine: Engine, *, check: Callable[[], None] = lambda: None
) -> Memory:
    """Return a memory of pairs, by what the model in a folder makes of their prompts."""
    return memory_of(pairs, _vectors(folder.tokenizer, pairs, engine, check))


def kept_memory(folder: ModelFolder) -> Memory | None:
    """Return the memory in a folder, None if there is none of these weights."""
    fit = read_calibration(folder.path)[0].recall
    return read_memory(folder.path, folder.shape.width) if fit and holds(folder, fit) else None


def fit_recall(
    folder: ModelFolder,
    memory: Memory | None,
    pairs: Sequence[Pair],
    engine: Engine,
    own: tuple[Array, Array],
    *,
    keep: str,
    learned: int | None,
    say: Callable[[str], None],
) -> RecallFit | None:
    """Return how answers to `pairs` are best looked up; a new memory is written to the folder if it is to be kept.

    `own` are the confidences in the model's own answers [N], and how right these are. Without a memory, new or in
    the folder, there is nothing to fit; of a new one only the first pairs are looked at that were `learned`, if not
    all were. What was found is said in a line.
    """
    held = memory if memory is not None else kept_memory(folder)
    if held is None:
        return None
    fit, gain = _fitted(held.first(learned), pairs, _vectors(folder.tokenizer, pairs, engine), own)
    found = (
        f"token F1 {fit.surer:.3f} with a memory of the pairs, {fit.own:.3f} without, "
        f"{fit.recalled:.3f} by the memory alone"
    )
    if memory is None:
        say(found)
        rows, keys = memory_digests(folder.path)
    elif keep == AUTO and gain.value <= gain.margin:
        say(f"{found}: not clearly better, none is kept (--memory on keeps it)")
        return None
    else:
        rows, keys = write_memory(folder.path, memory)
        say(
            f"{found}: {folder.path / ROWS} holds the pairs' text for gencli generate --recall "
            "(--memory off leaves it out)"
        )
    return replace(fit, rows_digest=rows, keys_digest=keys)


def _fitted(
    memory: Memory, pairs: Sequence[Pair], vectors: Floats, own: tuple[Array, Array]
) -> tuple[RecallFit, Difference]:
    """Return the fit, without digests, and by how much the surer of both is better than the model alone.

    What keys count is what gives the highest token F1, the least of equals.
    """
    tries = nearest_by(memory, [pair.prompt for pair in pairs], vectors, KEYS_TRIED)
    rights = [_right(memory, places, pairs) for places, _ in tries]
    best = int(np.argmax([round(float(right.mean()), 9) for right in rights]))
    right, similarities = rights[best], tries[best][1]
    confidence, own_right = own
    slope, offset = fit_answers(similarities, right)
    surer = np.where(curve_of(slope, offset)(similarities) > confidence, right, own_right)
    own_f1, recalled_f1, surer_f1 = (float(each.mean()) for each in (own_right, right, surer))
    fit = RecallFit(KEYS_TRIED[best], slope, offset, len(pairs), own_f1, recalled_f1, surer_f1)
    return fit, paired_difference(own_right, surer)


def _right(memory: Memory, places: NDArray[np.int64], pairs: Sequence[Pair]) -> Array:
    """Return the token F1 of the answers at places of the memory [N]."""
    found = zip(places.tolist(), pairs, strict=True)
    return np.array([token_f1(memory.rows[place].answer, pair.completion) for place, pair in found])


def _vectors(
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    engine: Engine,
    check: Callable[[], None] = lambda: None,
) -> Floats:
    prompts = [turn_ids(tokenizer, pair.turns[:-1]) for pair in pairs]
    return vectors_of(engine, prompts, check=check)
