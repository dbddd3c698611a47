"""The Python API writes what the command line writes, with the same options."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gencli
from gencli.decoding.sampler import Sampling
from gencli.errors import UsageError
from gencli.knobs import flag_of, knobs_of
from gencli.settings.decoding import SamplingChoice, WritingChoice
from tests.conftest import Cli

HOT: dict[str, Any] = {"temperature": 1.5, "seed": 1, "max_new_tokens": 40}
OPTIONS: list[dict[str, Any]] = [
    {"top_k": 3}, {"top_p": 0.3}, {"min_p": 0.5}, {"typical_p": 0.3}, {"repetition_penalty": 2.0},
    {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"frequency_penalty": 2.0, "penalty_window": 3},
    {"no_repeat_ngram": 1}, {"logit_bias": (" sky=50",)}, {"ban": ("e",)}, {"stop": ("e", "i")},
    {"min_new_tokens": 30}, {"keep": 9, "max_new_tokens": 120}, {"temperature": 0.3}, {"seed": 2},
    {"max_new_tokens": 3}, {"regex": "[a-z ]+, [가-힣]{2}"}, {"json_schema": '{"type": "string", "maxLength": 9}'},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(model_folder: Path) -> gencli.Model:
    return gencli.open_model(model_folder, engine="cpu")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_is_that_of_the_command(
    model: gencli.Model, cli: Cli, model_folder: Path, options: dict[str, Any]
) -> None:
    flags = [
        part
        for name, value in {**HOT, **options}.items()
        for one in (value if isinstance(value, tuple) else [value])
        for part in (flag_of(name), one)
    ]
    written = gencli.generate(model, "강", **HOT | options)
    assert cli("generate", "강", "-m", model_folder, "--engine", "cpu", "-q", *flags).out == written + "\n"
    if "min_new_tokens" not in options:
        assert written != gencli.generate(
            model, "강", **HOT | {"max_new_tokens": 40 + 80 * ("keep" in options)}
        )


def test_the_options_are_all_that_the_settings_have() -> None:
    tried = {name for options in OPTIONS for name in options}
    assert tried == set(knobs_of(WritingChoice))
    parameters = inspect.signature(gencli.generate).parameters
    assert list(parameters) == ["model", "prompt", "raw", "recall", *knobs_of(WritingChoice)]
    for name, (_, knob, default) in knobs_of(WritingChoice).items():
        assert parameters[name].default == default and knob.help in str(gencli.generate.__doc__)


def test_the_samplers_defaults_are_those_of_the_settings() -> None:
    for field in dataclasses.fields(Sampling):
        assert knobs_of(SamplingChoice)[field.name][2] == field.default


def test_what_a_program_would_rather_give(model: gencli.Model) -> None:
    plain = gencli.generate(model, "강", **HOT | {"stop": ("e",), "logit_bias": (" sky=3.5",)})
    free: dict[str, Any] = {
        "stop": "e",
        "logit_bias": {" sky": 3.5},
        "temperature": np.float64(1.5),
        "seed": np.int64(1),
        "top_p": 1,
    }
    assert gencli.generate(model, "강", **HOT | free) == plain
    schema = {"type": "array", "items": {"enum": [1, "셋"]}}
    assert gencli.generate(model, "강", **HOT | {"json_schema": schema}) == gencli.generate(
        model, "강", **HOT | {"json_schema": json.dumps(schema)}
    )
    assert gencli.generate(model, "강", max_new_tokens=9) == gencli.generate(
        model, "강", max_new_tokens=9, seed=None
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 1.0}, "no option 'temprature', did you mean temperature"),
        ({"temperature": -1}, "temperature must be from 0 to 100"),
        ({"temperature": float("nan")}, "temperature must be from 0"),
        ({"temperature": "hot"}, "temperature should be a number, not 'hot'"),
        ({"top_k": 1.5}, "top_k should be a whole number"),
        ({"top_k": True}, "top_k should be a whole number"),
        ({"stop": [1]}, "stop should be a list"),
        ({"stop": 1}, "stop should be a list"),
        ({"logit_bias": {"sea": 101}}, "from -100 to 100"),
        ({"regex": "a(b"}, "unclosed group"),
        ({"regex": "a", "json_schema": "{}"}, "can't both be given"),
        (
            {"json_schema": {"type": "array", "minItems": 300}},
            "the shortest text found that the schema allows",
        ),
        ({"keep": 32}, "leaves no room in a context of 64"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "above --max-new-tokens"),
    ],
)
def test_what_can_not_be_is_refused(model: gencli.Model, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        gencli.generate(model, "강", **options)
