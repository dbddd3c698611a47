"""Settings: one definition, one order of precedence, clear refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gencli.errors import ConfigError, UsageError
from gencli.knobs import Common, knobs_of, resolve, seconds_of
from gencli.settings.decoding import GenerateSettings
from gencli.settings.training import PretrainSettings
from tests.options_table import commands

COMMANDS = [*commands().values()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_knob_has_a_help_and_a_default_in_its_range(command: type[Common]) -> None:
    assert dataclasses.is_dataclass(command)
    for name, (kind, knob, default) in knobs_of(command).items():
        assert knob.help.endswith("."), name
        assert kind in (bool, int, float, str, tuple, Path), name
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert knob.least is None or knob.least <= default
            assert knob.most is None or default <= knob.most
        if knob.choices:
            assert default in (*knob.choices, None, dataclasses.MISSING)  # None: the method decides


def test_flags_beat_the_file_and_the_file_beats_defaults_and_earlier_runs(tmp_path: Path) -> None:
    file = tmp_path / "gencli.toml"
    file.write_text('steps = 5\nbatch-size = 3\nlearning_rate = 1\ncorpus = ["a.txt"]\n')
    made = resolve(
        PretrainSettings, {"model": tmp_path, "steps": 7, "config": file}, {"batch_size": 2, "seed": 4}
    )
    assert (made.steps, made.batch_size, made.learning_rate, made.seed) == (7, 3, 1.0, 4)
    assert made.corpus == ("a.txt",) and made.warmup == 20


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stepz = 5", "did you mean steps"),
        ('steps = "5"', "whole number"),
        ("steps = true", "whole number"),
        ("steps = 0", "from 1"),
        ("steps = 5\nsteps = 6", "can't be read"),
        ("= 5", "can't be read"),
        ('kind = "word"', "one of bpe"),
        ('config = "x.toml"', "unknown key"),
    ],
)
def test_a_bad_file_names_the_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "gencli.toml"
    file.write_text(text)
    with pytest.raises((ConfigError, UsageError)) as caught:
        resolve(PretrainSettings, {"model": tmp_path, "config": file})
    assert told in caught.value.message
    assert str(file) in caught.value.where + caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1},
        {"max_new_tokens": 0}, {"max_new_tokens": 10**9}, {"seed": 2**64}, {"num_samples": 0}, {"engine": "gpu"},
        {"repetition_penalty": 0.0}, {"min_p": 1.5},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(GenerateSettings, {"model": Path("x"), **given})
    assert "--" + next(iter(given)).replace("_", "-") in caught.value.message


def test_what_is_needed_is_said() -> None:
    with pytest.raises(UsageError, match="-m/--model is needed"):
        resolve(GenerateSettings, {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2M", 120)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@given(st.text(max_size=8))
def test_durations_are_read_or_refused(text: str) -> None:
    try:
        assert seconds_of(text) >= 1
    except UsageError as error:
        assert error.exit_code == 2
