"""What is chosen for a run, and that `--dry-run` says it and leaves nothing behind."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import UsageError
from gencli.model.shape import PRESETS, preset
from gencli.settings.training import PretrainSettings
from gencli.text.tokenizer_training import Pieces, suggested_vocabulary
from gencli.training import memory
from gencli.training import plan as module
from gencli.training.memory import fitting_rows, memory_of
from gencli.training.plan import (
    CHOICES,
    REGULARISED,
    Plan,
    choice_for,
    measured_pace,
    pieces_for,
    planned,
)
from gencli.training.runtime import Runtime
from tests.conftest import Cli, tiny_text

RUNTIME = Runtime(torch.device("cpu"), torch.float32, 1)
SETTINGS = PretrainSettings(model=Path("m"))


@pytest.fixture(autouse=True)
def known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model train at the pace of the reference machine."""
    set_pace(monkeypatch, module.REFERENCE_PACE)


def set_pace(monkeypatch: pytest.MonkeyPatch, tokens_per_second: float) -> None:
    monkeypatch.setattr(module, "measured_pace", lambda *_, **__: tokens_per_second)
    module.reference_speed.cache_clear()


def plan_for(
    given: PretrainSettings = SETTINGS, seconds: float | None = None, tokens: int = 1 << 20
) -> tuple[PretrainSettings, Plan]:
    return planned(given, RUNTIME, vocabulary=1000, train_tokens=tokens, seconds=seconds, trigram=2.0)


def test_more_time_makes_a_larger_model_and_larger_steps() -> None:
    plans = [plan_for(seconds=seconds, tokens=1 << 30)[1] for seconds in (20, 200, 2000, 20_000)]
    sizes = [plan.parameters for plan in plans]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    steps = [plan.rows * plan.context for plan in plans]
    assert steps == sorted(steps) and steps[0] < steps[-1]


def test_a_slow_machine_plans_like_a_fast_one_with_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = plan_for(seconds=200)[1]
    set_pace(monkeypatch, module.REFERENCE_PACE / 4)
    slow = plan_for(seconds=200)[1]
    assert slow.parameters < fast.parameters
    assert slow.parameters == preset(CHOICES[0].size, 1000).parameters


def test_what_the_user_gives_is_kept() -> None:
    given = replace(
        SETTINGS, size="nano", context=32, batch_size=3, learning_rate=0.5, dropout=0.25, weight_decay=0.3,
        rows_at_once=2, layers=5,
    )  # fmt: skip
    chosen, plan = plan_for(given, seconds=100)
    for name in (
        "size",
        "context",
        "batch_size",
        "learning_rate",
        "dropout",
        "weight_decay",
        "rows_at_once",
        "layers",
    ):
        assert getattr(chosen, name) == getattr(given, name), name
    assert (plan.layers, plan.context, plan.rows, plan.dropout) == (5, 32, 3, 0.25)


def test_without_a_limit_in_time_the_speed_of_the_machine_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = replace(SETTINGS, steps=500)
    here, _ = plan_for(given)
    set_pace(monkeypatch, 10.0)
    assert plan_for(given)[0] == here


@given(seconds=st.floats(1, 1e7), tokens=st.integers(64, 1 << 34))
@settings(deadline=None, max_examples=60)
def test_a_plan_is_always_a_model_with_its_steps(seconds: float, tokens: int) -> None:
    chosen, plan = plan_for(seconds=seconds, tokens=tokens)
    assert plan.steps >= 1 and chosen.batch_size is not None and chosen.batch_size >= 1
    assert chosen.context is not None and 16 <= chosen.context <= max(16, tokens // 16)
    assert plan.epochs == pytest.approx(plan.steps * plan.rows * plan.context / tokens)
    assert plan.memory_bytes > 16 * plan.parameters
    low, high = plan.bits_per_byte or (0, 1)
    assert 0 <= low < high


@pytest.mark.parametrize(
    ("limit", "steps"),
    [({"steps": 7}, 7), ({"tokens": 10_000}, 10), ({"epochs": 2.0}, 40), ({"steps": 5, "epochs": 2.0}, 5)],
)
def test_the_first_limit_counts(limit: dict[str, int], steps: int) -> None:
    given = replace(SETTINGS, size="nano", context=128, batch_size=8, **limit)  # type: ignore[arg-type]
    assert plan_for(given, tokens=20 * 1024)[1].steps == steps


def test_a_text_seen_often_is_not_to_be_learned_by_heart() -> None:
    once, often = (
        plan_for(replace(SETTINGS, size="nano", context=128, batch_size=8, epochs=epochs))[0]
        for epochs in (0.5, 200.0)
    )
    assert once.dropout == REGULARISED[0].dropout
    assert often.dropout == REGULARISED[-1].dropout > 0
    assert often.weight_decay == REGULARISED[-1].weight_decay


def test_too_many_epochs_are_told() -> None:
    few, many = (
        plan_for(replace(SETTINGS, size="nano", epochs=epochs))[1].lines() for epochs in (2.0, 500.0)
    )
    assert any("more text" in line for line in many) and not any("more text" in line for line in few)


def test_numbers_that_make_no_model_are_the_users_error() -> None:
    with pytest.raises(UsageError, match="heads"):
        plan_for(replace(SETTINGS, width=100, heads=7))


def test_rows_that_do_not_fit_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = replace(preset("base", 1000), context=1024)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1.5 * memory_of(shape, 4, RUNTIME))
    rows = fitting_rows(shape, RUNTIME)
    assert 1 <= rows < 64 and memory_of(shape, rows, RUNTIME) <= 0.75 * 1.5 * memory_of(shape, 4, RUNTIME)
    chosen, plan = plan_for(replace(SETTINGS, size="base", context=1024, batch_size=64), seconds=100)
    assert chosen.batch_size == 64 and chosen.rows_at_once == plan.rows_at_once == rows


