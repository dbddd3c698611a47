"""Checkpoints and the loop."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gencli.errors import DivergedError, RunStateError
from gencli.model.gpt import GPT
from gencli.model.scoring import Batch
from gencli.training import checkpoint
from gencli.training.batches import PackedBatches, in_order
from gencli.training.events import Done, Evaluation, Event, Saved, Step, Stopped
from gencli.training.held_out import HeldOut
from gencli.training.loop import Habits, Length, Run, fit
from gencli.training.metrics import ended_in_order, recorded
from gencli.training.objective import Objective
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.runtime import choose_runtime
from tests.conftest import same, tiny_shape
from tests.test_batches import IDS, packed


def make_run(folder: Path, *, steps: int = 10, seed: int = 0, dropout: float = 0.0, **habits: int) -> Run:
    runtime = choose_runtime("cpu", precision="float32", threads=1)
    model = GPT(tiny_shape(97, context=16), dropout=dropout).initialise(torch.Generator().manual_seed(seed))
    windows = list(in_order(IDS, [(2000, 2100)], context=16, rows=8))
    return Run(
        model=model,
        batches=packed(seed=seed),
        optimizer=Optimizer(model, Rates()),
        runtime=runtime,
        length=Length(steps=steps),
        habits=Habits(seed=seed, warmup=3, **habits),
        folder=folder,
        name="tiny",
        publish=lambda state: None,
        held_out=HeldOut(windows, np.ones(97)),
    )


# checkpoints


def saved_run(folder: Path, steps: int = 6, **habits: int) -> Run:
    run = make_run(folder, steps=steps, save_every=2, **habits)
    list(fit(run))
    return run


def test_a_checkpoint_holds_all_and_old_ones_are_pruned(tmp_path: Path) -> None:
    run = saved_run(tmp_path, steps=8)
    assert checkpoint.steps_in(tmp_path) == [6, 8]
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None and not skipped and found.step == 8
    assert same({name: t.numpy() for name, t in found.weights.items()}, run.model.weights())
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    saved_run(tmp_path)
    file = tmp_path / "step-00000006" / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 64
        file.write_bytes(data)
    if (name, damage) == ("MANIFEST.json", "flip") and checkpoint.flaw(file.parent) is None:
        return  # the flipped bit was white space
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 4
    assert len(skipped) == 1 and "step-00000006" in skipped[0]
    assert file.parent.exists()


def test_when_all_are_damaged_nothing_begins_silently(tmp_path: Path) -> None:
    saved_run(tmp_path)
    for file in tmp_path.glob("step-*/state.json"):
        file.write_text("{}")
    with pytest.raises(RunStateError, match="no checkpoint"):
        checkpoint.newest(tmp_path)


def test_junk_beside_checkpoints_counts_for_nothing(tmp_path: Path) -> None:
    saved_run(tmp_path)
    (tmp_path / "step-12.bak").mkdir()
    (tmp_path / "xstep-00000009").mkdir()
    (tmp_path / "step-00000099").symlink_to(tmp_path / "step-00000006")
    assert checkpoint.steps_in(tmp_path) == [4, 6]


# the loop


def events_of(run: Run) -> list[Event]:
    return list(fit(run))


def test_the_loss_falls_and_the_schedule_lands(tmp_path: Path) -> None:
    events = events_of(make_run(tmp_path, steps=40))
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in steps] == list(range(1, 41))
    assert steps[-1].loss < 0.7 * steps[0].loss
    assert steps[0].rate < steps[2].rate == 1.0 and 0 < steps[-1].rate < 0.1
    assert steps[-1].progress == 1.0
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.steps, done.tokens) == (40, 40 * 4 * 16)
    assert math.isclose(done.tokens_per_second, done.tokens / done.seconds)
    best = min(e.val_loss for e in events if isinstance(e, Evaluation) and e.val_loss is not None)
    assert done.val_loss == best and done.val_bits_per_byte == pytest.approx(best / math.log(2))


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_a_run_shorter_than_its_warmup_still_lands(tmp_path: Path, steps: int) -> None:
    run = make_run(tmp_path, steps=steps)
    run.habits = replace(run.habits, warmup=20)
    rates = [event.rate for event in events_of(run) if isinstance(event, Step)]
    assert max(rates) == 1.0
    assert steps < 3 or rates[-1] < 0.5


@pytest.mark.parametrize("stop_after", [1, 5, 9])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, stop_after: int, dropout: float) -> None:
    straight = make_run(tmp_path / "straight", dropout=dropout, evaluate_every=2)
    whole = events_of(straight)
    first = make_run(tmp_path / "parts", dropout=dropout, evaluate_every=2)
    first.stop = lambda: 15 if first.state.step >= stop_after else None
    events = events_of(first)
    assert isinstance(events[-1], Stopped) and isinstance(events[-2], Saved)
    second = make_run(tmp_path / "parts", dropout=dropout, evaluate_every=2)
    found, _ = checkpoint.newest(tmp_path / "parts")
    assert found is not None and found.step == stop_after
    second.resume(found)
    rest = events_of(second)
    assert same(straight.model.weights(), second.model.weights())
    done, again = whole[-1], rest[-1]
    assert isinstance(done, Done) and isinstance(again, Done)
    assert (done.train_loss, done.val_loss, done.tokens) == (again.train_loss, again.val_loss, again.tokens)
    scored = [e.step for e in (*events, *rest) if isinstance(e, Evaluation)]
    assert scored == [e.step for e in whole if isinstance(e, Evaluation)]


def test_rows_at_once_change_memory_not_the_update(tmp_path: Path) -> None:
    whole, parts = make_run(tmp_path / "a", steps=3), make_run(tmp_path / "b", steps=3, rows_at_once=1)
    events_of(whole)
    events_of(parts)
    for name, array in whole.model.weights().items():
        np.testing.assert_allclose(parts.model.weights()[name], array, atol=2e-4)


def test_the_best_weights_are_published_and_no_others(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=12, evaluate_every=2)
    published = []
    run.publish = lambda state: published.append(state.step)
    scored = [e for e in events_of(run) if isinstance(e, Evaluation)]
    assert published == [e.step for e in scored if e.best]
    losses = [e.val_loss for e in scored if e.val_loss is not None]
    assert [e.best for e in scored] == [loss < min([math.inf, *losses[:i]]) for i, loss in enumerate(losses)]


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=8, save_every=2)
    events = fit(run)
    for event in events:
        if isinstance(event, Step) and event.step == 5:
            break
    before = {name: array.copy() for name, array in run.model.weights().items()}
    with torch.no_grad():
        run.model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="step 6"):
        list(events)
    after = run.model.weights()
    after["lm_head.weight"][0, 0] = before["lm_head.weight"][0, 0]
    assert same(before, after)
    assert checkpoint.steps_in(tmp_path) == [2, 4]


def test_a_model_that_is_not_finite_is_neither_saved_nor_published(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=8, save_every=2)
    run.publish = lambda state: pytest.fail("published")
    with torch.no_grad():
        run.model.model.norm.weight[0] = math.nan
    with pytest.raises(DivergedError):
        run.save()
    run.state.evaluation_due = True
    with pytest.raises(DivergedError):
        list(fit(run))
    assert checkpoint.steps_in(tmp_path) == []


def test_time_that_runs_out_between_steps_still_ends_with_an_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    now = [0.0]
    run.length, run.clock = Length(seconds=30.0), lambda: now[0]
    events = []
    for event in fit(run):
        events.append(event)
        if isinstance(event, Step):
            now[0] += 0.2 if event.step < 40 else 60.0  # the clock leaps after the step was counted
    scored = [event.step for event in events if isinstance(event, Evaluation)]
    assert isinstance(events[-1], Done) and scored[-1] == events[-1].steps


def test_a_run_in_time_ends_in_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    now = [0.0]
    run.length, run.clock = Length(seconds=30.0), lambda: now[0]
    rates = []
    for event in fit(run):
        if isinstance(event, Step):
            now[0] += 1.0
            rates.append(event.rate)
    assert 25 <= len(rates) <= 31
    assert rates[-1] < 0.1


@pytest.mark.parametrize(
    ("limits", "expected"), [({"steps": 100}, 0.5), ({"tokens": 500}, 0.2), ({"seconds": 12.0}, 1.0)]
)
def test_the_limit_that_is_nearest_counts(limits: dict[str, float], expected: float) -> None:
    length = Length(**limits)  # type: ignore[arg-type]
    assert length.progress(seconds=10, steps=50, tokens=100, reserve=2.0) == expected
    both = replace(length, steps=60)
    assert both.progress(seconds=10, steps=50, tokens=100, reserve=2.0) == max(expected, 50 / 60)


def test_metrics_have_neither_gap_nor_repetition_after_a_lost_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = make_run(tmp_path / "run", save_every=4, evaluate_every=5)
    for event in recorded(fit(first), path, say=print):
        if isinstance(event, Step) and event.step == 7:
            break  # as if killed: steps 5 to 7 are lost
    second = make_run(tmp_path / "run", save_every=4, evaluate_every=5)
    found, _ = checkpoint.newest(tmp_path / "run")
    assert found is not None and found.step == 4
    second.resume(found)
    list(recorded(fit(second), path, say=print))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 11))
    assert records[-1]["event"] == "done"


def test_a_log_tells_whether_its_run_ended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert ended_in_order(path)
    list(recorded(fit(make_run(tmp_path, steps=4)), path, say=print))
    assert ended_in_order(path)
    whole = path.read_bytes()
    for lost in (1, 20, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-lost])
        assert ended_in_order(path) == (lost == 1)  # the last line end alone is missing


def test_what_a_dead_process_left_in_staging_is_swept(tmp_path: Path) -> None:
    stale = tmp_path / ".tmp-step-00000002-999999999"
    stale.mkdir()
    saved_run(tmp_path)
    assert not stale.exists()
    shutil.rmtree(tmp_path)


# What a step makes smaller


class Shrinking(Objective):
    """The mean square of the logits, weighted by row, and the rows themselves as a figure."""

    figures = ("rows",)

    def forward(
        self, tokens: torch.Tensor, targets: torch.Tensor, **more: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        squares = self.model(tokens).square().mean((1, 2))
        return (squares * more["share"]).sum(), torch.tensor([float(len(tokens))])

    def weight(self, batch: Batch) -> float:
        return float(len(batch.tokens))


class Shared(PackedBatches):
    """Rows that each count for something else, and a tensor to remember."""

    def __init__(self) -> None:
        super().__init__(IDS, [(0, 2000)], context=16, rows=4, seed=0)
        self.asked = torch.zeros(1)

    def batch(self, step: int) -> Batch:
        self.asked.fill_(step)
        return replace(super().batch(step), more={"share": np.arange(4, dtype=np.float32)})

    def state(self) -> dict[str, torch.Tensor]:
        return {"batches.asked": self.asked}


def test_another_objective_trains_in_the_same_loop(tmp_path: Path) -> None:
    made = []
    for place, at_once in (("whole", 0), ("parts", 1)):
        run = make_run(tmp_path / place, steps=6, rows_at_once=at_once)
        run.batches, run.objective = Shared(), Shrinking
        with torch.no_grad():
            run.model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        made.append([event for event in events_of(run) if isinstance(event, Step)])
        assert made[-1][-1].loss < made[-1][0].loss
        assert made[-1][0].record()["rows"] == made[-1][0].figures["rows"] == 1.0
    assert [step.loss for step in made[0]] == pytest.approx([step.loss for step in made[1]], rel=1e-4)
    again = make_run(tmp_path / "whole", steps=6)
    again.batches = Shared()
    saved, _ = checkpoint.newest(tmp_path / "whole")
    assert saved is not None
    again.resume(saved)
    assert again.batches.asked.item() == 5
