"""The trigram model against one written out, and the range that is made of it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from gencli.training import forecast
from gencli.training.forecast import DISCOUNT, SPREAD, expected_bits, trigram_bits

V = 7


def written_out(train: list[int], text: list[int]) -> float:
    """Return the bits that the tokens from the third on cost, by counting with dictionaries."""
    single, pairs = Counter(train), Counter(itertools.pairwise(train))
    triples = Counter(zip(train, train[1:], train[2:], strict=False))

    def one(a: int) -> float:
        return (single[a] + 0.5) / (len(train) + 0.5 * V)

    def two(a: int, b: int) -> float:
        total = sum(n for (first, _), n in pairs.items() if first == a)
        kinds = sum(first == a for first, _ in pairs)
        if not total:
            return one(b)
        return max(pairs[a, b] - DISCOUNT, 0) / total + DISCOUNT * kinds / total * one(b)

    def three(a: int, b: int, c: int) -> float:
        total = sum(n for key, n in triples.items() if key[:2] == (a, b))
        kinds = sum(key[:2] == (a, b) for key in triples)
        if not total:
            return two(b, c)
        return max(triples[a, b, c] - DISCOUNT, 0) / total + DISCOUNT * kinds / total * two(b, c)

    return -sum(math.log2(three(*text[i - 2 : i + 1])) for i in range(2, len(text)))


def test_the_trigram_model_is_the_one_written_out() -> None:
    ids = np.random.default_rng(3).integers(0, V, 400).astype(np.uint16)
    bits = trigram_bits(ids, [(0, 300)], [(300, 400)], vocabulary=V, token_bytes=np.full(V, 2.0))
    expected = written_out(ids[:300].tolist(), ids[300:].tolist()) / (98 * 2.0)
    assert bits == pytest.approx(expected, rel=1e-9)


def test_what_repeats_is_cheap_and_chance_is_not() -> None:
    repeated = np.tile(np.arange(V), 300).astype(np.uint16)
    chance = np.random.default_rng(0).integers(0, V, 2100).astype(np.uint16)
    cheap, dear = (
        trigram_bits(ids, [(0, 1800)], [(1800, 2100)], vocabulary=V, token_bytes=np.ones(V))
        for ids in (repeated, chance)
    )
    assert cheap is not None and dear is not None
    assert cheap < 0.1 and dear == pytest.approx(math.log2(V), rel=0.1)


def test_a_large_text_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "COUNTED_TOKENS", 1000)
    huge = np.broadcast_to(np.uint16(5), 10**12)
    bits = trigram_bits(huge, [(0, 9 * 10**11)], [(9 * 10**11, 10**12)], vocabulary=V, token_bytes=np.ones(V))
    assert bits is not None and bits < 0.1


def test_without_held_out_text_nothing_is_promised() -> None:
    ids = np.zeros(100, dtype=np.uint16)
    assert trigram_bits(ids, [(0, 100)], [], vocabulary=V, token_bytes=np.ones(V)) is None


def test_more_tokens_promise_more() -> None:
    ranges = [expected_bits(2.0, tokens) for tokens in (0, 10_000, 10**6, 10**9)]
    assert ranges == sorted(ranges, reverse=True)
    low, high = ranges[1]
    assert high / low == pytest.approx((1 + SPREAD) / (1 - SPREAD), rel=0.01)
