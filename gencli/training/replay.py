"""Is a resumed run the same run? Steps between two checkpoints are made once more, and compared bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gencli.errors import RunStateError
from gencli.model.folder import CONTINUED
from gencli.training import checkpoint
from gencli.training.events import Step
from gencli.training.loop import Length, Run, fit
from gencli.training.run_record import NAME as RECORD
from gencli.training.run_record import read_record

COMPARED = ("loss", "gradient_norm")  # of each step with the log


@dataclass(frozen=True)
class Replay:
    """What came of it: how many steps were made from where, and the first difference, if there is one.

    `tensors` is how many were compared with the later checkpoint, 0 if it was not reached.
    """

    start: int
    steps: int
    tensors: int
    difference: str | None


def interval(training: Path) -> tuple[int, int]:
    """Return the steps of the run's two newest whole checkpoints. Raises RunStateError if there are fewer."""
    run_id = read_record(training).run_id
    whole = [
        s
        for s in checkpoint.steps_in(training)
        if not checkpoint.flaw(checkpoint.folder_of(training, s), run_id)
    ]
    if len(whole) < 2:
        raise RunStateError(
            f"there are {len(whole)} whole checkpoints, and two are needed to run the steps between them again",
            where=str(training),
            hint="train with --save-every to have more of them",
        )
    return whole[-2], whole[-1]


def scratch_copy(training: Path, step: int, scratch: Path) -> None:
    """Make a folder look like the run's at `step`, so that a run can go on from there without touching it."""
    scratch.mkdir(parents=True)
    shutil.copy(training / RECORD, scratch / RECORD)
    folder = checkpoint.folder_of(training, step)
    shutil.copytree(folder, checkpoint.folder_of(scratch, step))
    if (training / CONTINUED).is_dir():  # the base of this run
        (scratch / CONTINUED).symlink_to((training / CONTINUED).resolve())


def replay(run: Run, log: Path, goal: Path, *, steps: int, progress: Callable[[int], None]) -> Replay:
    """Make up to `steps` steps with a run that was resumed, and compare them with the log of the first time.

    `goal` is the folder of the later checkpoint: if it is reached its tensors are compared too. The rates
    are taken from the log, because those of a run in time follow its clock.
    """
    logged = _logged_steps(log)
    start, end = run.state.step, int(goal.name.removeprefix("step-"))
    last = min(end, start + steps)
    quiet = replace(run.habits, save_every=0, evaluations=1, evaluate_every=0, save_seconds=float("inf"))
    run.length, run.habits, run.held_out, run.sample = Length(steps=last), quiet, None, None
    run.publish = lambda state: None
    run.rates = {step - 1: float(str(record["rate"])) for step, record in logged.items()}
    made = 0
    for event in fit(run):
        if not isinstance(event, Step):
            continue
        made += 1
        progress(made)
        difference = _step_difference(event, logged.get(event.step))
        if difference:
            return Replay(start, made, 0, difference)
    if last < end:
        return Replay(start, made, 0, None)
    first = checkpoint.opened(goal)
    again = checkpoint.opened(checkpoint.folder_of(run.folder, last))
    if not isinstance(first, checkpoint.Checkpoint) or not isinstance(again, checkpoint.Checkpoint):
        raise RunStateError(f"a checkpoint can't be read: {first if isinstance(first, str) else again}")
    ours, theirs = ({**c.weights, **c.optimizer} for c in (again, first))
    return Replay(start, made, len(theirs), _tensor_difference(ours, theirs, last))


def _logged_steps(log: Path) -> dict[int, dict[str, object]]:
    """Return the steps of metrics.jsonl by number. Raises RunStateError if it can't be read."""
    try:
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        return {record["step"]: record for record in records if record["event"] == "step"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunStateError(f"the log of the run can't be read: {error}", where=str(log)) from error


def _step_difference(event: Step, record: Mapping[str, object] | None) -> str | None:
    if record is None:
        return f"step {event.step} is not in the log"
    for name in COMPARED:
        ours, first = getattr(event, name), record.get(name)
        if ours != first:
            return f"step {event.step}: {name} was {first!r}, is {ours!r} now"
    return None


def _tensor_difference(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], step: int
) -> str | None:
    """Return the first tensor that is not the same bit for bit."""
    for name, first in theirs.items():
        again = ours.get(name)
        if again is None or again.shape != first.shape or again.dtype != first.dtype:
            return f"step {step}: tensor {name} is missing or of another form"
        if not torch.equal(again, first):
            apart = float((again.double() - first.double()).abs().max())
            return f"step {step}: tensor {name} differs by up to {apart:.3g}"
    return None
