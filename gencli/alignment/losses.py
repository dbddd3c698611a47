"""The losses of alignment as functions of log-probabilities, as their papers state them.

Shapes: B answers, T tokens, K answers in a group. What is not learned has the log-probability 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED

SMALLEST_SPREAD = 1e-4  # added to the standard deviation of a group's rewards


def answer_logprobs(model: GPT, tokens: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the log-probability (B, T) of each target after the tokens (B, T), 0 where it is IGNORED.

    The distribution is the one that is drawn from at `temperature`. Only what that needs is computed.
    """
    learned = targets != IGNORED
    logits = model(tokens, at=learned.flatten().nonzero()[:, 0]).float() / temperature  # (N, V)
    found = -F.cross_entropy(logits, targets[learned], reduction="none")
    return found.new_zeros(targets.shape).masked_scatter(learned, found)


def preference_losses(
    policy: Tensor, reference: Tensor, *, beta: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return each pair's loss (B,) and its margin (B,), from whole answers' log-probabilities (B, 2), chosen first.

    margin = beta ((log pi(c) - log ref(c)) - (log pi(r) - log ref(r))), loss = -log sigmoid(margin)
    (Rafailov et al. 2023, equation 7). With `smoothing` the labels are taken to be wrong that often:
    -(1 - s) log sigmoid(margin) - s log sigmoid(-margin) (Mitchell 2023).
    """
    rewards = beta * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    return -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins), margins


def group_advantages(rewards: Tensor, *, normalised: bool) -> Tensor:
    """Return how much better than its group (G, K) each answer is.

    (r - mean) / (std + 1e-4) with the standard deviation of a sample (Shao et al. 2024, section 4.1.2), or
    r - mean alone, which does not weigh easy and hard prompts more (Liu et al. 2025). A group of equal
    rewards teaches nothing.
    """
    above = rewards - rewards.mean(dim=1, keepdim=True)
    return above / (rewards.std(dim=1, keepdim=True) + SMALLEST_SPREAD) if normalised else above


class TokenTerms(NamedTuple):
    """Of each token (B, T): its loss, its estimate of the divergence, and whether its ratio was clipped."""

    loss: Tensor
    divergence: Tensor
    clipped: Tensor


def group_losses(
    policy: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, *, clip: float, beta: float
) -> TokenTerms:
    """Return the terms of the tokens' log-probabilities (B, T) for the answers' advantages (B,).

    ratio = pi / old, loss = -min(ratio A, clip(ratio, 1 - e, 1 + e) A) + beta D (Shao et al. 2024, equation 3),
    D = ref / pi - log(ref / pi) - 1, an unbiased estimate of KL(pi || ref) that is never below 0 (equation 4).
    """
    ratio = (policy - old).exp()
    gain = advantages[:, None]
    kept = ratio.clamp(1 - clip, 1 + clip)
    apart = reference - policy
    divergence = apart.exp() - apart - 1
    loss = -torch.minimum(ratio * gain, kept * gain) + beta * divergence
    return TokenTerms(loss, divergence, kept * gain < ratio * gain)
