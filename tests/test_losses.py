"""The losses of alignment beside the formulas of their papers, written here in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.alignment.losses import answer_logprobs, group_advantages, group_losses, preference_losses
from gencli.alignment.preferring import PreferenceObjective
from gencli.alignment.rollouts import RewardObjective
from gencli.model.scoring import IGNORED
from tests.conftest import random_model, tiny_shape

B, T = 6, 5
logprob = st.floats(-40, 0, allow_nan=False)


def drawn(seed: int, *size: int, scale: float = 0.5) -> torch.Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@settings(deadline=None, max_examples=60)
@given(st.lists(logprob, min_size=4, max_size=4), st.floats(0, 2), st.floats(0, 0.49))
def test_a_preference_costs_what_the_papers_say(logprobs: list[float], beta: float, smoothing: float) -> None:
    """Rafailov et al. 2023, equation 7; with smoothing Mitchell 2023, equation 3."""
    chosen, rejected, reference_chosen, reference_rejected = logprobs
    margin = beta * (chosen - reference_chosen) - beta * (rejected - reference_rejected)
    expected = -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(sigmoid(-margin))
    loss, found = preference_losses(
        torch.tensor([[chosen, rejected]], dtype=torch.float64),
        torch.tensor([[reference_chosen, reference_rejected]], dtype=torch.float64),
        beta=beta, smoothing=smoothing,
    )  # fmt: skip
    assert found.item() == pytest.approx(margin, abs=1e-12)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_gradient_of_a_preference_is_the_papers() -> None:
    """Rafailov et al. 2023, section 4: -beta sigmoid(-margin) (grad log pi(chosen) - grad log pi(rejected))."""
    policy, reference = drawn(0, B, 2, scale=5).requires_grad_(), drawn(1, B, 2, scale=5)
    losses, margins = preference_losses(policy, reference, beta=0.3, smoothing=0.0)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    weight = 0.3 * torch.sigmoid(-margins.detach())
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.stack([-weight, weight], dim=1))


def paper_group_loss(
    policy: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, rewards: np.ndarray, lengths: list[int], *,
    clip: float, beta: float, by_answer: bool,
) -> float:  # fmt: skip
    """Shao et al. 2024, equations 3 and 4, one token at a time, for one group."""
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    answers = []
    for i, length in enumerate(lengths):
        tokens = []
        for t in range(length):
            ratio = math.exp(policy[i, t] - old[i, t])
            kept = min(max(ratio, 1 - clip), 1 + clip)
            gain = min(ratio * advantages[i], kept * advantages[i])
            away = math.exp(reference[i, t] - policy[i, t])
            tokens.append(gain - beta * (away - math.log(away) - 1))
        answers.append(tokens)
    if by_answer:
        return -float(sum(sum(tokens) / len(tokens) for tokens in answers)) / len(answers)
    return -float(sum(map(sum, answers))) / sum(lengths)


LENGTHS = [5, 1, 3, 4, 2, 5]


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([[t < length for t in range(T)] for length in lengths])


@pytest.mark.parametrize("by_answer", [True, False])
@pytest.mark.parametrize(("clip", "beta"), [(0.2, 0.04), (0.1, 0.0), (0.0, 1.0)])
def test_a_group_costs_what_the_paper_says(clip: float, beta: float, *, by_answer: bool) -> None:
    rewards = np.array([1.0, 0.0, 0.5, 1.0, -2.0, 0.0])
    policy, old, reference = drawn(0, B, T) - 1, drawn(1, B, T) - 1, drawn(2, B, T) - 1
    advantages = group_advantages(torch.from_numpy(rewards).view(1, -1), normalised=True).flatten()
    terms = group_losses(policy, old, reference, advantages, clip=clip, beta=beta)
    learned = mask_of(LENGTHS).double()
    share = learned / learned.sum(1, keepdim=True) / B if by_answer else learned / learned.sum()
    expected = paper_group_loss(
        policy, old, reference, rewards, LENGTHS, clip=clip, beta=beta, by_answer=by_answer
    )
    assert float((terms.loss * share).sum()) == pytest.approx(expected, rel=1e-12)
    assert (terms.divergence >= 0).all() and (clip > 0 or terms.clipped.any())


def test_the_divergence_is_estimated_without_bias() -> None:
    """Over the policy's own distribution the mean of the estimate is KL(policy || reference)."""
    policy, reference = drawn(3, 9, scale=1).log_softmax(0), drawn(4, 9, scale=1).log_softmax(0)
    zeros = torch.zeros(9, dtype=torch.float64)
    found = group_losses(policy[:, None], policy[:, None], reference[:, None], zeros, clip=0.2, beta=1.0)
    exact = (policy.exp() * (policy - reference)).sum()
    assert float((policy.exp() * found.divergence[:, 0]).sum()) == pytest.approx(float(exact), rel=1e-12)


