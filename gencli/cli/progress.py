"""How a training run looks: a live view on a terminal, one line per evaluation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gencli.ui import LiveText, Screen, clock_text, curve

if TYPE_CHECKING:
    from gencli.training.events import Event
    from gencli.training.loop import Run

REDRAW_SECONDS = 0.2


class TrainingView:
    """Follows the events of a run."""

    def __init__(self, screen: Screen, goal: str, run: Run) -> None:
        self.screen, self.goal, self.run = screen, goal, run
        self.step: Any = None
        self.held_out = ""
        self.sample = ""
        self.points: list[tuple[float, float]] = []
        self._live: LiveText | None = None
        self._drawn = 0.0

    def __enter__(self) -> TrainingView:
        if self.screen.is_terminal:
            self._live = self.screen.live()
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._live is not None:
            if self.step is not None:
                self._live.draw(self._lines())
            self._live.stop()

    def update(self, event: Event) -> None:
        """Take in an event and show it."""
        from gencli.training.events import Done, Evaluation, Sample, Start, Step
        from gencli.training.plan import Plan
        from gencli.training.tuning import Plan as TuningPlan

        if isinstance(event, Start):
            limits = _limits(self.run)
            self._say(f"{self.goal}: {event.parameters:,} parameters, {event.runtime}, {limits}")
        elif isinstance(event, Plan | TuningPlan):
            for line in event.lines():
                self._say(line)
        elif isinstance(event, Step):
            self.step = event
            self.points.append((event.progress, event.smooth_loss))
            if self._live is not None and time.monotonic() - self._drawn > REDRAW_SECONDS:
                self._live.draw(self._lines())
                self._drawn = time.monotonic()
        elif isinstance(event, Evaluation):
            if event.val_bits_per_byte is not None:
                best = " (best)" if event.best else ""
                self.held_out = f"held-out {event.val_bits_per_byte:.3f} bits/byte{_exact(event)}{best}"
            if self._live is None and self.step is not None:
                self._say(self._summary())
        elif isinstance(event, Sample):
            self.sample = event.prompt + " → " + event.text if event.prompt else event.text
        elif isinstance(event, Done):
            self._done(event)

    def _done(self, event: Any) -> None:
        if self._live is None:
            for line in curve(self.points):
                self._say(line)
        score = ""
        if event.val_bits_per_byte:
            score = f", {event.val_bits_per_byte:.3f} bits/byte{_exact(event)} on held-out text"
        if event.stopped_early:
            self._say(f"stopped early: nothing was better than step {event.best_step:,}")
        self._say(
            f"done: {event.steps:,} steps, {event.tokens:,} tokens in {clock_text(event.seconds)}{score}"
        )

    def _summary(self) -> str:
        step = self.step
        left = step.seconds / step.progress * (1 - step.progress) if step.progress > 0 else 0.0
        return (
            f"step {step.step:,}  {step.progress:4.0%}  loss {step.smooth_loss:.3f}  {self.held_out}  "
            f"rate {step.rate:.2f}  {step.tokens_per_second:,.0f} tokens/s  "
            f"{clock_text(step.seconds)} gone, {clock_text(left)} left"
        )

    def _lines(self) -> list[str]:
        """Return the live view: a bar, the figures, the curve of the loss, the last sample."""
        step = self.step
        filled = int(step.progress * 50)
        left = step.seconds / step.progress * (1 - step.progress) if step.progress > 0 else 0.0
        bar = f"{'━' * filled}{'╌' * (50 - filled)} {step.progress:4.0%}"
        times = f"{clock_text(step.seconds)} gone, {clock_text(left)} left"
        figures = (
            f"step {step.step:,}   loss {step.smooth_loss:.3f}   {self.held_out}   "
            f"rate {step.rate:.2f}   {step.tokens_per_second:,.0f} tokens/s"
        )
        sample = ["", self.sample.strip()[:400]] if self.sample else []
        return [f"{bar}  {times}", figures, *curve(self.points), *sample]

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.say(text)
        else:
            self.screen.note(text)


def _exact(event: Any) -> str:
    """Return how often the held-out answers are said word for word, where that was counted."""
    exact = event.figures.get("exact")
    return "" if exact is None else f", {exact:.1%} right"


def _limits(run: Run) -> str:
    length = run.length
    parts = []
    if length.seconds:
        parts.append(clock_text(length.seconds))
    if length.steps:
        parts.append(f"{length.steps:,} steps")
    if length.tokens:
        parts.append(f"{length.tokens:,} tokens")
    return "for " + " or ".join(parts)
