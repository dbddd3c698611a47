"""What a text costs a model: its negative log-likelihood in nats, and in bits per byte of the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

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

    `more` is what else an objective needs to know of each row, by name.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    size: int
    more: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The cost of a text: `nats` over `tokens` targets that stand for `nbytes` bytes."""

    nats: float
    tokens: int
    nbytes: float

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
        return {}

    @property
    def bits_per_byte(self) -> float:
        """Return bits per byte: comparable between tokenizers, unlike the loss."""
        return self.nats / math.log(2) / max(1.0, self.nbytes)


def total_loss(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the summed negative log-likelihood, in nats, of the targets that are not IGNORED."""
    logits = model(tokens).float()  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def score(
    model: GPT,
    batches: Iterable[Batch],
    *,
    token_bytes: NDArray[np.float64],
    precision: Callable[[], AbstractContextManager[object]],
    interrupted: Callable[[], bool] = lambda: False,
) -> Score | None:
    """Add up the cost of all batches; `token_bytes[id]` is how many bytes of text an id stands for.

    Returns None if `interrupted` says so between two batches.
    """
    nats, tokens, nbytes = 0.0, 0, 0.0
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision():
            for batch in batches:
                if interrupted():
                    return None
                targets = torch.from_numpy(batch.targets)
                loss = total_loss(model, torch.from_numpy(batch.tokens).to(device), targets.to(device))
                nats += loss.item()
                learned = batch.targets[batch.targets != IGNORED]
                tokens += learned.size
                nbytes += float(token_bytes[learned].sum())
    finally:
        model.train(was_training)
    return Score(nats, tokens, nbytes)