def test_a_groups_advantages() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
    found = group_advantages(rewards, normalised=True)
    spread = math.sqrt(4 * 0.25 / 3)
    assert found[0].tolist() == pytest.approx(
        [0.5 / (spread + 1e-4), *[-0.5 / (spread + 1e-4)] * 2, 0.5 / (spread + 1e-4)]
    )
    assert found[1].tolist() == [0.0] * 4
    assert group_advantages(rewards, normalised=False)[0].tolist() == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_log_probability_of_an_answer_is_that_of_the_whole_distribution(temperature: float) -> None:
    model = random_model(tiny_shape(97))
    tokens = torch.randint(0, 97, (3, 7), generator=torch.Generator().manual_seed(0))
    targets = torch.full_like(tokens, IGNORED)
    targets[0, 2:5], targets[1, 6:] = tokens[0, 2:5], 5
    with torch.no_grad():
        found = answer_logprobs(model, tokens, targets, temperature=temperature)
        logits = model(tokens).double() / temperature
    for row, place in ((0, 2), (0, 3), (0, 4), (1, 6)):
        weights = logits[row, place].exp()
        expected = torch.log(weights[targets[row, place]] / weights.sum())
        assert float(found[row, place]) == pytest.approx(float(expected), abs=1e-5)
    assert int((found != 0).sum()) == 4 and not found[2].any()


def rows(*sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 97, sizes, generator=torch.Generator().manual_seed(1))
    targets = torch.where(torch.arange(sizes[-1]) > 1, tokens, IGNORED)
    return tokens, targets


def test_a_row_without_anything_to_learn_counts_for_nothing() -> None:
    """Where processes share a batch, one with no row left is given such a row."""
    model = random_model(tiny_shape(97))
    tokens, targets = rows(2, 2, 6)
    objective = PreferenceObjective(model, beta=0.1, sft=0.5)
    more = {"reference": torch.zeros(2, 2)}
    whole, _ = objective(tokens, targets, **more)
    halves = [objective(tokens[i : i + 1], targets[i : i + 1], reference=torch.zeros(1, 2)) for i in range(2)]
    assert whole.item() == pytest.approx(sum(loss.item() for loss, _ in halves), rel=1e-5)
    nothing, figures = objective(tokens, torch.full_like(targets, IGNORED), **more)
    assert nothing.item() == 0 and not figures.any()
    reward = RewardObjective(model, clip=0.2, beta=0.1, temperature=1.0, by_answer=True)
    nothing, figures = reward(*rows(2, 6)[:1], torch.full((2, 6), IGNORED), advantages=torch.ones(2))
    assert nothing.item() == 0 and not figures.any()


def test_the_sft_term_is_the_chosen_answers_nats_per_token() -> None:
    model = random_model(tiny_shape(97))
    tokens, targets = rows(3, 2, 6)
    plain, _ = PreferenceObjective(model, beta=0.1)(tokens, targets, reference=torch.zeros(3, 2))
    more, _ = PreferenceObjective(model, beta=0.1, sft=2.0)(tokens, targets, reference=torch.zeros(3, 2))
    chosen = answer_logprobs(model, tokens[:, 0], targets[:, 0])
    assert (more - plain).item() == pytest.approx(-2 * chosen.sum().item() / 4, rel=1e-4)


def test_the_first_update_of_a_round_follows_the_policy_gradient() -> None:
    """At ratio 1 and without the divergence the gradient is that of -A log pi, the mean over tokens, then answers."""
    model = random_model(tiny_shape(97))
    tokens, targets = rows(3, 6)
    advantages = torch.tensor([1.0, -0.5, 0.25])
    objective = RewardObjective(model, clip=0.2, beta=0.0, temperature=1.0, by_answer=True)
    loss, _ = objective(tokens, targets, advantages=advantages)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logprobs = answer_logprobs(model, tokens, targets)
    (-(advantages[:, None] * logprobs).sum() / 4).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)
