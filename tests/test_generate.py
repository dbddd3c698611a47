"""gencli generate: what its options do to what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gencli.model.folder import open_model
from tests.conftest import Cli


def test_the_order_of_the_filters_stands_in_the_help(cli: Cli) -> None:
    from gencli.decoding.sampler import FILTER_ORDER

    told = " ".join(cli("generate", "-h").out.split())
    assert f"in this order: {', '.join(FILTER_ORDER)}." in told


def test_the_prompt_is_echoed_or_not(cli: Cli, model_folder: Path) -> None:
    options = ["-m", model_folder, "-n", 5, "-s", 1, "-q"]
    plain = cli("generate", "강 ", *options).out
    assert plain.startswith("강 ") and cli("generate", "강 ", *options, "--echo").out == plain
    assert "강 " + cli("generate", "강 ", *options, "--no-echo").out == plain


def test_log_probabilities_come_with_json(cli: Cli, model_folder: Path) -> None:
    options = ["generate", "강", "-m", model_folder, "-n", 6, "-s", 1, "-q", "--logprobs", 3]
    record: Any = cli(*options, "--json").records[0]
    tokens = record["logprobs"]
    assert len(tokens) == record["tokens"] == 6
    for token in tokens:
        assert {"text", "id", "logprob", "alternatives"} == set(token)
        ranked = [other["logprob"] for other in token["alternatives"]]
        assert (
            len(ranked) == 3 and ranked == sorted(ranked, reverse=True) and token["logprob"] <= ranked[0] <= 0
        )
    tokenizer = open_model(model_folder).tokenizer
    assert tokenizer.decode([token["id"] for token in tokens]) == record["text"]
    refused = cli(*options)
    assert refused.code == 2 and "--json" in refused.err


def test_a_bias_and_a_ban_reach_the_text(cli: Cli, model_folder: Path) -> None:
    options = ["generate", "강", "-m", model_folder, "-n", 12, "-t", 0, "-q", "--no-echo"]
    assert "sky" in cli(*options, "--logit-bias", " sky=100").out
    plain = cli(*options).out
    word = max(plain.split(), key=len)
    assert word not in cli(*options, "--ban", word).out


@pytest.mark.parametrize("bias", ["sea", "=2", "sea=much", "sea=nan", "sea=inf", "sea=101", "sea="])
def test_a_bias_that_is_none_is_refused(cli: Cli, model_folder: Path, bias: str) -> None:
    outcome = cli("generate", "x", "-m", model_folder, "--logit-bias", bias)
    assert outcome.code == 2 and outcome.out == "" and "--logit-bias" in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6
