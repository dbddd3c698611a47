"""What batches cost a model, whichever way it computes: torch's weights, or the CPU engine's int8 ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.cpu_engine import CpuEngine
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch, Score, score
from gencli.model.shape import Shape
from gencli.training.runtime import Runtime


@dataclass(frozen=True)
class Rounded:
    """A model as the CPU engine computes it with int8 weights."""

    shape: Shape
    engine: CpuEngine


def cost_of(
    model: GPT | Rounded, batches: Iterable[Batch], token_bytes: NDArray[np.float64], runtime: Runtime
) -> Score:
    """Return what all batches cost; `token_bytes[id]` is how many bytes of text an id stands for."""
    if isinstance(model, Rounded):
        return _engine_cost(model.engine, batches, token_bytes)
    found = score(model, batches, token_bytes=token_bytes, precision=runtime.precision)
    assert found is not None  # nothing interrupts it
    return found


def _engine_cost(engine: CpuEngine, batches: Iterable[Batch], token_bytes: NDArray[np.float64]) -> Score:
    """Add up the cost of each row of each batch, up to the last target that is not IGNORED."""
    nats, tokens, nbytes = 0.0, 0, 0.0
    for batch in batches:
        for ids, targets in zip(batch.tokens, batch.targets, strict=True):
            learned = np.flatnonzero(targets != IGNORED)
            if learned.size == 0:
                continue
            end, at = int(learned[-1]) + 1, 0
            for logits in engine.each(ids[:end].tolist()):
                goals = targets[at : at + len(logits)]
                nats += _nats(logits[goals != IGNORED], goals[goals != IGNORED])
                at += len(logits)
            tokens += learned.size
            nbytes += float(token_bytes[targets[learned]].sum())
    return Score(nats, tokens, nbytes)


def _nats(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the summed negative log-likelihood of targets [T] by logits [T, V]."""
    if targets.size == 0:
        return 0.0
    shifted = logits - logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))
    return float((totals - shifted[np.arange(targets.size), targets]).sum())
