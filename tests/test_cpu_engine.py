from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from transformers import Qwen3Config, Qwen3ForCausalLM

from gencli.decoding import cpu_weights
from gencli.decoding.cpu_engine import CpuEngine, FloatArray, Pace
from gencli.decoding.torch_engine import TorchEngine
from gencli.errors import UsageError
from gencli.kernels.attention import exponential
from gencli.model.gpt import GPT
from gencli.model.shape import Shape

SHAPE = Shape(
    vocabulary=61,
    layers=2,
    width=24,
    heads=3,
    kv_heads=3,
    head_width=8,
    hidden=40,
    context=160,
    rope_theta=50.0,
)
# grouped queries, heads wider than the model divided by them, odd counts everywhere, another norm
GROUPED = Shape(
    vocabulary=37,
    layers=3,
    width=22,
    heads=4,
    kv_heads=2,
    head_width=6,
    hidden=35,
    context=160,
    norm_epsilon=1e-3,
)
LARGE = Shape(
    vocabulary=1030, layers=1, width=64, heads=4, kv_heads=2, head_width=32, hidden=200, context=160
)  # enough work in each product for several threads


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@cache
def weights_of(shape: Shape) -> dict[str, FloatArray]:
    random = np.random.default_rng(1)
    weights = {}
    for name, (rows, columns) in shape.tensors().items():
        size = (columns,) if name.endswith("norm.weight") else (rows, columns)
        weights[name] = random.normal(0, 0.3, size).astype(np.float32)
        if len(size) == 1:
            weights[name] += 1
    return weights


@cache
def theirs(shape: Shape) -> Any:
    model = Qwen3ForCausalLM(Qwen3Config(**shape.to_config())).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights_of(shape).items()})
    return model


def tokens_of(shape: Shape, count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, shape.vocabulary, count)]


def their_logits(shape: Shape, tokens: list[int]) -> FloatArray:
    with torch.inference_mode():
        return np.asarray(theirs(shape)(torch.tensor([tokens])).logits[0].numpy(), dtype=np.float32)


def engine_of(shape: Shape, **options: Any) -> CpuEngine:
    return CpuEngine(shape, weights_of(shape), **options)


@cache
def kept_engine(precision: Any, threads: int | None = None) -> CpuEngine:
    return engine_of(LARGE, precision=precision, threads=threads)


@pytest.mark.parametrize("shape", [SHAPE, GROUPED, LARGE])
@pytest.mark.parametrize("threads", [1, None])
def test_logits_are_those_of_transformers(shape: Shape, threads: int | None) -> None:
    tokens = tokens_of(shape, 90)
    expected = their_logits(shape, tokens)
    engine = engine_of(shape, threads=threads)
    found = [engine.start([tokens[:80]], slots=160)[0]]
    found += [engine.step([token])[0].copy() for token in tokens[80:]]
    assert_close(found, expected[79:])
    assert engine.lengths == [90]


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("shape", [SHAPE, GROUPED, LARGE])
def test_vectors_are_those_that_the_head_of_transformers_is_given(shape: Shape, threads: int | None) -> None:
    """After one block and several, one token and many; and so are those of the other engine."""
    prompts = [tokens_of(shape, count, seed=count) for count in (5, 1, 130, 64, 20)]
    engine = CpuEngine(shape, weights_of(shape), threads=threads)
    found, torchs = engine.vectors(prompts), TorchEngine(GPT(shape).load(weights_of(shape))).vectors(prompts)
    assert found.shape == torchs.shape == (5, shape.width) and found.dtype == torchs.dtype == np.float32
    with torch.inference_mode():
        expected = [
            theirs(shape).model(torch.tensor([ids])).last_hidden_state[0, -1].numpy() for ids in prompts
        ]
    assert_close(found, np.stack(expected))
    assert_close(torchs, np.stack(expected))
    assert_close(engine.start([prompts[0]], slots=20)[0], their_logits(shape, prompts[0])[-1])


@pytest.mark.parametrize("count", [1, 2, 65, 160])
def test_the_logits_after_each_token_are_those_of_transformers(count: int) -> None:
    tokens = tokens_of(SHAPE, count)
    found = np.concatenate([logits.copy() for logits in engine_of(SHAPE).each(tokens)])
    assert found.shape == (count, SHAPE.vocabulary)
    assert_close(list(found), their_logits(SHAPE, tokens))


def test_a_text_beyond_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="161 tokens don't fit into a context of 160"):
        list(engine_of(SHAPE).each([1] * 161))


def test_a_prompt_at_once_is_a_prompt_token_by_token() -> None:
    tokens = tokens_of(GROUPED, 150)  # more than two blocks
    whole, single = engine_of(GROUPED), engine_of(GROUPED)
    expected = whole.start([tokens], slots=160)
    logits = single.start([tokens[:1]], slots=160)
    for token in tokens[1:]:
        logits = single.step([token])
    assert_close(logits, expected)


