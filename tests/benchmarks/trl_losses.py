"""The losses of alignment beside trl's own functions on the same tensors: python -m tests.benchmarks.trl_losses.

Needs trl, in whatever environment this runs in. trl's trainers compute a loss as a method, so each gets a stand-in
for the trainer that gives it the tensors and takes its records.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from gencli.alignment.losses import group_advantages, group_losses, preference_losses

B, T = 6, 5
MOST_APART = 1e-6
LENGTHS = [5, 1, 3, 4, 2, 5]


def drawn(seed: int, *size: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Outputs:
    """What a model returns: the log-probabilities, and zeros for all that only goes into trl's records."""

    aux_loss = None

    def __init__(self, log_probs: torch.Tensor) -> None:
        self.log_probs = log_probs

    def __getattr__(self, name: str) -> torch.Tensor:
        return torch.zeros_like(self.log_probs, dtype=torch.bool if "top1" in name else None)


def stand_in(**known: object) -> MagicMock:
    """Return a trainer that has what is known and takes any record."""
    accelerator = MagicMock(device=torch.device("cpu"), num_processes=1)
    for name in ("gather", "gather_for_metrics", "reduce"):
        setattr(accelerator, name, lambda x, **_: x)
    metrics: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}
    return MagicMock(accelerator=accelerator, _metrics=metrics, aux_loss_enabled=False, **known)


def preferences(trainer: Any, smoothing: float) -> tuple[float, float]:
    """Return our mean loss and trl's.

    trl's plain loss has no smoothing. Its "aot" has: it sorts the margins of policy and reference apart, which
    changes nothing where the reference has none.
    """
    policy, reference = drawn(0, B, 2, scale=4), drawn(1, B, 2, scale=4)
    kind = "aot" if smoothing else "sigmoid"
    if smoothing:
        reference = torch.zeros_like(reference)
    ours = preference_losses(policy, reference, beta=0.1, smoothing=smoothing)[0].mean()
    told = Outputs(torch.cat([policy[:, 0], policy[:, 1]])[:, None])
    stub = stand_in(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=0.1, loss_types=[kind],
        loss_weights=[1.0], label_smoothing=smoothing, use_weighting=False, model=SimpleNamespace(training=True),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(2 * B, 2, dtype=torch.long), "attention_mask": torch.ones(2 * B, 2),
        "completion_mask": torch.tensor([[0, 1]] * (2 * B)),
        "ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1],
    }  # fmt: skip
    return float(ours), float(trainer._compute_loss(stub, lambda **_: told, inputs, return_outputs=False))


def groups(trainer: Any, kind: str) -> tuple[float, float]:
    """Return our loss and trl's: "grpo" is a mean over each answer first, "bnpo" one over all tokens."""
    rewards = torch.tensor([[1.0, 0.0, 0.5], [1.0, -2.0, 0.0]], dtype=torch.float64)
    policy, old, reference = (drawn(seed, B, T, scale=0.5) - 1 for seed in range(3))
    advantages = group_advantages(rewards, normalised=True).flatten()
    mask = torch.tensor([[t < length for t in range(T)] for length in LENGTHS]).double()
    terms = group_losses(policy, old, reference, advantages, clip=0.2, beta=0.04)
    share = mask / mask.sum(1, keepdim=True) / B if kind == "grpo" else mask / mask.sum()
    stub = stand_in(
        model=SimpleNamespace(training=True), beta=0.04, epsilon_low=0.2, epsilon_high=0.2, loss_type=kind,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False), use_vllm=False,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, torch.zeros(B, T), None),
    )  # fmt: skip
    ids = torch.zeros(B, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": ids, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
    }  # fmt: skip
    return float((terms.loss * share).sum()), float(trainer._compute_loss(stub, None, inputs))


def spreads() -> tuple[float, float]:
    """Return the largest advantage by our normalisation and by trl's standard deviation."""
    rewards = torch.tensor([[1.0, 0.0, 0.5], [1.0, -2.0, 0.0]], dtype=torch.float64)
    spread = importlib.import_module("trl.trainer.utils").nanstd(rewards, dim=1)
    theirs = (rewards - rewards.mean(1, keepdim=True)) / (spread.view(-1, 1) + 1e-4)
    return float(group_advantages(rewards, normalised=True).abs().max()), float(theirs.abs().max())


def main() -> None:
    trl = importlib.import_module("trl")
    dpo = importlib.import_module("trl.trainer.dpo_trainer").DPOTrainer
    grpo = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer
    compared = {
        "dpo": preferences(dpo, 0.0), "conservative dpo": preferences(dpo, 0.1),
        "grpo, mean by answer": groups(grpo, "grpo"), "grpo, mean by token": groups(grpo, "bnpo"), "advantage": spreads(),
    }  # fmt: skip
    for name, (ours, theirs) in compared.items():
        apart = abs(ours - theirs)
        figure = {
            "bench": "trl_losses", "loss": name, "gencli": ours, "trl": theirs, "apart": apart,
            "trl_version": trl.__version__, "ok": apart < MOST_APART,
        }  # fmt: skip
        sys.stdout.write(json.dumps(figure) + "\n")


if __name__ == "__main__":
    main()
