"""The one training loop: a generator of events, the same for pretraining and fine-tuning.

The library computes, the command renders: nothing here prints, reads a signal or knows a screen.

Several processes run it side by side. Whatever decides what comes next is agreed on, so that all take the
same turns; the first process alone writes.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gencli.errors import DivergedError, InputError, RunStateError
from gencli.model.gpt import GPT
from gencli.model.lora import learned
from gencli.storage import sweep_staging
from gencli.training import checkpoint
from gencli.training.batches import Batches
from gencli.training.events import Done, Evaluation, Event, Sample, Saved, Start, Step, Stopped
from gencli.training.gradients import Gradients
from gencli.training.held_out import Judge
from gencli.training.objective import Objective
from gencli.training.optimizer import Optimizer, rate_multiplier
from gencli.training.runtime import Runtime, undisturbed
from gencli.training.sharding import load_weights, whole
from gencli.training.world import World

SMOOTHING = 0.95  # of the training loss that is shown
EVALUATION_SHARE = 0.1  # of a run's work that evaluations before the last may take
FORWARD_SHARE = 1 / 3  # of a training step's work that a forward pass is


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run lasts: the first limit that is reached ends it. None or 0 is no limit."""

    seconds: float | None = None
    steps: int | None = None
    tokens: int | None = None

    def progress(self, *, seconds: float, steps: int, tokens: int, reserve: float = 0.0) -> float:
        """Return the share of the run that is done; 1 or more ends it.

        `reserve` seconds of a limit in time are left for what comes after the last step.
        """
        shares = [0.0]
        if self.seconds:
            shares.append(seconds / max(self.seconds - reserve, 1e-9))
        if self.steps:
            shares.append(steps / self.steps)
        if self.tokens:
            shares.append(tokens / self.tokens)
        return max(shares)


@dataclass(frozen=True, kw_only=True)
class Habits:
    """When a run warms up, decays, clips, evaluates and saves."""

    seed: int = 0
    warmup: int = 20
    decay: float = 0.6
    clip: float = 1.0
    rows_at_once: int = 0  # rows per forward pass; 0: the whole batch
    evaluations: int = 10  # at most, spread evenly over the run, the last one at its end
    evaluate_every: int = 0  # or every so many steps
    save_every: int = 0  # steps; 0: with each evaluation
    save_seconds: float = 600.0  # and at least this often
    patience: int = 0  # evaluations without a better one that end the run; 0: never


@dataclass
class RunState:
    """What a run must remember besides tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    smooth_loss: float = 0.0
    evaluation_due: bool = False
    evaluations: int = 0
    judged_step: int = -1
    best_step: int = -1
    worse: int = 0  # evaluations since the best
    best_loss: float | None = None
    best_bits_per_byte: float | None = None
    best_cost: float | None = None
    best_figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """One training run: its parts, and the callables through which it reaches the world.

    `publish` makes the current weights the model's, `sample` writes some text as (prompt, text), `stop`
    returns the number of a signal that asks the run to end, `save_asked` tells whether somebody wants a
    checkpoint now, `clock` the seconds that the run has lasted, start-up included. Every process calls `publish`.
    """

    model: GPT
    batches: Batches
    optimizer: Optimizer
    runtime: Runtime
    length: Length
    habits: Habits
    folder: Path
    name: str
    publish: Callable[[RunState], None]
    run_id: str = ""
    held_out: Judge | None = None
    objective: Callable[[GPT], Objective] = Objective
    sample: Callable[[], tuple[str, str]] | None = None
    stop: Callable[[], int | None] = lambda: None
    save_asked: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    begin: Callable[[], None] = lambda: None  # called once, before the first step
    fixed: dict[str, object] = field(default_factory=dict)  # saved with each checkpoint
    state: RunState = field(default_factory=RunState)
    world: World = field(default_factory=World)
    plan: Event | None = None  # told first
    rates: Mapping[int, float] = field(default_factory=dict)  # instead of the schedule's, by step
    now: float = 0.0  # what the first process's clock said when the processes last agreed

    @property
    def is_out_of_patience(self) -> bool:
        """Tell whether so many evaluations were no better that the run ends early."""
        return 0 < self.habits.patience <= self.state.worse

    def agree(self, *figures: float) -> tuple[int | None, tuple[float, ...]]:
        """Return a signal that came to any process and the first process's figures, and set `now`."""
        signal, (self.now, *rest) = self.world.agree(self.stop(), self.clock(), *figures)
        return signal, tuple(rest)

    def resume(self, saved: checkpoint.Checkpoint) -> None:
        """Take up a run where its checkpoint left it."""
        try:
            load_weights(self.model, saved.weights)
        except RuntimeError as error:
            raise RunStateError(
                "the checkpoint is of a model of another shape", where=str(self.folder)
            ) from error
        self.optimizer.load_state(saved.optimizer)
        self.batches.load_state(saved.optimizer)
        known = RunState.__dataclass_fields__
        run = saved.state["run"]
        assert isinstance(run, dict)
        self.state = RunState(**{key: value for key, value in run.items() if key in known})
        if self.state.best_cost is None:
            self.state.best_cost = self.state.best_loss

    def save(self) -> Saved:
        """Write a checkpoint of this moment. Every process must call it, and the first one writes."""
        leads = self.world.leads
        weights = whole(learned(self.model), keep=leads)
        optimizer = {**whole(self.optimizer.state(), keep=leads), **self.batches.state()}
        if leads:
            self.state.seconds = self.clock()
            _check_finite(self, *(float(t.detach().sum()) for t in (*weights.values(), *optimizer.values())))
            checkpoint.save(
                self.folder,
                self.state.step,
                run_id=self.run_id,
                weights=weights,
                optimizer=optimizer,
                state={"run": asdict(self.state), **self.fixed},
            )
        return Saved(self.state.step, str(checkpoint.folder_of(self.folder, self.state.step)))


