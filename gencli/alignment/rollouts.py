"""Groups of answers that the model itself writes, rewarded, as the batches of a run (Shao et al. 2024).

They are a pure function of seed, step and weights. Where several steps learn from the same answers, these and
what the model thought of them when it wrote them are saved with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencli.alignment.losses import answer_logprobs, group_advantages, group_losses
from gencli.alignment.rewards import Reward
from gencli.alignment.writing import Writer, Written
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch
from gencli.text.prompts import Prompt
from gencli.training.batches import Batches
from gencli.training.held_out import Verdict
from gencli.training.objective import Objective
from gencli.training.runtime import Runtime
from gencli.training.shuffle import Shuffle
from gencli.training.world import World

_ROUND, _SIZE, _KEPT = "rollouts.round", "rollouts.size", "rollouts."


@dataclass(frozen=True)
class Task:
    """A prompt, and the ids that a model reads of it."""

    prompt: Prompt
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How answers are drawn and compared: `prompts` a round with `group` answers each, for `updates` steps."""

    prompts: int
    group: int
    updates: int
    temperature: float
    normalised: bool
    seed: int


class Rollouts(Batches):
    """Each round draws answers to the next prompts, rewards them, and serves them for the terms' updates."""

    def __init__(
        self,
        model: GPT,
        reference: GPT | None,
        tasks: Sequence[Task],
        reward: Reward,
        writer: Writer,
        runtime: Runtime,
        terms: Terms,
    ) -> None:
        self.model, self.reference, self.tasks, self.reward = model, reference, tasks, reward
        self.writer, self.runtime, self.terms = writer, runtime, terms
        self._round, self._batch = -1, Batch(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64), 0)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.tasks) // self.terms.prompts) * self.terms.updates

    def batch(self, step: int) -> Batch:
        wanted = step // self.terms.updates
        if wanted != self._round:
            self._batch = self._drawn(wanted)
            self._round = wanted
        return self._batch

    def state(self) -> dict[str, Tensor]:
        """Return the answers of this round, if another step is to learn from them."""
        if self.terms.updates == 1 or self._round < 0:
            return {}
        arrays = {"tokens": self._batch.tokens, "targets": self._batch.targets, **self._batch.more}
        figures = {f"figure.{name}": np.array(value) for name, value in self._batch.figures.items()}
        told = {_ROUND: torch.tensor(self._round), _SIZE: torch.tensor(self._batch.size)}
        return {
            **told,
            **{_KEPT + name: torch.from_numpy(array) for name, array in {**arrays, **figures}.items()},
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._round = -1
        if _ROUND not in tensors:
            return
        kept = {name.removeprefix(_KEPT): t.numpy() for name, t in tensors.items() if name.startswith(_KEPT)}
        self._round = int(kept.pop("round"))
        size, tokens, targets = int(kept.pop("size")), kept.pop("tokens"), kept.pop("targets")
        figures = {
            name.removeprefix("figure."): float(kept.pop(name)) for name in sorted(kept) if "figure." in name
        }
        self._batch = Batch(tokens, targets, size, kept, figures)

    def _drawn(self, number: int) -> Batch:
        """Return the answers of a round."""
        terms, places = self.terms, range(number * self.terms.prompts, (number + 1) * self.terms.prompts)
        chosen = [self._task(place) for place in places]
        seed = int(np.random.SeedSequence([terms.seed, number]).generate_state(1)[0])
        written = self.writer.write(
            [task.ids for task in chosen], copies=terms.group, temperature=terms.temperature, seed=seed
        )
        asked = [task for task in chosen for _ in range(terms.group)]
        rewards = np.array(
            [self.reward(task.prompt, said.text) for task, said in zip(asked, written, strict=True)],
            dtype=np.float64,
        )
        groups = torch.from_numpy(rewards.reshape(-1, terms.group))
        advantages = group_advantages(groups, normalised=terms.normalised).flatten().float().numpy()
        tokens, targets = answers_as_rows([task.ids for task in asked], written, self.writer.padding)
        figures = {
            "reward": float(rewards.mean()),
            "answer_tokens": float(np.mean([len(said.ids) for said in written])),
            "finished": float(np.mean([said.finished for said in written])),
            "telling_groups": float((groups.std(dim=1) > 0).double().mean()),
        }
        size = sum(len(task.ids) + len(said.ids) - 1 for task, said in zip(asked, written, strict=True))
        return Batch(
            tokens, targets, size, {"advantages": advantages, **self._thought(tokens, targets)}, figures
        )

    def _task(self, place: int) -> Task:
        """Return the task at a place of the endless order of tasks, shuffled anew in each epoch."""
        epoch, within = divmod(place, len(self.tasks))
        return self.tasks[Shuffle(len(self.tasks), seed=self.terms.seed, epoch=epoch).at(within)]

    @torch.no_grad()
    def _thought(
        self, tokens: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> dict[str, NDArray[np.float32]]:
        """Return what the start of the run, and the model before its updates, think of each token."""
        models = {"reference": self.reference, "old": self.model if self.terms.updates > 1 else None}
        found = {}
        for name, model in models.items():
            if model is not None:
                model.eval()
                ids = (torch.from_numpy(each).to(self.runtime.device) for each in (tokens, targets))
                with self.runtime.precision():
                    logprobs = answer_logprobs(model, *ids, temperature=self.terms.temperature)
                found[name] = logprobs.float().cpu().numpy()
        return found


def answers_as_rows(
    prompts: Sequence[Sequence[int]], written: Sequence[Written], padding: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return tokens and targets (B, T); only what was written is a target."""
    length = max(len(prompt) + len(said.ids) for prompt, said in zip(prompts, written, strict=True)) - 1
    tokens = np.full((len(prompts), length), padding, dtype=np.int64)
    targets = np.full((len(prompts), length), IGNORED, dtype=np.int64)
    for row, (prompt, said) in enumerate(zip(prompts, written, strict=True)):
        ids = np.array([*prompt, *said.ids], dtype=np.int64)
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(prompt) - 1 : len(ids) - 1] = said.ids
    return tokens, targets


class RewardObjective(Objective):
    """The group-relative objective: a mean over an answer's tokens and then over answers, or over all tokens."""

    figures = ("divergence", "clipped")

    def __init__(self, model: GPT, *, clip: float, beta: float, temperature: float, by_answer: bool) -> None:
        super().__init__(model)
        self.clip, self.beta, self.temperature, self.by_answer = clip, beta, temperature, by_answer

    def forward(self, tokens: Tensor, targets: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
        policy = answer_logprobs(self.model, tokens, targets, temperature=self.temperature)
        # Where each round is for one update, the model that wrote the answers is this one.
        old, reference = more.get("old", policy.detach()), more.get("reference", policy.detach())
        terms = group_losses(policy, old, reference, more["advantages"], clip=self.clip, beta=self.beta)
        learned = (targets != IGNORED).to(policy.dtype)  # (B, T)
        share = learned / learned.sum(1, keepdim=True).clamp(min=1) if self.by_answer else learned
        with torch.no_grad():
            figures = torch.stack([(term * share).sum() for term in (terms.divergence, terms.clipped)])
        return (terms.loss * share).sum(), figures

    def weight(self, batch: Batch) -> float:
        return float(len(batch.tokens)) if self.by_answer else super().weight(batch)


@dataclass(frozen=True)
class MeanReward:
    """What a model's likeliest answers to held-out prompts earn. There is no loss."""

    figures: dict[str, float]
    loss: float | None = None
    bits_per_byte: float | None = None

    @property
    def cost(self) -> float:
        """Return the reward below zero: of two models the one with the larger is better."""
        return -self.figures["val_reward"]


class RewardJudge:
    """Held-out prompts, answered greedily again and again."""

    def __init__(self, tasks: Sequence[Task], reward: Reward, writer: Writer, *, rows: int) -> None:
        self.tasks = sorted(tasks, key=lambda task: len(task.ids))
        self.reward, self.writer, self.rows = reward, writer, rows

    @property
    def tokens(self) -> int:
        """Return about what one verdict costs, in tokens read at once: one written alone costs as much as some."""
        return sum(len(task.ids) + 4 * self.writer.most for task in self.tasks)

    def score(
        self,
        model: GPT,
        runtime: Runtime,
        *,
        world: World | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Verdict | None:
        """Return the mean reward, or None if `interrupted` between two batches."""
        rewards: list[float] = []
        for first in range(0, len(self.tasks), self.rows):
            if interrupted():
                return None
            part = self.tasks[first : first + self.rows]
            written = self.writer.write([task.ids for task in part], copies=1, temperature=0.0, seed=0)
            rewards += [self.reward(task.prompt, said.text) for task, said in zip(part, written, strict=True)]
        return MeanReward({"val_reward": float(np.mean(rewards))})
