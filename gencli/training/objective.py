"""What a training step makes smaller."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch, scored_logits, total_loss


class Objective(nn.Module):
    """The cost of a batch's targets, in nats. Another objective is a class that derives from this one.

    It is a module, so that what wraps it sees the whole backward pass. `figures` names what is told of a
    step beside its loss.
    """

    figures: tuple[str, ...] = ()

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss summed over rows of a batch, and the sums of the figures (F,), without a gradient.

        `more` is what else the batch says of these rows.
        """
        loss = total_loss(self.model, tokens, targets)
        return loss, loss.new_zeros(0)

    def weight(self, batch: Batch) -> float:
        """Return what the sums over the whole batch are divided by."""
        return float(np.count_nonzero(batch.targets != IGNORED))


class SoftTargets(Objective):
    """The cost of targets that share their place with others: `ids` (B, T, A) and the `shares` (B, T, A) of each."""

    def forward(self, tokens: Tensor, targets: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        logits, goals, at = scored_logits(self.model, tokens, targets)
        ids, shares = (more[name].flatten(0, 1) for name in ("ids", "shares"))
        if at is not None:
            ids, shares = ids[at], shares[at]
        shares = shares * (goals != IGNORED).unsqueeze(1)
        loss = -(shares * F.log_softmax(logits, dim=-1).gather(1, ids)).sum()
        return loss, loss.new_zeros(0)