def fit(run: Run) -> Iterator[Event]:
    """Train until the run's length is reached or a signal comes; yield what happens.

    Raises DivergedError before an update that would not be finite; the newest checkpoint stays.
    """
    with undisturbed():
        try:
            yield from _fit(run)
        except InputError as error:  # what was given for judging or learning failed; what was learned did not
            if run.state.step and run.world.size == 1:
                run.save()
                error.kept = (
                    error.kept or f"the checkpoint of step {run.state.step:,}; --resume goes on from there"
                )
            raise


def _fit(run: Run) -> Iterator[Event]:
    state, habits = run.state, run.habits
    run.agree()  # every process has read what it resumes from before the first one writes
    if run.world.leads:
        run.begin()
        sweep_staging(run.folder)
    gradients = Gradients(
        run.model, run.runtime, run.world, seed=habits.seed, rows_at_once=habits.rows_at_once,
        example=run.batches.batch(state.step), objective=run.objective,
    )  # fmt: skip
    run.runtime = gradients.runtime
    yield _start(run)
    if run.plan is not None:
        yield run.plan
    reserve, evaluating, last_save = 1.0, 0.0, time.monotonic()
    while True:
        signal, (unsaved,) = run.agree(math.inf if run.save_asked() else time.monotonic() - last_save)
        if signal is not None:
            yield run.save()
            yield Stopped(state.step, signal)
            return
        save = False
        if state.evaluation_due:
            event = _evaluated(run)
            if event is None:
                continue  # a signal came: it is seen at the top, and the evaluation stays due
            state.evaluation_due = False
            state.evaluations += 1
            save = not habits.save_every
            evaluating += event.seconds
            reserve = 0.3 + 1.2 * event.seconds
            yield event
            if run.sample is not None:
                yield Sample(state.step, *run.sample())
            gc.collect()
            run.agree()
        progress = _progress(run, reserve)
        ended = (progress >= 1.0 or run.is_out_of_patience) and state.step > 0
        if ended and state.judged_step != state.step:
            state.evaluation_due = True  # time ran out between two steps
            continue
        save |= bool(habits.save_every) and state.step % habits.save_every == 0 and state.step > 0
        if ended or save or unsaved >= habits.save_seconds:
            yield run.save()
            last_save = time.monotonic()
        if ended:
            break
        step = _update(run, gradients, progress)
        if not evaluating:
            reserve = 0.5 + _guessed_evaluation(run, step)
        after = _progress(run, reserve)
        step = replace(step, progress=min(1.0, after))
        state.evaluation_due = after >= 1.0 or _is_evaluation_due(run, progress, after)
        yield step
    yield _done(run)


def _start(run: Run) -> Start:
    first = run.batches.batch(run.state.step)
    return Start(
        run.state.step,
        run.model.shape.parameters,
        run.batches.steps_per_epoch,
        first.size,
        run.runtime.describe(),
    )


def _progress(run: Run, reserve: float) -> float:
    state = run.state
    return run.length.progress(seconds=run.now, steps=state.step, tokens=state.tokens, reserve=reserve)


