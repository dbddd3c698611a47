"""Direct preference optimisation (Rafailov et al. 2023): its batches, its objective and its judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencli.alignment.losses import answer_logprobs, preference_losses
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch
from gencli.text.examples import Example
from gencli.training.batches import Batches, PairBatches, padded
from gencli.training.held_out import Verdict
from gencli.training.objective import Objective
from gencli.training.runtime import Runtime
from gencli.training.world import World

FIGURES = ("margin", "ranked_right", "likelier")


@dataclass(frozen=True)
class Contest:
    """The better and the worse answer after the same prompt, as ids."""

    chosen: Example
    rejected: Example

    @property
    def longer(self) -> Example:
        return max(self.chosen, self.rejected, key=lambda example: len(example.ids))


def contests_as_batch(contests: Sequence[Contest], padding: int) -> Batch:
    """Return contests as one batch of tokens (B, 2, T), the better answer first."""
    flat = padded([side for contest in contests for side in (contest.chosen, contest.rejected)], padding)
    size = (len(contests), 2, -1)
    return Batch(flat.tokens.reshape(size), flat.targets.reshape(size), flat.size)


@torch.no_grad()
def reference_logprobs(
    model: GPT,
    contests: Sequence[Contest],
    runtime: Runtime,
    *,
    rows: int,
    padding: int,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return what the model thinks of all answers, (N, 2), before it learns anything; `check` may end the work."""
    model.eval()
    order = sorted(range(len(contests)), key=lambda number: len(contests[number].longer.ids))
    found = np.zeros((len(contests), 2), dtype=np.float32)
    for first in range(0, len(order), rows):
        check()
        part = order[first : first + rows]
        batch = contests_as_batch([contests[number] for number in part], padding)
        tokens, targets = (torch.from_numpy(ids).to(runtime.device) for ids in (batch.tokens, batch.targets))
        with runtime.precision():
            found[part] = _whole(model, tokens, targets).cpu().numpy()
    return found


def _whole(model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probabilities of whole answers (B, 2)."""
    logprobs = answer_logprobs(model, tokens.flatten(0, 1), targets.flatten(0, 1))
    return logprobs.sum(1).view(-1, 2)


class ContestBatches(Batches):
    """Contests in the order in which pairs come, with what the reference thought of them."""

    def __init__(
        self,
        contests: Sequence[Contest],
        reference: NDArray[np.float32],
        *,
        rows: int,
        seed: int,
        padding: int,
    ) -> None:
        self.contests, self.reference, self.padding = contests, reference, padding
        self._pairs = PairBatches(
            [contest.longer for contest in contests], rows=rows, seed=seed, padding=padding
        )

    @property
    def steps_per_epoch(self) -> int:
        return self._pairs.steps_per_epoch

    def batch(self, step: int) -> Batch:
        numbers = self._pairs.numbers(step)
        batch = contests_as_batch([self.contests[number] for number in numbers], self.padding)
        return replace(batch, more={"reference": self.reference[numbers]})


class PreferenceObjective(Objective):
    """The mean loss of contests, with `sft` times the chosen answers' nats per token beside it."""

    figures = FIGURES

    def __init__(self, model: GPT, *, beta: float, smoothing: float = 0.0, sft: float = 0.0) -> None:
        super().__init__(model)
        self.beta, self.smoothing, self.sft = beta, smoothing, sft

    def forward(self, tokens: Tensor, targets: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        policy = _whole(self.model, tokens, targets)
        learned = (targets != IGNORED).sum(-1)  # (B, 2)
        losses, margins = preference_losses(
            policy, more["reference"], beta=self.beta, smoothing=self.smoothing
        )
        if self.sft:
            losses = losses - self.sft * policy[:, 0] / learned[:, 0].clamp(min=1)
        live = (learned[:, 0] > 0).to(losses.dtype)
        with torch.no_grad():
            right = (margins > 0).float() + 0.5 * (margins == 0)
            likelier = (policy[:, 0] > policy[:, 1]).float()
            figures = (torch.stack([margins, right, likelier]) * live).sum(1)
        return (losses * live).sum(), figures

    def weight(self, batch: Batch) -> float:
        return float(len(batch.tokens))


@dataclass(frozen=True)
class Ranking:
    """How a model ranks held-out contests: the mean loss, and the figures of a step."""

    loss: float
    figures: dict[str, float]
    bits_per_byte: float | None = None

    @property
    def cost(self) -> float:
        """Return the loss: of two models the one with the smaller is better."""
        return self.loss


class RankingJudge:
    """Held-out contests, ranked again and again."""

    def __init__(self, batches: Iterable[Batch], make: Callable[[GPT], Objective]) -> None:
        self.batches, self._make = list(batches), make

    @property
    def tokens(self) -> int:
        """Return how many tokens one verdict reads."""
        return sum(batch.size for batch in self.batches)

    @torch.no_grad()
    def score(
        self,
        model: GPT,
        runtime: Runtime,
        *,
        world: World | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Verdict | None:
        """Return how the model ranks the contests, or None if `interrupted` between two batches."""
        objective, was_training = self._make(model), model.training
        model.eval()
        sums, weight = np.zeros(1 + len(FIGURES)), 0.0
        try:
            for batch in self.batches:
                if interrupted():
                    return None
                arrays = {"tokens": batch.tokens, "targets": batch.targets, **batch.more}
                with runtime.precision():
                    loss, figures = objective(
                        **{name: torch.from_numpy(array).to(runtime.device) for name, array in arrays.items()}
                    )
                sums += [loss.item(), *figures.tolist()]
                weight += objective.weight(batch)
        finally:
            model.train(was_training)
        mean, *means = (sums / weight).tolist()
        return Ranking(mean, {f"val_{name}": value for name, value in zip(FIGURES, means, strict=True)})


def held_out_batches(
    contests: Sequence[Contest], reference: NDArray[np.float32], *, rows: int, padding: int
) -> list[Batch]:
    """Return every contest once, the short ones first."""
    order = sorted(range(len(contests)), key=lambda number: len(contests[number].longer.ids))
    batches = []
    for first in range(0, len(order), rows):
        part = order[first : first + rows]
        batch = contests_as_batch([contests[number] for number in part], padding)
        batches.append(replace(batch, more={"reference": reference[part]}))
    return batches
