"""gencli generate: what its options do to what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gencli.decoding.decoder import Token, generate
from gencli.decoding.engines import open_engine
from gencli.decoding.sampler import Sampling
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


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        (["--typical-p", "0.3"], {"typical_p": 0.3}),
        (["--top-p", "0.3"], {"top_p": 0.3}),
        (["--min-p", "0.5"], {"min_p": 0.5}),
        (["--repetition-penalty", "2"], {"repetition_penalty": 2.0}),
        (["--presence-penalty", "2"], {"presence_penalty": 2.0}),
        (["--frequency-penalty", "2"], {"frequency_penalty": 2.0}),
        (
            ["--frequency-penalty", "2", "--penalty-window", "3"],
            {"frequency_penalty": 2.0, "penalty_window": 3},
        ),
        (["--no-repeat-ngram", "1"], {"no_repeat_ngram": 1}),
    ],
    ids=str,
)
def test_each_filter_reaches_the_text(
    cli: Cli, model_folder: Path, options: list[str], sampling: dict[str, Any]
) -> None:
    folder = open_model(model_folder)
    events = list(
        generate(
            open_engine(folder, engine="cpu"), folder.tokenizer, [[1, *folder.tokenizer.encode("강")]],
            sampling=Sampling(temperature=1.5, **sampling), seed=1, max_new_tokens=40,
        )
    )  # fmt: skip
    expected = "".join(event.text for event in events if isinstance(event, Token))
    arguments = [
        "generate",
        "강",
        "-m",
        model_folder,
        "-n",
        40,
        "-s",
        1,
        "-t",
        1.5,
        "--engine",
        "cpu",
        "-q",
        "--no-echo",
    ]
    assert cli(*arguments, *options).out == expected + "\n" != cli(*arguments).out


def test_the_least_length_reaches_the_text(cli: Cli, model_folder: Path) -> None:
    even = ["-t", 100, "--top-k", 0, "--num-samples", 60]  # any token is about as likely as the end
    arguments = ["generate", "강", "-m", model_folder, "-n", 20, "-s", 1, "-q", "--json", *even]
    free, least = (
        {int(str(record["tokens"])) for record in cli(*arguments, *more).records}
        for more in ([], ["--min-new-tokens", 20])
    )
    assert min(free) < 20 and least == {20}


def test_the_length_penalty_reaches_the_search(cli: Cli, model_folder: Path) -> None:
    arguments = ["generate", "강", "-m", model_folder, "-n", 12, "-q", "--json", "--beams", 4]
    long, short = (cli(*arguments, "--length-penalty", power).records[0]["score"] for power in (2.0, 0.0))
    assert float(str(long)) > float(str(short))


def test_the_first_tokens_are_kept_beyond_the_context(cli: Cli, model_folder: Path) -> None:
    arguments = ["generate", "강", "-m", model_folder, "-n", 150, "-s", 1, "--min-new-tokens", 150]
    one, ten = (cli(*arguments, "--keep", keep) for keep in (1, 10))
    assert one.out != ten.out
    assert "32 tokens after its first are forgotten" in one.err
    assert "23 tokens after its first 10 are forgotten" in ten.err
    assert "tokens from its beginning are forgotten" in cli(*arguments, "--keep", 0).err
    for more in ([], ["--beams", 2], ["--choices", "a,b"]):
        refused = cli(*arguments, *more, "--keep", 64)
        assert refused.code == 2 and refused.out == "" and "--keep 64 leaves no room" in refused.err
