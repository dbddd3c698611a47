"""What a text costs a model: its negative log-likelihood in nats, and in bits per byte of the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gencli.model.gpt import GPT

IGNORED = -100  # a target that is not learned and not scored


@dataclass(frozen=True)
class Batch:
    """Token ids (B, T), for each the id that should follow or IGNORED, and how many are not padding.

    `more` is what else an objective needs to know of each row, by name; `figures` is what is known of the
    batch before any model sees it.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    size: int
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The cost of a text: `nats` over `tokens` targets that stand for `nbytes` bytes.

    Of so many `answers`, `right` are those whose every token is the likeliest one: a greedy model says them.
    """

    nats: float
    tokens: int
    nbytes: float
    answers: int = 0
    right: int = 0

    @property
    def loss(self) -> float:
        """Return nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def cost(self) -> float:
        """Return by what models are compared, the smaller the better."""
        return self.loss

    @property
    def figures(self) -> dict[str, float]:
        """Return what else is told of it."""
        return {"exact": self.right / self.answers} if self.answers else {}

    @property
    def bits_per_byte(self) -> float:
        """Return bits per byte: comparable between tokenizers, unlike the loss."""
        return self.nats / math.log(2) / max(1.0, self.nbytes)


def total_loss(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the summed negative log-likelihood, in nats, of the targets that are not IGNORED."""
    return _cost(*scored_logits(model, tokens, targets)[:2])


def scored_logits(model: GPT, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits (N, V), their targets (N,), and the places of these, counted through all rows.

    Where only some targets are scored, as in pairs, the head makes no logits for the others. No places are
    all places; so it is in compiled code, which wants the same shapes every time.
    """
    flat = targets.flatten()
    if not torch.compiler.is_compiling():
        at = (flat != IGNORED).nonzero()[:, 0]
        if 0 < at.numel() < flat.numel():
            return model(tokens, at=at).float(), flat[at], at
    return model(tokens).float().flatten(0, 1), flat, None


def _cost(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def score(
    model: GPT,
    batches: Iterable[Batch],
    *,
    token_bytes: NDArray[np.float64],
    precision: Callable[[], AbstractContextManager[object]],
    interrupted: Callable[[], bool] = lambda: False,
    answers: bool = False,
) -> Score | None:
    """Add up the cost of all batches; `token_bytes[id]` is how many bytes of text an id stands for.

    With `answers`, the targets of each row are one, and those that are right are counted.
    Returns None if `interrupted` says so between two batches.
    """
    nats, tokens, nbytes, rows, right = 0.0, 0, 0.0, 0, 0
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision():
            for batch in batches:
                if interrupted():
                    return None
                ids, targets = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.targets))
                logits, goals, at = scored_logits(model, ids, targets)
                nats += _cost(logits, goals).item()
                learned = batch.targets[batch.targets != IGNORED]
                tokens += learned.size
                nbytes += float(token_bytes[learned].sum())
                if answers:
                    wrong = torch.zeros_like(targets, dtype=torch.bool).flatten()
                    wrong[slice(None) if at is None else at] = (logits.argmax(-1) != goals) & (
                        goals != IGNORED
                    )
                    spoken = (targets != IGNORED).any(1)
                    rows += int(spoken.sum())
                    right += int((spoken & ~wrong.view_as(targets).any(1)).sum())
    finally:
        model.train(was_training)
    return Score(nats, tokens, nbytes, rows, right)