def test_a_row_in_a_batch_is_that_row_alone() -> None:
    prompts = [tokens_of(GROUPED, count, seed=count) for count in (3, 17, 1, 70, 9)]
    batch = engine_of(GROUPED)
    together = [batch.start(prompts, slots=100)]
    together += [batch.step([turn, turn + 1, turn + 2, turn, 5]).copy() for turn in range(6)]
    for row, prompt in enumerate(prompts):
        alone = engine_of(GROUPED)
        logits = [alone.start([prompt], slots=100)[0]]
        logits += [alone.step([(turn, turn + 1, turn + 2, turn, 5)[row]])[0].copy() for turn in range(6)]
        assert_close(logits, [each[row] for each in together])
    assert batch.lengths == [9, 23, 7, 76, 15]


def test_copies_share_a_prompt_and_then_go_their_own_ways() -> None:
    first, second = tokens_of(SHAPE, 20), tokens_of(SHAPE, 7, seed=1)
    engine = engine_of(SHAPE)
    logits = engine.start([first, second], copies=3, slots=60)
    assert logits.shape == (6, SHAPE.vocabulary)
    for row in range(6):
        np.testing.assert_array_equal(logits[row], logits[row // 3 * 3])
    engine.step([0, 1, 2, 3, 4, 5])
    logits = engine.step([7, 7, 7, 7, 7, 7])
    for row in range(6):
        tokens = [*(first if row < 3 else second), row, 7]
        assert_close(logits[row], their_logits(SHAPE, tokens)[-1])


def test_rows_that_are_kept_go_on_as_if_alone() -> None:
    prompts = [tokens_of(SHAPE, count, seed=count) for count in (4, 11, 6)]
    engine = engine_of(SHAPE)
    engine.start(prompts, slots=40)
    engine.step([1, 2, 3])
    engine.keep([0, 2])
    engine.step([7, 8])
    engine.keep([1])
    assert engine.lengths == [8]
    assert_close(engine.step([9]), their_logits(SHAPE, [*prompts[2], 3, 8, 9])[-1:])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_do_not_change_a_bit(precision: Any) -> None:
    prompts = [tokens_of(LARGE, count, seed=count) for count in (100, 3, 60)]
    alone, together = (engine_of(LARGE, precision=precision, threads=threads) for threads in (1, None))
    np.testing.assert_array_equal(alone.start(prompts, slots=110), together.start(prompts, slots=110))
    for token in range(6):
        np.testing.assert_array_equal(alone.step([token] * 3), together.step([token] * 3))


def test_the_pace_follows_the_faster_way_and_tries_the_slower_one_now_and_then() -> None:
    pace = Pace(["together", "apart", "alone"])

    def spent(steps: int, **seconds: float) -> float:
        total = 0.0
        for _ in range(steps):
            way = pace.way()
            pace.took(way, seconds[way])
            total += seconds[way]
        return total / steps

    assert spent(500, alone=1.0, together=0.6, apart=0.7) == pytest.approx(0.63, abs=0.03)
    assert spent(5000, alone=1.0, together=100.0, apart=150.0) < 1.2  # other programs came
    assert spent(9000, alone=1.0, together=0.6, apart=0.7) < 0.75  # and went


def test_a_new_start_forgets_the_old_one() -> None:
    engine = engine_of(SHAPE)
    expected = engine.start([[5, 6]], slots=10)
    engine.start([tokens_of(SHAPE, 9), [1]], slots=10)
    np.testing.assert_array_equal(engine.start([[5, 6]], slots=10), expected)
    assert engine.lengths == [2]


@pytest.mark.parametrize("shape", [GROUPED, LARGE])
@pytest.mark.parametrize("has_byte_products", [True, False])
def test_int8_stays_near_float32(shape: Shape, has_byte_products: bool, monkeypatch: Any) -> None:
    if has_byte_products and not cpu_weights.multiplies_bytes():
        pytest.skip("this processor does not multiply bytes")
    monkeypatch.setattr(cpu_weights, "multiplies_bytes", lambda: has_byte_products)
    tokens = tokens_of(shape, 60)
    expected = their_logits(shape, tokens)[-1]
    engine = engine_of(shape, precision="int8")
    found = engine.start([tokens], slots=160)[0]
    assert np.corrcoef(found, expected)[0, 1] > 0.998
    assert not np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    logits = engine.start([tokens[:1]], slots=160)
    for token in tokens[1:]:
        logits = engine.step([token])
    np.testing.assert_array_equal(logits[0], found)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_row_has_the_same_bits_in_a_batch(precision: Any) -> None:
    prompts = [tokens_of(LARGE, count, seed=count) for count in (3, 17, 1, 70, 9)]
    batch = engine_of(LARGE, precision=precision)
    together = batch.start(prompts, slots=100)
    for turn in range(30):  # each way of taking a step comes to be tried
        together = batch.step([turn] * 5)
    for row, prompt in enumerate(prompts):
        alone = engine_of(LARGE, precision=precision, threads=1)
        logits = alone.start([prompt], slots=100)
        for turn in range(30):
            logits = alone.step([turn])
        np.testing.assert_array_equal(together[row], logits[0])


@pytest.mark.parametrize("precision", ["float32", "int8"])
@settings(deadline=None, max_examples=15)
@given(counts=st.lists(st.integers(1, 140), min_size=1, max_size=12), copies=st.integers(1, 2))
def test_prompts_read_together_have_the_bits_of_each_alone(
    precision: Any, counts: list[int], copies: int
) -> None:
    prompts = [tokens_of(LARGE, count, seed=place) for place, count in enumerate(counts)]
    engine, alone = kept_engine(precision), kept_engine(precision, 1)
    logits = engine.start(prompts, copies=copies, slots=150)
    following = engine.step([7] * len(logits))
    vectors = kept_engine(precision, 2).vectors(prompts)
    for place, prompt in enumerate(prompts):
        np.testing.assert_array_equal(vectors[place], alone.vectors([prompt])[0])
        expected = alone.start([prompt], slots=150)[0], alone.step([7])[0]
        for row in range(place * copies, (place + 1) * copies):
            np.testing.assert_array_equal((logits[row], following[row]), expected)


def test_short_prompts_pass_the_weights_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once for each 64 of their tokens, so that the weights are read that often only."""
    engine, passes = engine_of(SHAPE), []
    through = CpuEngine._through

    def counted(self: CpuEngine, tokens: Any, *others: Any) -> Any:
        passes.append(len(tokens))
        return through(self, tokens, *others)

    monkeypatch.setattr(CpuEngine, "_through", counted)
    engine.start([[1, 2, 3]] * 30, slots=10)
    assert passes == [64, 26]
    engine.vectors([[1, 2, 3]] * 30)
    assert passes == [64, 26] * 2


def test_read_only_weights_do() -> None:
    weights = {name: array.copy() for name, array in weights_of(SHAPE).items()}
    for array in weights.values():
        array.setflags(write=False)
    found = CpuEngine(SHAPE, weights).start([[1, 2, 3]], slots=10)
    assert_close(found[0], their_logits(SHAPE, [1, 2, 3])[-1])


@pytest.mark.parametrize("shape", [GROUPED, LARGE])  # with odd counts and with whole blocks
def test_weights_packed_in_place_are_the_same_weights(shape: Shape) -> None:
    mine = {name: array.copy() for name, array in weights_of(shape).items()}
    engine = CpuEngine(shape, mine, in_place=True)
    tokens = tokens_of(shape, 30)
    np.testing.assert_array_equal(
        engine.start([tokens], slots=40), engine_of(shape).start([tokens], slots=40)
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 13, 16])
def test_a_batch_of_any_size_has_the_bits_of_one_row(rows: int) -> None:
    batch, alone = engine_of(LARGE), engine_of(LARGE, threads=1)
    batch.start([[5, 6, 7]], copies=rows, slots=20)
    together = batch.step(list(range(rows)))
    for row in range(rows):
        alone.start([[5, 6, 7]], slots=20)
        np.testing.assert_array_equal(together[row], alone.step([row])[0])


def test_a_weight_that_is_no_number_shows_in_the_logits() -> None:
    for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.k_norm.weight"):
        weights = {**weights_of(SHAPE), name: np.full_like(weights_of(SHAPE)[name], np.nan)}
        assert np.isnan(CpuEngine(SHAPE, weights).start([[1, 2, 3, 4, 5]], slots=10)).any()


def test_what_does_not_fit_is_refused() -> None:
    engine = engine_of(SHAPE)
    assert (engine.context, engine.vocabulary, engine.name) == (160, 61, "cpu")
    for prompt in ([], [1] * 9):
        with pytest.raises(UsageError, match="from 1 to 8 tokens"):
            engine.start([prompt], slots=8)
    with pytest.raises(UsageError, match="from 1 to 160 tokens"):
        engine.start([[1] * 161], slots=1000)
    refused: list[list[list[int]]] = [[[]], [[1, 2], []], [[1] * 161, [1]]]
    for prompts in refused:
        with pytest.raises(UsageError, match=r"from 1 to \d+ tokens"):
            engine.vectors(prompts)
    assert engine.start([], slots=8).shape == (0, 61) and engine.vectors([]).shape == (0, SHAPE.width)
    engine.start([[1] * 7], slots=8)
    engine.step([1])
    with pytest.raises(UsageError, match="8 slots"):
        engine.step([1])


@njit  # type: ignore[untyped-decorator]
def raised(x: np.float32) -> np.float32:
    return exponential(x)


@settings(deadline=None, max_examples=300)
@given(x=st.floats(-86, 87, width=32))
def test_the_exponential_is_close(x: float) -> None:
    assert float(raised(np.float32(x))) == pytest.approx(
        np.exp(np.float64(x)), rel=2e-5 if abs(x) > 10 else 2e-6
    )


def test_importing_the_engine_imports_neither_torch_nor_numba() -> None:
    loaded = (
        "import sys, gencli.decoding.cpu_engine; print({'torch', 'numba', 'transformers'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
