"""Labels: their probabilities against all sequences scored without a cache, and what must hold for any of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gencli.decoding import labels
from gencli.decoding.cpu_engine import CpuEngine
from gencli.decoding.decoder import Engine
from gencli.decoding.labels import EXACT_TO, Classifier, all_logprobs
from gencli.decoding.torch_engine import TorchEngine
from gencli.decoding.trie import deepest, tree_of
from gencli.errors import UsageError
from gencli.model.confidence import shares
from gencli.model.folder import open_model
from gencli.model.gpt import GPT
from gencli.text.tokenizer import Tokenizer

LABELS = ["강", "강 그리고 산", "강 그리고 바다", "river", "river bird", "sky"]
PROMPTS = [[1, 300, 301], [1, 305], [1, *range(310, 330)]]


@pytest.fixture(params=["torch", "cpu"])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Engine:
    opened = open_model(model_folder)
    if request.param == "cpu":
        return CpuEngine(opened.shape, opened.weights())
    return TorchEngine(GPT(opened.shape).load(opened.weights()))


def by_hand(folder: Path, tokenizer: Tokenizer, prompt: Sequence[int], texts: Sequence[str]) -> list[float]:
    """Return each label's probability: at each of its ids, the softmax over the ids that labels have there."""
    opened = open_model(folder)
    model = GPT(opened.shape).load(opened.weights()).eval()
    sequences = [[*tokenizer.encode(label), tokenizer.eos] for label in texts]
    found = []
    for sequence in sequences:
        probability = 1.0
        for place, identity in enumerate(sequence):
            rivals = {other[place] for other in sequences if other[:place] == sequence[:place]}
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *sequence[:place]]]))[0, -1].double()
            over = torch.softmax(logits[sorted(rivals)], dim=0)
            probability *= float(over[sorted(rivals).index(identity)])
        found.append(probability)
    return found


def test_a_label_is_as_likely_as_its_turns_among_labels(
    engine: Engine, model_folder: Path, tokenizer: Tokenizer
) -> None:
    found = np.exp(Classifier(engine, tokenizer, LABELS).logprobs(PROMPTS))
    assert found.sum(axis=1) == pytest.approx(1)
    for prompt, own in zip(PROMPTS, found, strict=True):
        assert own == pytest.approx(by_hand(model_folder, tokenizer, prompt, LABELS), abs=1e-3)


def test_batches_of_like_length_make_no_difference(engine: Engine, tokenizer: Tokenizer) -> None:
    classifier = Classifier(engine, tokenizer, LABELS)
    together = all_logprobs(classifier, PROMPTS, rows=2)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert classifier.logprobs([prompt])[0] == pytest.approx(row, abs=1e-3)


class Counting(CpuEngine):
    """An engine that counts the rows of its steps."""

    stepped = 0

    def step(self, tokens: npt.ArrayLike) -> NDArray[np.float32]:
        self.stepped += np.size(tokens)
        return super().step(tokens)


def logprobs_of(
    folder: Path, tokenizer: Tokenizer, *, evidence: NDArray[np.float64] | None, temperature: float
) -> tuple[NDArray[np.float64], int]:
    """Return what a model that is sure finds of 60 prompts, and how many rows it read for that."""
    opened = open_model(folder)
    weights = dict(opened.weights())
    weights["lm_head.weight"] = weights["lm_head.weight"] * np.float32(6)
    engine = Counting(opened.shape, weights)
    prompts = [[1, number, number + 3] for number in range(300, 360)]
    found = Classifier(engine, tokenizer, LABELS, temperature=temperature).logprobs(prompts, evidence)
    return found, engine.stepped


@pytest.mark.parametrize("strength", [0.0, 0.1, 4.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 3.0])
def test_what_is_left_out_makes_no_difference(
    tokenizer: Tokenizer,
    model_folder: Path,
    temperature: float,
    strength: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside evidence of any strength; at a temperature of 3 that of 4 tells more than the model."""
    evidence = strength * np.random.default_rng(0).standard_normal((60, len(LABELS)))
    part, few = logprobs_of(model_folder, tokenizer, evidence=evidence, temperature=temperature)
    monkeypatch.setattr(labels, "EXACT_TO", 0.0)
    whole, all_rows = logprobs_of(model_folder, tokenizer, evidence=None, temperature=temperature)
    difference = np.abs(shares(part + evidence, temperature) - shares(whole + evidence, temperature))
    assert difference.max() < EXACT_TO
    assert temperature > 1 or few < all_rows, "nothing was left out"


def test_evidence_against_labels_saves_looking_at_them(tokenizer: Tokenizer, model_folder: Path) -> None:
    against = np.zeros((60, len(LABELS)))
    against[:, :3] = -40.0  # of all that begin with the same piece
    _, few = logprobs_of(model_folder, tokenizer, evidence=against, temperature=2.0)
    _, more = logprobs_of(model_folder, tokenizer, evidence=None, temperature=2.0)
    assert few < 0.8 * more


def test_a_text_without_room_keeps_its_end(engine: Engine, tokenizer: Tokenizer) -> None:
    classifier = Classifier(engine, tokenizer, LABELS)
    longest = max(len(tokenizer.encode(label)) + 1 for label in LABELS)
    prompt = [1, *range(300, 390)]
    short = [1, *prompt[-(63 - longest) :]]
    assert classifier.logprobs([prompt])[0] == pytest.approx(classifier.logprobs([short])[0], abs=1e-3)
    with pytest.raises(UsageError, match="does not fit"):
        Classifier(engine, tokenizer, ["강 " * 80, "산"])


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, unique=True))
def test_a_tree_holds_its_sequences_and_no_other(sequences: list[tuple[int, ...]]) -> None:
    root = tree_of(sequences)
    found: dict[tuple[int, ...], int] = {}

    def collect(node: object, before: tuple[int, ...]) -> None:
        assert hasattr(node, "ends") and hasattr(node, "ids") and hasattr(node, "children")
        if node.ends is not None:
            found[before] = node.ends
        for identity, child in zip(node.ids, node.children, strict=True):
            collect(child, (*before, identity))

    collect(root, ())
    assert found == {sequence: number for number, sequence in enumerate(sequences)}
    assert deepest(root) == max(map(len, sequences)) and sorted(root.below) == list(range(len(sequences)))
