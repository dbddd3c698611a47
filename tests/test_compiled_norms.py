"""Norms of compiled code, and what flows back through them, against torch's own and the plain formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gencli.model import compiled_norms
from tests.test_fused import EPSILON, drawn, same_with_gradients, turned

SIZES = [1, 3, 8, 15, 16, 17, 40, 64]  # less than a vector of the machine, whole ones, and some over


@pytest.mark.parametrize("width", SIZES)
def test_norms_of_any_width(width: int) -> None:
    x, weight = drawn(5, width), drawn(width, seed=1)
    ours = compiled_norms.rms_norm(x, weight, EPSILON, torch.float32)
    same_with_gradients(ours, F.rms_norm(x, (width,), weight, EPSILON), [x, weight])


@settings(deadline=None, max_examples=30)
@given(data=st.data(), half=st.sampled_from(SIZES), heads=st.integers(1, 3), groups=st.integers(1, 3))
def test_heads_at_some_places(data: st.DataObject, half: int, heads: int, groups: int) -> None:
    rows, length, width = 2, 5, 2 * half
    chosen = torch.tensor(sorted(data.draw(st.sets(st.integers(0, rows * length - 1)))), dtype=torch.long)
    joint = drawn(len(chosen), (heads + 2 * groups) * width)
    weights, angles = drawn(2, width, seed=1), drawn(length, half, seed=2).detach()
    rotation = angles.cos(), angles.sin()
    found = compiled_norms.heads(joint, weights, EPSILON, rotation, chosen, (rows, length, heads, groups))
    whole = torch.zeros(rows * length, joint.size(1)).index_copy(0, chosen, joint)
    whole = whole.view(rows, length, -1, width).transpose(1, 2)
    q, k, v = torch.split(whole, [heads, groups, groups], dim=1)
    expected = (
        turned(F.rms_norm(q, (width,), weights[0], EPSILON), *rotation),
        turned(F.rms_norm(k, (width,), weights[1], EPSILON), *rotation),
        v,
    )
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    same_with_gradients(torch.cat(found, dim=1), torch.cat(expected, dim=1), [joint, weights])


def test_bfloat16_is_float32_rounded_to_the_nearest() -> None:
    x, weight = torch.randn(200, 37), torch.rand(37) + 0.5
    for given_x in (x, x.bfloat16()):
        exact = compiled_norms.rms_norm(given_x.float(), weight, EPSILON, torch.float32)
        found = compiled_norms.rms_norm(given_x, weight, EPSILON, torch.bfloat16)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, exact.bfloat16())


def test_what_is_no_number_stays_so() -> None:
    x = torch.tensor([[float("nan"), 1.0, 2.0]])
    assert compiled_norms.rms_norm(x, torch.ones(3), EPSILON, torch.bfloat16).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_numbers_are_left_to_torch(dtype: torch.dtype) -> None:
    assert not compiled_norms.are_made_of(torch.ones(2, dtype=dtype))
    assert compiled_norms.are_made_of(torch.ones(2), torch.ones(2, dtype=torch.bfloat16))


def test_gradients_in_bfloat16_are_close() -> None:
    joint, weights = drawn(6, 4 * 8), drawn(2, 8, seed=1)
    angles = drawn(3, 4, seed=2).detach()
    grads: list[tuple[Tensor, ...]] = []
    for given_joint in (joint, joint.detach().bfloat16().requires_grad_()):
        found = compiled_norms.heads(
            given_joint, weights, EPSILON, (angles.cos(), angles.sin()), torch.arange(6), (2, 3, 2, 1)
        )
        total = sum((part.float().square().sum() for part in found), torch.zeros(()))
        grads.append(torch.autograd.grad(total, [given_joint, weights]))
    for whole, half in zip(*grads, strict=True):
        torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)
