"""`gencli bench`: figures by a clock that the test moves, and the command as a user runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gencli.cli import bench
from gencli.decoding.speed import Speed, speeds
from gencli.errors import MachineError
from gencli.text.tokenizer import Tokenizer
from tests.conftest import Cli
from tests.trained import trained


class TimedEngine:
    """Wants the same next token always, and moves a clock by what reading and writing take."""

    name = "timed"
    threads = 1

    def __init__(self, tokenizer: Tokenizer, context: int, *, read: float, step: float) -> None:
        self.vocabulary, self.context = tokenizer.vocabulary, context
        self.now, self._read, self._step = 0.0, read, step
        self._rows, self.most_rows = 0, 0

    def clock(self) -> float:
        return self.now

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        assert all(0 < len(prompt) <= slots <= self.context for prompt in prompts)
        self.now += self._read * sum(map(len, prompts))
        self._rows = len(prompts) * copies
        self.most_rows = max(self.most_rows, self._rows)
        return self._logits()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.now += self._step
        return self._logits()

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        raise AssertionError

    def keep(self, rows: Sequence[int]) -> None:
        self._rows = len(rows)

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        raise AssertionError

    def _logits(self) -> NDArray[np.float32]:
        logits = np.zeros((self._rows, self.vocabulary), np.float32)
        logits[:, 2] = 50.0  # it would end every text at once
        return logits


def measured(engine: TimedEngine, *, batch: int = 8, seconds: float = 4.0) -> list[Speed]:
    return list(speeds(engine, trained(), batch=batch, seconds=seconds, clock=engine.clock))


def test_rates_are_tokens_over_what_they_take() -> None:
    engine = TimedEngine(trained(), 1024, read=0.0005, step=0.01)
    prefill, single, together = measured(engine)
    assert (prefill.figure, prefill.batch, prefill.tokens) == ("prefill", 1, 512)
    assert prefill.tokens_per_second == pytest.approx(2000)
    assert (single.figure, single.batch) == ("decode", 1)
    assert single.tokens_per_second == pytest.approx(100)
    assert together.batch == 8 and together.tokens_per_second == pytest.approx(800)
    assert 2.5 < engine.now < 4.5


@pytest.mark.parametrize(("context", "batch"), [(8, 8), (64, 1), (1024, 3)])
def test_no_context_is_too_short(context: int, batch: int) -> None:
    found = measured(TimedEngine(trained(), context, read=0.001, step=0.001), batch=batch)
    assert [speed.batch for speed in found] == [1, *dict.fromkeys((1, batch))]
    assert all(0 < speed.tokens < context for speed in found)


def test_a_slow_machine_measures_less() -> None:
    engine = TimedEngine(trained(), 1024, read=0.1, step=3.0)
    prefill, single, together = measured(engine)
    assert prefill.tokens == 16 and single.tokens == together.tokens == 2
    assert single.tokens_per_second == pytest.approx(1 / 3)
    assert engine.now < 30


def test_the_command_measures_both_precisions(
    cli: Cli, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, commands = bench._run, list[list[str]]()

    def run_the_first(command: list[str]) -> None:
        commands.append(command)
        if len(commands) == 1:
            run(command)

    monkeypatch.setattr(bench, "_run", run_the_first)
    outcome = cli("bench", "-m", model_folder, "--time", "1s", "--json", "--batch-size", 4)
    assert outcome.code == 0, outcome.err
    seen = [(row["precision"], row["figure"], row.get("batch")) for row in outcome.records]
    one = [("start", None), ("prefill", 1), ("decode", 1), ("decode", 4)]
    assert seen == [(precision, *rest) for precision in ("float32", "int8") for rest in one]
    for row in outcome.records:
        rate = row["seconds"] if row["figure"] == "start" else row["tokens_per_second"]
        assert isinstance(rate, float) and row["engine"] == "cpu"
        assert rate > 0 or row["figure"] == "start"
    assert "float32: start" in outcome.err
    assert {command[-1] for command in commands} == {"float32", "int8"}


def test_the_table_has_a_row_for_each_engine(
    cli: Cli, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_run", lambda _: None)
    head, names, row = cli(
        "bench", "-m", model_folder, "--time", "1s", "--engine", "torch", "-q"
    ).out.splitlines()
    assert "parameters" in head
    assert names.split("  ")[0] == "engine" and "batch 1, tokens/s" in names and "batch 8, tokens/s" in names
    assert row.startswith("torch, float32")
    rounded = cli("bench", "-m", model_folder, "--time", "1s", "--precision", "int8", "-q").out.splitlines()
    assert [line.split("  ")[0] for line in rounded[2:]] == ["cpu, int8"]


def test_a_start_that_fails_is_told(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    outcome = cli("bench", "-m", tmp_path / "none", "--time", "1s")
    assert outcome.code == 3 and outcome.out == ""
    with pytest.raises(MachineError) as caught:
        bench._run(["sh", "-c", "echo 'error: no room' >&2; exit 4"])
    assert "no room" in caught.value.where