def test_choices_cover_any_time() -> None:
    assert [choice.seconds for choice in CHOICES] == sorted(choice.seconds for choice in CHOICES)
    assert choice_for(1e12) == CHOICES[-1] and CHOICES[-1].seconds == math.inf
    assert {choice.size for choice in CHOICES} <= set(PRESETS)


def test_the_pace_is_that_of_whole_steps() -> None:
    pace = measured_pace(preset("nano", 400), RUNTIME, rows=2, seconds=0.1)
    assert 10 < pace < 1e7


def test_pieces_are_the_finer_the_more_often_a_text_is_read() -> None:
    found = [pieces_for(seconds, 1_000_000, RUNTIME).fineness for seconds in (10, 60, 10_000)]
    assert found == sorted(found) and found[0] < found[-1]
    assert pieces_for(10_000, 1_000_000_000, RUNTIME).fineness == found[0]
    assert pieces_for(None, 1_000_000, RUNTIME) == Pieces()


def test_the_vocabulary_of_a_small_model_is_no_larger_than_it_can_use() -> None:
    small, large = (pieces_for(seconds, 10**10, RUNTIME) for seconds in (1, 100_000))
    assert suggested_vocabulary(10**10, small) == small.most < suggested_vocabulary(10**10, large)


def test_dry_run_says_the_plan_and_touches_nothing(tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_text(200), encoding="utf-8")
    model = tmp_path / "model"
    outcome = cli("pretrain", text, "-m", model, "--time", "20s", "--dry-run", "--json", "--threads", 1)
    assert outcome.code == 0, outcome.err
    (plan,) = outcome.records
    assert plan["event"] == "plan" and int(str(plan["steps"])) > 0
    assert re.search(r"plan: \d+ layers of width \d+", outcome.err) and "of memory" in outcome.err
    assert not model.exists()


def test_a_resumed_run_is_not_planned_again(tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_text(200), encoding="utf-8")
    model = tmp_path / "model"
    assert cli("pretrain", text, "-m", model, "--steps", 2, "--layers", 1, "--width", 32, "-q").code == 0
    outcome = cli("pretrain", "-m", model, "--resume", "--dry-run", "--steps", 9)
    assert outcome.code == 2 and "keeps its plan" in outcome.err


def test_a_run_follows_its_plan_and_keeps_it_when_resumed(tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_text(200), encoding="utf-8")
    model = tmp_path / "model"
    arguments = ("pretrain", text, "-m", model, "--threads", 1, "--json", "--layers", 1, "--width", 32)
    first = cli(*arguments, "--steps", 4)
    assert first.code == 0, first.err
    (plan,) = (record for record in first.records if record["event"] == "plan")
    start = first.records[0]
    assert start["tokens_per_step"] == int(str(plan["rows"])) * int(str(plan["context"]))
    assert start["parameters"] == plan["parameters"]
    kept = json.loads((model / "training" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert kept["batch_size"] == plan["rows"] and kept["dropout"] == plan["dropout"]
    again = cli("pretrain", "-m", model, "--resume", "--steps", 6, "--json")
    assert again.code == 0, again.err
    assert again.records[0]["tokens_per_step"] == start["tokens_per_step"]
    assert not [record for record in again.records if record["event"] == "plan"]
