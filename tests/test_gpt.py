"""The model against Hugging Face's Qwen3, and its cache against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3ForCausalLM

from gencli.errors import ModelError
from gencli.model import places
from gencli.model.cache import KVCache
from gencli.model.gpt import GPT, MLP
from gencli.model.shape import PRESETS, Shape, hidden_for, preset, reshaped
from tests.conftest import random_model, tiny_shape


def peer(model: GPT) -> Qwen3ForCausalLM:
    config = {
        k: v for k, v in model.shape.to_config().items() if k not in ("architectures", "model_type", "dtype")
    }
    other = Qwen3ForCausalLM(Qwen3Config(**config)).eval()
    other.load_state_dict(model.state_dict())
    return other


def tokens_for(model: GPT, rows: int, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.shape.vocabulary, (rows, count), generator=generator)


@pytest.mark.usefixtures("norms")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_are_those_of_hugging_face(kv_heads: int) -> None:
    model = random_model(tiny_shape(kv_heads=kv_heads))
    tokens = tokens_for(model, 2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), peer(model)(tokens).logits, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6), rows=st.integers(1, 3))
def test_cache_in_any_chunks_equals_no_cache(cuts: list[int], rows: int) -> None:
    model = random_model(tiny_shape())
    tokens = tokens_for(model, rows, min(60, sum(cuts)))
    cache = KVCache(model.shape, rows=rows, slots=64)
    with torch.no_grad():
        whole = model(tokens)
        parts = [model(part, cache) for part in tokens.split(cuts[0], dim=1)]  # type: ignore[no-untyped-call]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_rows_of_different_lengths_equal_rows_alone() -> None:
    model = random_model(tiny_shape())
    tokens = tokens_for(model, 2, 20)
    cache = KVCache(model.shape, rows=2, slots=32)
    with torch.no_grad():
        alone = model(tokens)
        model(tokens[:, :12], cache)
        cache.rewind([12, 7])
        together = model(torch.stack([tokens[0, 12:17], tokens[1, 7:12]]), cache)
    torch.testing.assert_close(together[0], alone[0, 12:17], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1], alone[1, 7:12], atol=1e-4, rtol=1e-4)


def test_forked_and_picked_rows_go_on_alone() -> None:
    model = random_model(tiny_shape())
    tokens = tokens_for(model, 2, 10)
    cache = KVCache(model.shape, rows=2, slots=16)
    with torch.no_grad():
        model(tokens[:, :9], cache)
        forked = cache.fork(2)
        model(tokens[:, 9:], cache)
        logits = model(tokens[:, 9:].repeat_interleave(2, dim=0), forked)
        picked = model(tokens[1:, 9:], _rewound(cache.pick([1]), 9))
        whole = model(tokens)[:, -1:]
    assert forked.lengths == [10] * 4
    torch.testing.assert_close(logits, whole.repeat_interleave(2, dim=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(picked, whole[1:], atol=1e-4, rtol=1e-4)


def _rewound(cache: KVCache, length: int) -> KVCache:
    cache.rewind([length] * len(cache.lengths))
    return cache


@pytest.mark.usefixtures("norms")
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=npst.arrays(np.bool_, (4, 9)))
def test_logits_at_some_places_and_their_gradients_equal_those_of_all(asked: NDArray[np.bool_]) -> None:
    model = random_model(tiny_shape())
    ids = tokens_for(model, *asked.shape)
    at = torch.from_numpy(asked).flatten().nonzero()[:, 0]
    found: list[list[torch.Tensor]] = []
    for logits in (model(ids, at=at), model(ids).flatten(0, 1)[at]):
        model.zero_grad()
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)


def test_what_nothing_asked_for_depends_on_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MULTIPLE", 1)
    model = random_model(tiny_shape())
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, MLP):
            module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model(torch.zeros(3, 10, dtype=torch.long), at=torch.tensor([2, 4, 25]))
    assert seen == [5 + 6, 3]
    monkeypatch.setattr(places, "MULTIPLE", 16)
    seen.clear()
    model(torch.zeros(3, 10, dtype=torch.long), at=torch.tensor([2, 4, 25]))
    assert seen == [16, 3]


def test_a_token_never_sees_a_later_one() -> None:
    model = random_model(tiny_shape())
    tokens = tokens_for(model, 1, 16)
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % model.shape.vocabulary
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :10], model(changed)[:, :10])


def test_a_new_model_finds_every_token_equally_likely() -> None:
    model = GPT(tiny_shape()).initialise(torch.Generator().manual_seed(3))
    assert model(tokens_for(model, 1, 5)).abs().max() == 0
    assert 0.9 < model.model.embed_tokens.weight.std() < 1.1
    again = GPT(tiny_shape()).initialise(torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    plain = random_model(tiny_shape())
    model = GPT(tiny_shape(), dropout=0.5)
    model.load_state_dict(plain.state_dict())
    tokens = tokens_for(model, 1, 8)
    assert not torch.allclose(model.train()(tokens), plain(tokens))
    torch.testing.assert_close(model.eval()(tokens), plain(tokens))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_count_their_parameters(name: str) -> None:
    shape = preset(name, 1000)
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(shape).parameters()) == shape.parameters
    assert Shape.from_config(shape.to_config()) == shape


def test_the_size_can_be_changed_in_part() -> None:
    shape = reshaped(preset("nano", 500), layers=3, width=96, context=32)
    assert (shape.layers, shape.width, shape.context, shape.hidden) == (3, 96, 32, hidden_for(96))
    assert shape.heads * shape.head_width == 96


@pytest.mark.parametrize(
    "numbers",
    [
        {"layers": 0},
        {"width": 10**9},
        {"kv_heads": 3},
        {"head_width": 7},
        {"context": True},
        {"rope_theta": float("nan")},
    ],
)
def test_numbers_that_make_no_model_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        tiny_shape(**numbers)


def test_configurations_of_other_models_are_refused() -> None:
    config = tiny_shape().to_config()
    for change in ({"model_type": "llama"}, {"tie_word_embeddings": True}, {"num_hidden_layers": "2"}):
        with pytest.raises(ModelError):
            Shape.from_config({**config, **change})
    del config["head_dim"]
    with pytest.raises(ModelError, match="head_dim"):
        Shape.from_config(config)
