"""Beam search: against Hugging Face with the same parameters, and at its own rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from gencli.decoding.beams import Found, search
from gencli.decoding.cpu_engine import CpuEngine
from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.sampler import Sampling
from gencli.decoding.torch_engine import TorchEngine
from gencli.model.folder import open_model
from gencli.model.gpt import GPT
from gencli.text.tokenizer import Tokenizer
from tests.conftest import Cli
from tests.test_decoder import GREEDY, _free

PROMPTS = ([1, 300, 301], [1, 305], [1])


def engines(folder: Path) -> dict[str, Engine]:
    opened = open_model(folder)
    weights = opened.weights()
    return {"torch": TorchEngine(GPT(opened.shape).load(weights)), "cpu": CpuEngine(opened.shape, weights)}


@pytest.fixture(params=["torch", "cpu"])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Engine:
    return engines(model_folder)[request.param]


def found_after(engine: Engine, tokenizer: Tokenizer, prompt: Sequence[int], **asked: Any) -> Found:
    ((number, found),) = search(engine, tokenizer, [prompt], **asked)
    assert number == 0
    return found


@pytest.mark.parametrize(
    ("beams", "length_penalty", "sampling"),
    [
        (2, 1.0, GREEDY),
        (4, 1.0, GREEDY),
        (3, 0.0, GREEDY),
        (5, 2.0, GREEDY),
        (3, 1.0, Sampling(repetition_penalty=1.4, no_repeat_ngram=2)),
    ],
)
def test_the_text_is_that_of_hugging_face(
    model_folder: Path,
    tokenizer: Tokenizer,
    engine: Engine,
    beams: int,
    length_penalty: float,
    sampling: Sampling,
) -> None:
    import torch

    peer = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    for prompt in PROMPTS:
        found = found_after(
            engine, _free(tokenizer), prompt, beams=beams, sampling=sampling, max_new_tokens=12,
            length_penalty=length_penalty,
        )  # fmt: skip
        expected = peer.generate(
            torch.tensor([prompt]), do_sample=False, num_beams=beams, max_new_tokens=12,
            length_penalty=length_penalty, suppress_tokens=sorted(tokenizer.control_ids - {tokenizer.eos}),
            repetition_penalty=sampling.repetition_penalty, no_repeat_ngram_size=sampling.no_repeat_ngram,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert found.ids == expected


def test_one_beam_is_greedy(engine: Engine, tokenizer: Tokenizer) -> None:
    for prompt in PROMPTS:
        found = found_after(engine, tokenizer, prompt, beams=1, sampling=GREEDY, max_new_tokens=20)
        events = generate(engine, tokenizer, [prompt], sampling=GREEDY, seed=0, max_new_tokens=20)
        assert found.ids == [event.id for event in events if isinstance(event, Token)]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(repetition_penalty=1.4, no_repeat_ngram=2)])
def test_prompts_are_searched_together_as_each_alone(
    engine: Engine, tokenizer: Tokenizer, sampling: Sampling
) -> None:
    prompts = [*PROMPTS, [1, *range(300, 360)], [1, 310, 300, 305]]
    asked: Any = {"beams": 3, "sampling": sampling, "max_new_tokens": 14, "stop": ["a", "다"]}
    together = dict(search(engine, tokenizer, prompts, **asked))
    assert sorted(together) == list(range(len(prompts)))
    assert len({len(found.ids) for found in together.values()}) > 1  # they don't all end at the same step
    for number, prompt in enumerate(prompts):
        alone = found_after(engine, tokenizer, prompt, **asked)
        assert (together[number].ids, together[number].text) == (alone.ids, alone.text)
        assert together[number].score == pytest.approx(alone.score, abs=1e-4)


def test_more_beams_find_a_text_no_less_likely(engine: Engine, tokenizer: Tokenizer) -> None:
    def total(beams: int) -> float:
        return sum(
            found_after(
                engine, tokenizer, prompt, beams=beams, sampling=GREEDY, max_new_tokens=10, length_penalty=0.0
            ).score
            for prompt in PROMPTS
        )

    assert total(8) > total(1)


def test_rules_hold_for_beams_too(engine: Engine, tokenizer: Tokenizer) -> None:
    def found(**rules: Any) -> Found:
        return found_after(engine, tokenizer, [1, 300], beams=3, sampling=GREEDY, max_new_tokens=16, **rules)

    free = found(min_new_tokens=12)
    piece = free.text[2:4]
    assert piece.strip()
    assert piece not in found(min_new_tokens=12, bans=[piece]).text
    stopped = found(min_new_tokens=12, stop=[piece])
    assert piece not in stopped.text and stopped.text != free.text
    assert len(found(min_new_tokens=16).ids) == 16
    long = found_after(engine, tokenizer, [1, *range(300, 360)], beams=2, sampling=GREEDY, max_new_tokens=99)
    assert long.finish == "length" or long.ids[-1] == tokenizer.eos


def test_a_row_named_twice_becomes_two_rows(model_folder: Path) -> None:
    """What one copy reads must not reach the other."""
    ours = engines(model_folder)
    logits = {}
    for name, engine in ours.items():
        engine.start([[1, 300], [1, 301, 302], [1]], slots=20)
        engine.keep([1, 0, 1])
        engine.step(np.array([310, 311, 312]))
        logits[name] = engine.step(np.array([320, 321, 322]))
        for row, ids in enumerate(([1, 301, 302, 310, 320], [1, 300, 311, 321], [1, 301, 302, 312, 322])):
            alone = engines(model_folder)[name].start([ids], slots=20)[0]
            np.testing.assert_allclose(logits[name][row], alone, atol=2e-4)
    np.testing.assert_allclose(logits["torch"], logits["cpu"], atol=2e-4)


def test_beams_from_the_command_line(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    arguments = ["generate", "강", "-m", model_folder, "-n", 8, "--beams", 3, "-q"]
    record: Any = cli(*arguments, "--json").records[0]
    assert cli(*arguments).out == "강" + record["text"] + "\n"
    assert record["score"] < 0 and record["finish"] in ("stop", "length")
    (tmp_path / "prompts.txt").write_text("강\n산\n")
    rows: Any = cli(
        "generate", "-i", tmp_path / "prompts.txt", "-m", model_folder, "-n", 8, "--beams", 3, "-q"
    ).records
    assert [row["line"] for row in rows] == [1, 2] and rows[0]["text"] == record["text"]
    for more in (["--num-samples", 2], ["--choices", "a,b"], ["--json", "--logprobs", 1]):
        refused = cli(*arguments, *more)
        assert refused.code == 2 and "--beams" in refused.err


def test_int8_weights_are_for_the_engine_cpu(cli: Cli, model_folder: Path) -> None:
    arguments = [
        "generate",
        "강",
        "-m",
        model_folder,
        "-n",
        8,
        "-t",
        0,
        "-s",
        0,
        "--json",
        "--logprobs",
        0,
        "-q",
    ]
    exact, same, rounded = (
        cli(*arguments, "--engine", "cpu", *more).records[0]
        for more in ([], ["--precision", "float32"], ["--precision", "int8"])
    )
    without_time = [{k: v for k, v in one.items() if k != "tokens_per_second"} for one in (exact, same)]
    assert without_time[0] == without_time[1]
    assert rounded["logprobs"] != exact["logprobs"]
    refused = cli(*arguments, "--engine", "torch", "--precision", "int8")
    assert refused.code == 2 and "--engine cpu" in refused.err
