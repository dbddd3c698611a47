"""The closed-form derivatives against torch's own, of the plain formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gencli.model import compiled_norms, fused

EPSILON = 1e-6


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def same_with_gradients(ours: Tensor, plain: Tensor, inputs: list[Tensor], atol: float = 1e-5) -> None:
    """Compare two results of the same inputs, and what flows back to each input."""
    torch.testing.assert_close(ours, plain, atol=atol, rtol=1e-4)
    gradient = drawn(*ours.shape, seed=9).detach()
    found = torch.autograd.grad(ours, inputs, gradient)
    expected = torch.autograd.grad(plain, inputs, gradient)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=10 * atol, rtol=1e-3)


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


@pytest.mark.usefixtures("norms")
def test_rms_norm() -> None:
    x, weight = drawn(3, 5, 24), drawn(24, seed=1)
    same_with_gradients(
        fused.rms_norm(x, weight, EPSILON), F.rms_norm(x, (24,), weight, EPSILON), [x, weight]
    )


@pytest.mark.usefixtures("norms")
def test_rms_norm_of_transposed_rows() -> None:
    x, weight = drawn(5, 3, 24), drawn(24, seed=1)
    plain = F.rms_norm(x.transpose(0, 1), (24,), weight, EPSILON)
    same_with_gradients(fused.rms_norm(x.transpose(0, 1), weight, EPSILON), plain, [x, weight])


def test_swiglu() -> None:
    joint = drawn(2, 5, 12)
    gate, up = joint.chunk(2, dim=-1)
    same_with_gradients(fused.swiglu(joint), F.silu(gate) * up, [joint])


def test_rms_norm_of_more_rows_than_fit_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROWS_IN_CACHE", 4)
    monkeypatch.setattr(compiled_norms, "are_made_of", lambda *_: False)
    x, weight = drawn(3, 5, 24), drawn(24, seed=1)
    same_with_gradients(
        fused.rms_norm(x, weight, EPSILON), F.rms_norm(x, (24,), weight, EPSILON), [x, weight]
    )


@pytest.mark.parametrize("rows", [None, 2])
def test_heads_in_place(rows: int | None) -> None:
    x, weight = drawn(2, 7, 3, 8), drawn(8, seed=1)  # (B, T, H, D)
    angles = drawn(*([7, 4] if rows is None else [rows, 1, 7, 4]), seed=2).detach()
    plain = turned(F.rms_norm(x, (8,), weight, EPSILON).transpose(1, 2), angles.cos(), angles.sin())
    ours = fused.heads_in_place(x, weight, EPSILON, angles.cos(), angles.sin())
    same_with_gradients(ours, plain, [x, weight])


@settings(deadline=None, max_examples=15)
@given(tokens=st.sampled_from([1, 2, 31, 127, 128, 129, 300]), heads=st.integers(1, 3))
def test_masked_attention(tokens: int, heads: int) -> None:
    q, k, v = (drawn(2, heads, tokens, 8, seed=seed) for seed in range(3))
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    same_with_gradients(fused.masked_attention(q, k, v), plain, [q, k, v])


def test_a_context_too_long_to_store_is_attended_to_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LONGEST_STORED", 16)
    q, k, v = (drawn(1, 1, 20, 8, seed=seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(fused.masked_attention(q, k, v), expected)


def test_bfloat16_is_close_to_float32() -> None:
    q, k, v = (drawn(2, 2, 150, 16, seed=seed) for seed in range(3))
    halves = [t.detach().bfloat16().requires_grad_() for t in (q, k, v)]
    whole = fused.masked_attention(q, k, v)
    half = fused.masked_attention(*halves)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.03, rtol=0.05)
    for one, other in zip(
        torch.autograd.grad(half.sum(), halves), torch.autograd.grad(whole.sum(), [q, k, v]), strict=True
    ):
        torch.testing.assert_close(one.float(), other, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_its_gradient_is_its_mask(share: float) -> None:
    torch.manual_seed(3)
    x = torch.ones(211, 97, requires_grad=True)
    y = fused.dropout(x, share)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    y = y.detach()
    zeros = float((y == 0).float().mean())
    assert zeros == pytest.approx(share, abs=0.01)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.05)
    assert len(set(y.flatten().tolist())) == 2
    torch.testing.assert_close(gradient, y)
    torch.manual_seed(3)
    torch.testing.assert_close(fused.dropout(x, share).detach(), y)
