"""How a training run looks: a live view on a terminal, one line per evaluation elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gencli.ui import LiveText, Screen, clock_text, curve

if TYPE_CHECKING:
    from gencli.training.events import Event
    from gencli.training.loop import Run

REDRAW_SECONDS = 0.2
SMOOTHED = 0.9  # of the figures that are shown beside the loss
DRAWN = ("reward", "margin")  # the figure with a curve of its own, where a step tells it
SHOWN = (*DRAWN, "ranked_right", "divergence", "answer_tokens")  # the others are for machines


class TrainingView:
    """Follows the events of a run."""

    def __init__(self, screen: Screen, goal: str, run: Run) -> None:
        self.screen, self.goal, self.run = screen, goal, run
        self.step: Any = None
        self.held_out = ""
        self.sample = ""
        self.points: list[tuple[float, float]] = []
        self.figures: dict[str, float] = {}
        self.further: dict[str, list[tuple[float, float]]] = {}
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
            self._take_figures(event)
            if self._live is not None and time.monotonic() - self._drawn > REDRAW_SECONDS:
                self._live.draw(self._lines())
                self._drawn = time.monotonic()
        elif isinstance(event, Evaluation):
            best = " (best)" if event.best else ""
            if event.val_bits_per_byte is not None:
                self.held_out = f"held-out {event.val_bits_per_byte:.3f} bits/byte{_exact(event)}{best}"
            elif event.figures:
                self.held_out = f"held-out {_told(event.figures)}{best}"
            if event.step == 0:
                self._say(f"at the start: {self.held_out}")
            elif self._live is None and self.step is not None:
                self._say(self._summary())
        elif isinstance(event, Sample):
            self.sample = event.prompt + " → " + event.text if event.prompt else event.text
        elif isinstance(event, Done):
            self._done(event)

    def _done(self, event: Any) -> None:
        if self._live is None:
            for line in self._curves():
                self._say(line)
        score = ""
        if event.val_bits_per_byte:
            score = f", {event.val_bits_per_byte:.3f} bits/byte{_exact(event)} on held-out text"
        elif event.figures:
            score = f", held-out {_told(event.figures)}"
        if event.stopped_early:
            self._say(f"stopped early: nothing was better than step {event.best_step:,}")
        self._say(
            f"done: {event.steps:,} steps, {event.tokens:,} tokens in {clock_text(event.seconds)}{score}"
        )

    def _summary(self) -> str:
        step = self.step
        left = step.seconds / step.progress * (1 - step.progress) if step.progress > 0 else 0.0
        return (
            f"step {step.step:,}  {step.progress:4.0%}  loss {step.smooth_loss:.3f}  {self._told()}{self.held_out}  "
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
            f"step {step.step:,}   loss {step.smooth_loss:.3f}   {self._told()}{self.held_out}   "
            f"rate {step.rate:.2f}   {step.tokens_per_second:,.0f} tokens/s"
        )
        sample = ["", self.sample.strip()[:400]] if self.sample else []
        return [f"{bar}  {times}", figures, *self._curves(), *sample]

    def _take_figures(self, step: Any) -> None:
        for name, value in step.figures.items():
            before = self.figures.get(name, value)
            self.figures[name] = SMOOTHED * before + (1 - SMOOTHED) * value
            if name in DRAWN:
                self.further.setdefault(name, []).append((step.progress, value))

    def _told(self) -> str:
        return f"{_told(self.figures)}  " if self.figures else ""

    def _curves(self) -> list[str]:
        """Return the curve of the loss, and under it that of a reward or margin if the run has one."""
        if not self.further:
            return curve(self.points)
        lines = [f"{'loss':>8}", *curve(self.points)]
        for name, points in self.further.items():
            lines += [f"{name:>8}", *curve(points)]
        return lines

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.say(text)
        else:
            self.screen.note(text)


def _exact(event: Any) -> str:
    """Return how often the held-out answers are said word for word, where that was counted."""
    exact = event.figures.get("exact")
    return "" if exact is None else f", {exact:.1%} right"


def _told(figures: Mapping[str, float]) -> str:
    """Return the figures that a reader wants."""
    named = {name.removeprefix("val_"): value for name, value in figures.items()}
    return "  ".join(f"{name.replace('_', ' ')} {named[name]:.3g}" for name in SHOWN if name in named)


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
