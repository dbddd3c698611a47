"""Choices: the probability of each given text, against the model without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gencli.decoding.choices import rank_choices, score_choices, split_choices
from gencli.decoding.cpu_engine import CpuEngine
from gencli.decoding.decoder import Engine
from gencli.decoding.torch_engine import TorchEngine
from gencli.errors import UsageError
from gencli.model.folder import open_model, publish
from gencli.model.gpt import GPT
from gencli.text.tokenizer import Tokenizer
from tests.conftest import Cli, random_model, tiny_shape

TEXTS = ["강", "바다 그리고 산", "sea", "The river is here."]


@pytest.fixture(scope="session")
def chat_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model that says it was fine-tuned."""
    path = tmp_path_factory.mktemp("model") / "chat"
    shape = tiny_shape(tokenizer.vocabulary)
    weights = random_model(shape, seed=3).weights()
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage={"kind": "finetuned"}, card="# chat\n")
    return path


@pytest.fixture(params=["torch", "cpu"])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Engine:
    opened = open_model(model_folder)
    if request.param == "cpu":
        return CpuEngine(opened.shape, opened.weights())
    return TorchEngine(GPT(opened.shape).load(opened.weights()))


def without_cache(folder: Path, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """Return the sum of the ids' log-probabilities from one pass over everything."""
    opened = open_model(folder)
    model = GPT(opened.shape).load(opened.weights()).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]]))[0]
    own = torch.log_softmax(logits.double(), dim=-1)
    return sum(float(own[len(prompt) - 1 + place, one]) for place, one in enumerate(ids))


def test_a_choice_costs_what_the_model_says(model_folder: Path, tokenizer: Tokenizer, engine: Engine) -> None:
    prompt = [1, 300, 301]
    for ends in (False, True):
        (ranked,) = rank_choices(engine, tokenizer, [prompt], TEXTS, ends=ends)
        sums = {
            text: without_cache(model_folder, prompt, tokenizer.encode(text) + [tokenizer.eos] * ends)
            for text in TEXTS
        }
        assert [choice.text for choice in ranked] == sorted(TEXTS, key=lambda text: -sums[text])
        weights = np.exp(np.array([sums[choice.text] for choice in ranked]))
        assert [choice.logprob for choice in ranked] == pytest.approx(
            [sums[choice.text] for choice in ranked], abs=1e-3
        )
        assert [choice.probability for choice in ranked] == pytest.approx(weights / weights.sum(), abs=1e-3)


class Counting:
    """An engine that counts the tokens that it reads."""

    name = "counting"
    threads = 1

    def __init__(self, engine: Engine) -> None:
        self.engine, self.read, self.stepped = engine, 0, 0
        self.context, self.vocabulary = engine.context, engine.vocabulary

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        self.read += sum(len(prompt) for prompt in prompts)
        return self.engine.start(prompts, copies=copies, slots=slots)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.stepped += len(tokens)
        return self.engine.step(tokens)

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        self.read += len(tokens)
        return self.engine.extend(tokens, after=after)

    def keep(self, rows: Sequence[int]) -> None:
        self.engine.keep(rows)

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self.engine.vectors(prompts)


def test_the_prompt_is_read_once_and_no_token_is_computed_in_vain(engine: Engine) -> None:
    counting = Counting(engine)
    choices = [[300], [301, 302, 303], [304, 305]]
    (sums,) = score_choices(counting, [[1, 300, 301, 302]], choices)
    assert counting.read == 4 and counting.stepped == 3
    for choice, value in zip(choices, sums, strict=True):
        assert score_choices(engine, [[1, 300, 301, 302]], [choice])[0] == pytest.approx([value], abs=1e-3)


def test_prompts_together_are_read_once_and_score_as_each_alone(engine: Engine) -> None:
    counting = Counting(engine)
    prompts = [[1, 300, 301], [1, 310, 311, 312, 313], [1, *range(300, 390)]]
    choices = [[300], [301, 302, 303], [304, 305]]
    cut: list[int] = []
    together = score_choices(counting, prompts, choices, cut=cut.append)
    assert counting.read == 3 + 5 + 61 and counting.stepped == 3 * 3 and cut == [91 - 61]
    for prompt, sums in zip(prompts, together, strict=True):
        assert sums == pytest.approx(score_choices(engine, [prompt], choices)[0], abs=1e-3)


def test_a_prompt_without_room_keeps_its_end(engine: Engine) -> None:
    prompt = [1, *range(300, 390)]
    (found,) = score_choices(engine, [prompt], [[300, 301], [302]])
    (end,) = score_choices(engine, [[1, *prompt[-61:]]], [[300, 301], [302]])
    assert found == pytest.approx(end, abs=1e-3)
    with pytest.raises(UsageError, match="does not fit"):
        score_choices(engine, [prompt], [[300] * 63, [302]])
    (found,) = score_choices(engine, [prompt], [[300, 301]], keep=20)
    (end,) = score_choices(engine, [[*prompt[:20], *prompt[-42:]]], [[300, 301]])
    assert found == pytest.approx(end, abs=1e-3)
    with pytest.raises(UsageError, match="--keep 62 leaves no room"):
        score_choices(engine, [prompt], [[300, 301]], keep=62)


def test_choices_are_split_at_commas() -> None:
    assert split_choices("긍정, 부정", strip=True) == ["긍정", "부정"]
    assert split_choices(" sea, sky", strip=False) == [" sea", " sky"]
    for bad in ("", "one", "a,,b", "a,b,a", "a, "):
        with pytest.raises(UsageError, match="--choices"):
            split_choices(bad, strip=True)


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_the_likeliest_choice_is_the_answer(
    cli: Cli, model_folder: Path, chat_folder: Path, tokenizer: Tokenizer, name: str
) -> None:
    for folder in (model_folder, chat_folder):
        options = [
            "generate",
            "강?",
            "-m",
            folder,
            "--choices",
            "강,바다 그리고 산,sea",
            "--engine",
            name,
            "-q",
        ]
        record: Any = cli(*options, "--json").records[0]
        told = record["choices"]
        assert record["event"] == "choice" and record["text"] == told[0]["text"]
        assert sum(choice["probability"] for choice in told) == pytest.approx(1)
        assert {choice["text"] for choice in told} == {"강", "바다 그리고 산", "sea"}
        assert cli(*options).out == record["text"] + "\n"
        chat = folder == chat_folder
        prompt = [1, tokenizer.roles["user"], *tokenizer.encode("강?"), tokenizer.roles["assistant"]]
        expected = without_cache(
            folder,
            prompt if chat else [1, *tokenizer.encode("강?")],
            tokenizer.encode(record["text"]) + [tokenizer.eos] * chat,
        )
        assert told[0]["logprob"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        ["--choices", "one"],
        ["--choices", "a,b", "--num-samples", "2"],
        ["--choices", "a,b", "--logprobs", "1"],
    ],
)
def test_choices_that_make_no_sense_are_refused(cli: Cli, model_folder: Path, options: list[str]) -> None:
    outcome = cli("generate", "x", "-m", model_folder, "--json", *options)
    assert outcome.code == 2 and outcome.out == "" and "--choices" in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6
