"""What a run will reach, guessed before it begins: how well counting does on the same text, and how much better a
model gets.

A text's own difficulty is most of what decides its bits per byte. A trigram model, made by counting in a moment,
measures it; trained models of any text were found to stand in about the same relation to it after as many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

DISCOUNT = 0.75
COUNTED_TOKENS = 1 << 20  # of the training text
JUDGED_TOKENS = 1 << 16  # of the held-out text
PARTS = 16  # that these are taken from, evenly spaced

# Bits per byte over those of the trigram model after n tokens: LIMIT + (FIRST / n)^POWER, fitted to runs of 6 s to
# 10 minutes on six texts in two languages; they lay within SPREAD of it.
LIMIT, FIRST, POWER = 0.83, 16_000, 0.62
SPREAD = 0.1


def expected_bits(trigram_bits: float, tokens: int) -> tuple[float, float]:
    """Return the range of bits per byte to expect of a model of fitting size that has learned from so many tokens."""
    middle = trigram_bits * (LIMIT + (FIRST / max(tokens, 1000)) ** POWER)
    return round(middle * (1 - SPREAD), 3), round(middle * (1 + SPREAD), 3)


def trigram_bits(
    ids: NDArray[np.unsignedinteger],
    train: Sequence[tuple[int, int]],
    held_out: Sequence[tuple[int, int]],
    *,
    vocabulary: int,
    token_bytes: NDArray[np.float64],
) -> float | None:
    """Return the bits per byte that held-out text costs a trigram model of the training text, or None for none.

    Interpolated with bigrams and these with single tokens by absolute discounting (Ney, Essen and Kneser
    1994). Both texts are sampled.
    """
    counted, judged = _sampled(ids, train, COUNTED_TOKENS), _sampled(ids, held_out, JUDGED_TOKENS)
    if len(counted) < 3 or len(judged) < 3:
        return None
    single = np.bincount(counted, minlength=vocabulary) + 0.5
    last, probability = judged[2:], (single / single.sum())[judged[2:]]
    for order in (1, 2):
        before = _joined(counted, order, vocabulary)  # the tokens before the last one, as one number
        asked = _joined(judged[2 - order :], order, vocabulary)
        probability = _interpolated(before, counted[order:], asked, last, probability, vocabulary)
    nbytes = float(token_bytes[last].sum())
    return float(-np.log2(probability).sum()) / nbytes if nbytes else None


def _interpolated(
    before: Ids, after: Ids, asked: Ids, last: Ids, lower: NDArray[np.float64], vocabulary: int
) -> NDArray[np.float64]:
    """Return P(last | asked), from counts of (before, after), with the shorter history's P in `lower`."""
    pairs, times = np.unique(before * vocabulary + after, return_counts=True)
    histories, first, kinds = np.unique(pairs // vocabulary, return_index=True, return_counts=True)
    totals = np.add.reduceat(times, first)
    count, total, different = (
        _looked_up(keys, values, wanted)
        for keys, values, wanted in (
            (pairs, times, asked * vocabulary + last),
            (histories, totals, asked),
            (histories, kinds, asked),
        )
    )
    seen = np.maximum(total, 1)
    own = np.maximum(count - DISCOUNT, 0) / seen
    return np.where(total > 0, own + DISCOUNT * different / seen * lower, lower)


def _looked_up(keys: Ids, values: Ids, wanted: Ids) -> Ids:
    """Return the value of each wanted key, 0 for a key that is not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def _joined(ids: Ids, order: int, vocabulary: int) -> Ids:
    """Return each `order` neighbouring ids but the last place as one number."""
    count = len(ids) - order
    joined = np.zeros(count, dtype=np.int64)
    for place in range(order):
        joined = joined * vocabulary + ids[place : place + count]
    return joined


def _sampled(ids: NDArray[np.unsignedinteger], ranges: Sequence[tuple[int, int]], most: int) -> Ids:
    """Return at most so many ids of the ranges, in parts that are evenly spaced."""
    total = sum(end - start for start, end in ranges)
    parts = []
    for start, end in ranges:
        share = math.ceil(most * (end - start) / max(1, total))
        if end - start <= share:
            parts.append(ids[start:end])
            continue
        length = max(1, share // PARTS)
        starts = np.linspace(start, end - length, PARTS).astype(np.int64)
        parts += [ids[begin : begin + length] for begin in starts]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
