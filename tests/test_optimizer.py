"""The optimizer: updates, rates and what moves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.model.gpt import GPT
from gencli.model.scoring import total_loss
from gencli.training.events import Step
from gencli.training.loop import fit
from gencli.training.optimizer import Optimizer, Rates, orthogonalised, rate_multiplier
from tests.conftest import random_model, same, tiny_shape
from tests.test_batches import packed
from tests.test_training import make_run


@pytest.mark.parametrize("size", [(3, 32, 32), (2, 64, 16), (2, 16, 64)])
def test_updates_are_nearly_orthogonal(size: tuple[int, int, int]) -> None:
    stack = torch.randn(size, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(stack))
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    assert (
        torch.linalg.matrix_norm(orthogonalised(stack) - u @ vh).max()
        < 0.35 * torch.linalg.matrix_norm(u @ vh).min()
    )


@settings(deadline=None, max_examples=60)
@given(
    step=st.integers(0, 500), progress=st.floats(0, 1), warmup=st.integers(0, 50), decay=st.floats(0.05, 1)
)
def test_the_rate_rises_holds_and_falls_to_zero(
    step: int, progress: float, warmup: int, decay: float
) -> None:
    rate = rate_multiplier(step, progress, warmup=warmup, decay=decay)
    assert 0 <= rate <= 1
    assert rate_multiplier(step, 1.0, warmup=warmup, decay=decay) == 0
    if step >= warmup and progress <= 1 - decay:
        assert math.isclose(rate, 1.0, rel_tol=1e-6)
    if step < warmup:
        assert rate <= (step + 1) / warmup


def test_every_parameter_moves_and_gradients_are_forgotten() -> None:
    model = GPT(tiny_shape(97, context=16)).initialise(torch.Generator().manual_seed(0))
    optimizer = Optimizer(model, Rates())
    for step in range(3):
        batch = packed().batch(step)
        total_loss(model, torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)).backward()  # type: ignore[no-untyped-call]
        if step == 0:
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step(1.0)
    assert all(p.grad is None for p in model.parameters())
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def test_weight_decay_shrinks_matrices() -> None:
    model = random_model(tiny_shape(97))
    optimizer = Optimizer(model, Rates(weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    name = "model.layers.0.mlp.up_proj.weight"
    before = optimizer.parameters[name].norm().item()
    optimizer.step(1.0)
    assert optimizer.parameters[name].norm().item() < before


def test_a_running_mean_is_judged_and_published(tmp_path: Path) -> None:
    """The mean of all steps until 1 / steps is below 1 - average, then a mean that fades."""
    run = make_run(tmp_path, steps=9, evaluate_every=9)
    run.optimizer = Optimizer(run.model, Rates(average=0.75))
    published: dict[str, np.ndarray] = {}
    run.publish = lambda state: published.update({n: a.copy() for n, a in run.model.weights().items()})
    expected: dict[str, np.ndarray] = {}
    for event in fit(run):
        if isinstance(event, Step):
            own = run.model.weights()
            weight = max(0.25, 1 / event.step)
            for name, array in own.items():
                mean = expected.get(name, np.zeros_like(array, dtype=np.float64))
                expected[name] = mean + weight * (array.astype(np.float64) - mean)
    assert published.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(published[name], array, rtol=1e-5, atol=1e-6)
    assert not same(published, run.model.weights())
