"""What a training run tells: each event is one line of metrics.jsonl and of `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Event:
    """Something that happened; `record` is its form for machines."""

    def record(self) -> dict[str, object]:
        """Return the event as one JSON object whose first key names it."""
        told = asdict(self)
        figures = told.pop("figures", {})
        return {"event": type(self).__name__.lower(), **told, **figures}


@dataclass(frozen=True)
class Start(Event):
    """The run begins, or goes on from `step`."""

    step: int
    parameters: int
    steps_per_epoch: int
    tokens_per_step: int
    runtime: str


@dataclass(frozen=True)
class Step(Event):
    """One update of the weights. `loss` is what its objective says of this step's batch, before the update.

    That is nats per token, unless it says otherwise; `figures` is what it tells beside it, by name.
    """

    step: int
    progress: float
    loss: float
    smooth_loss: float
    rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation(Event):
    """The held-out text was scored; `best` tells whether these are the weights that were published."""

    step: int
    val_loss: float | None
    val_bits_per_byte: float | None
    best: bool
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample(Event):
    """What the model writes at this point of the run."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint stands on the disk, whole and verified."""

    step: int
    path: str


@dataclass(frozen=True)
class Stopped(Event):
    """A signal ended the run early; it was saved first and can be resumed."""

    step: int
    signal: int


@dataclass(frozen=True)
class Done(Event):
    """The run reached its length, or stopped early. The validation figures are those of the published weights."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    train_loss: float
    val_loss: float | None
    val_bits_per_byte: float | None
    parameters: int
    model: str
    figures: Mapping[str, float] = field(default_factory=dict)
    best_step: int = -1
    stopped_early: bool = False