def _guessed_evaluation(run: Run, step: Step) -> float:
    """Return about how long scoring takes before it was ever done: a forward pass is a third of a step."""
    held_out = run.held_out.tokens if run.held_out is not None else 0
    return FORWARD_SHARE * held_out / step.tokens_per_second


def _is_evaluation_due(run: Run, before: float, after: float) -> bool:
    """Tell whether the run crossed a mark for an evaluation, and has done enough work to afford it."""
    habits, state = run.habits, run.state
    if habits.evaluate_every:
        return state.step % habits.evaluate_every == 0
    cost = FORWARD_SHARE * (run.held_out.tokens if run.held_out is not None else 0)
    affordable = (state.evaluations + 1) * cost <= EVALUATION_SHARE * state.tokens
    return affordable and math.floor(after * habits.evaluations) > math.floor(before * habits.evaluations)


def _update(run: Run, gradients: Gradients, progress: float) -> Step:
    """Make one step of the optimizer on the batch of this step."""
    state, habits, began = run.state, run.habits, time.monotonic()
    batch = run.batches.batch(state.step)
    loss, figures = gradients.backward(batch, state.step)
    norm = run.optimizer.clip(habits.clip)
    _check_finite(run, loss, norm)
    steps = run.length.steps
    warmup = min(habits.warmup, max(1, steps // 5)) if steps else habits.warmup  # a short run must still land
    planned = rate_multiplier(state.step, progress, warmup=warmup, decay=habits.decay)
    rate = run.rates.get(state.step, planned)
    run.optimizer.step(rate)
    weight = max(1 - SMOOTHING, 1 / (state.step + 1))  # a plain mean until there are enough steps
    state.smooth_loss += weight * (loss - state.smooth_loss)
    state.step += 1
    state.tokens += batch.size
    _, (elapsed,) = run.agree(time.monotonic() - began)
    return Step(
        state.step, min(1.0, progress), loss, state.smooth_loss, rate, norm, state.tokens, run.now,
        batch.size / elapsed, {**batch.figures, **figures},
    )  # fmt: skip


def _check_finite(run: Run, *figures: float) -> None:
    """Raise DivergedError unless the figures of this step, losses or norms, are finite."""
    if not all(map(math.isfinite, figures)):
        raise DivergedError(
            f"the loss or its gradient is not finite at step {run.state.step + 1}",
            where=f"{run.name}, the newest loss before was {run.state.smooth_loss:.4g}",
            kept="nothing was made of it; the newest checkpoint and the best weights stand",
            hint="begin again with a lower --learning-rate, or look at the text around that point",
        )


def _evaluated(run: Run) -> Evaluation | None:
    """Judge the running mean of the weights, if there is one; None if interrupted."""
    with run.optimizer.averaged():
        return _judged(run)


def _judged(run: Run) -> Evaluation | None:
    """Score the held-out text and publish the weights if they are the best yet; None if interrupted."""
    began = time.monotonic()
    state = run.state
    result = None
    if run.held_out is not None:
        result = run.held_out.score(
            run.model, run.runtime, world=run.world, interrupted=lambda: run.agree()[0] is not None
        )
        if result is None:
            return None
        _check_finite(run, result.cost)
    state.judged_step = state.step
    best = result is None or state.best_cost is None or result.cost < state.best_cost
    state.worse = 0 if best else state.worse + 1
    if best:
        state.best_step = state.step
        if result is not None:
            state.best_cost, state.best_figures = result.cost, dict(result.figures)
            state.best_loss, state.best_bits_per_byte = result.loss, result.bits_per_byte
        state.seconds = run.now
        run.publish(state)
    _, (elapsed,) = run.agree(time.monotonic() - began)
    if result is None:
        return Evaluation(state.step, None, None, best, elapsed)
    return Evaluation(state.step, result.loss, result.bits_per_byte, best, elapsed, result.figures)


def _done(run: Run) -> Done:
    state = run.state
    seconds = run.clock()
    return Done(
        steps=state.step,
        tokens=state.tokens,
        seconds=seconds,
        tokens_per_second=state.tokens / max(seconds, 1e-9),
        train_loss=state.smooth_loss,
        val_loss=state.best_loss,
        val_bits_per_byte=state.best_bits_per_byte,
        parameters=run.model.shape.parameters,
        model=run.name,
        figures=state.best_figures,
        best_step=state.best_step,
        stopped_early=run.is_out_of_patience,
    )
