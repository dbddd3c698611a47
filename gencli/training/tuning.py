"""What a fine-tuning should be: all that a user leaves open is chosen from the pairs, the task and the base.

The figures come from trials on labelled texts, questions and translations in Korean and English, with bases
that a laptop pretrains in ten minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gencli.model.task import Task
from gencli.settings.training import FinetuneSettings
from gencli.text.survey import Survey
from gencli.training.events import Event

ADAPTER_RATE = 0.004  # AdamW's, of the two thin matrices of an update of low rank
AVERAGED = 1 / 20  # of a run's updates, over which the weights are averaged, and at most
MOST_AVERAGED = 100  # updates


@dataclass(frozen=True)
class Choice:
    """What is best for up to so many pairs."""

    pairs: float
    epochs: float
    rows: int
    learning_rate: float = 0.004
    dropout: float = 0.0
    prompt_mix: float = 0.0
    prompt_splits: float = 0.0


LABELS = (
    Choice(300, 12.0, 8, dropout=0.1),
    Choice(1500, 8.0, 16, dropout=0.1),
    Choice(12_000, 16.0, 64, 0.006, 0.2, 0.5, 0.1),
    Choice(30_000, 5.0, 64, 0.004, 0.2, 0.5, 0.5),
    Choice(float("inf"), 3.0, 64, 0.004, 0.1, 0.5, 0.5),
)
ANSWERS = (
    Choice(300, 8.0, 8),
    Choice(1500, 6.0, 16),
    Choice(30_000, 4.0, 32),
    Choice(float("inf"), 2.0, 64),
)


@dataclass(frozen=True, kw_only=True)
class Plan(Event):
    """What a fine-tuning is going to be, and what its pairs are like."""

    task: str
    labels: dict[str, int]
    train: int
    held_out: int
    repeated: int
    contradictions: int
    shared_prompts: int
    alike_prompts: int
    prompts_cut: int
    answers_cut: int
    epochs: float | None
    rows: int
    learning_rate: float
    dropout: float
    weight_decay: float
    label_smoothing: float
    prompt_dropout: float
    prompt_splits: float
    prompt_mix: float
    averaging: float
    lora: int
    steps_per_epoch: int

    def lines(self) -> list[str]:
        """Return the plan for reading."""
        length = f"{self.epochs:g} epochs of " if self.epochs else ""
        how = [f"learning rate {self.learning_rate:g}", f"dropout {self.dropout:g}"]
        if self.weight_decay:
            how.append(f"weight decay {self.weight_decay:g}")
        if self.prompt_dropout:
            how.append(f"prompt dropout {self.prompt_dropout:g}")
        if self.prompt_splits:
            how.append(f"prompt splits {self.prompt_splits:g}")
        if self.prompt_mix:
            how.append(f"prompt mix {self.prompt_mix:g}")
        if self.label_smoothing:
            how.append(f"label smoothing {self.label_smoothing:g}")
        if self.averaging:
            how.append(f"averaging {self.averaging:g}")
        what = f"updates of rank {self.lora}" if self.lora else "all weights"
        return [
            f"plan: {length}{self.steps_per_epoch:,} steps of {self.rows} pairs, {what}, {', '.join(how)}",
            f"      {self.train:,} pairs to learn from, {self.held_out:,} held out to judge by",
        ]


def planned(settings: FinetuneSettings, task: Task, pairs: int) -> FinetuneSettings:
    """Return the settings with all that was left open filled in, for so many pairs to learn from.

    A resumed run has everything filled in already.
    """
    choice = next(choice for choice in (LABELS if task.has_labels else ANSWERS) if pairs <= choice.pairs)
    open_ended = not any((settings.epochs, settings.steps, settings.tokens))
    epochs = choice.epochs if open_ended else settings.epochs
    rows = settings.batch_size or min(choice.rows, max(1, pairs // 4))
    updates = settings.steps or pairs / rows * (epochs or choice.epochs)
    filled: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": rows,
        "learning_rate": ADAPTER_RATE if settings.lora else choice.learning_rate,
        "weight_decay": 0.0,
        "dropout": choice.dropout,
        "label_smoothing": 0.0,
        "prompt_dropout": 0.0,
        "prompt_splits": choice.prompt_splits,
        "prompt_mix": choice.prompt_mix,
        "averaging": _averaging(updates) if task.has_labels else 0.0,
    }
    return replace(
        settings, **{name: value for name, value in filled.items() if getattr(settings, name) is None}
    )


def _averaging(updates: float) -> float:
    """Return how much of the running mean stays at each of so many updates; 0 where they are too few."""
    return round(max(0.0, 1 - 1 / max(1.0, min(MOST_AVERAGED, updates * AVERAGED))), 3)


def plan_of(
    settings: FinetuneSettings, task: Task, found: Survey, cut: tuple[int, int], steps_per_epoch: int
) -> Plan:
    """Return what is told of planned settings before the first step; `cut` counts prompts and answers."""
    assert settings.batch_size is not None and settings.learning_rate is not None
    return Plan(
        task=task.kind,
        labels=found.labels,
        train=found.train,
        held_out=found.held_out,
        repeated=found.repeated,
        contradictions=found.contradictions,
        shared_prompts=found.shared,
        alike_prompts=found.alike,
        prompts_cut=cut[0],
        answers_cut=cut[1],
        epochs=settings.epochs,
        rows=settings.batch_size,
        learning_rate=settings.learning_rate,
        dropout=settings.dropout or 0.0,
        weight_decay=settings.weight_decay or 0.0,
        label_smoothing=settings.label_smoothing or 0.0,
        prompt_dropout=settings.prompt_dropout or 0.0,
        prompt_splits=settings.prompt_splits or 0.0,
        prompt_mix=settings.prompt_mix or 0.0,
        averaging=settings.averaging or 0.0,
        lora=settings.lora,
        steps_per_epoch=steps_per_epoch,
    )
