"""Steps of fixed size beside those whose sizes grow, and what a captured graph must not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gencli.decoding.torch_engine import TorchEngine
from gencli.model.cache import KVCache
from gencli.model.fixed_steps import FixedSteps
from gencli.model.gpt import GPT
from gencli.model.shape import Shape

SHAPE = Shape(vocabulary=320, context=32, layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18]]


def model(device: str = "cpu") -> GPT:
    made = GPT(SHAPE)
    with torch.no_grad():
        for number, weight in enumerate(made.parameters()):
            weight.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
    return made.to(device)


def pair_of_engines() -> tuple[TorchEngine, TorchEngine]:
    """Return an engine whose steps grow and one whose steps are fixed, after the same prompts."""
    engines = TorchEngine(model(), fixed=False), TorchEngine(model(), fixed=True)
    for engine in engines:
        engine.start(PROMPTS, slots=20)
    return engines


def step_both(engines: tuple[TorchEngine, TorchEngine], rows: int, first: int) -> None:
    growing, fixed = (engine.step(np.arange(first, first + rows)) for engine in engines)
    assert fixed.shape == (rows, SHAPE.vocabulary)
    np.testing.assert_allclose(fixed, growing, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [4, 0, 2, 1], [3, 1], [2], [1, 1, 4], [0, 4, 4, 2, 2, 2]])
def test_fixed_steps_give_the_logits_of_growing_ones(kept: list[int]) -> None:
    engines = pair_of_engines()
    step_both(engines, len(PROMPTS), 20)
    for engine in engines:
        engine.keep(kept)
    for first in (40, 60, 80):
        step_both(engines, len(kept), first)


def test_rows_that_ended_may_stay_until_a_living_one_is_full() -> None:
    engines = pair_of_engines()
    for engine in engines:
        engine.keep([0, 1, 3])
    for number in range(17):
        step_both(engines, 3, 30 + number)


def test_a_text_that_was_read_on_goes_on_in_fixed_steps() -> None:
    engines = pair_of_engines()
    for engine in engines:
        engine.start([[5, 6, 7, 8]], copies=1, slots=20)
    step_both(engines, 1, 20)
    growing, fixed = (engine.extend([30, 31, 32], after=2) for engine in engines)
    np.testing.assert_allclose(fixed, growing, rtol=1e-5, atol=1e-5)
    step_both(engines, 1, 21)


def test_what_is_captured_asks_the_host_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers stand for a GPU's: reading one is an error, and so is making one from a list."""
    steps = FixedSteps(GPT(SHAPE).to("meta"), KVCache(SHAPE, rows=3, slots=20, device="meta"))
    for name in ("tensor", "from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("a tensor is made on the host"))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    with torch.no_grad():
        assert steps._compute().shape == (3, SHAPE.vocabulary)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_graph_gives_the_logits_of_growing_steps() -> None:
    engines = TorchEngine(model("cuda"), fixed=False), TorchEngine(model("cuda"))
    for engine in engines:
        engine.start(PROMPTS, slots=20)
    for number in range(4):
        step_both(engines, len(PROMPTS), 20 + number)
    assert engines[1]._steps is not None
    assert engines[1]._steps._graph is not None
