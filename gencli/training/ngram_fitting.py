"""A quick learner of labels: each n-gram is evidence by itself, for which some thousand examples are enough."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gencli.kernels.machine_code import Function
from gencli.model.ngrams import Ngrams, n_grams

FEWEST = 2  # texts that an n-gram is in, to count
MOST_WEIGHTS = 1 << 24  # of the n-grams that are in most texts
EPOCHS, ROWS, RATE = 10, 32, 0.2
FOLDS, JUDGED = 5, 4000
BIAS_STEPS, BIAS_EXACT_TO = 100, 1e-6
_learn = Function("evidence", "learn")


def fitted_ngrams(
    texts: Sequence[str],
    labels: Sequence[int],
    count: int,
    *,
    weights: Sequence[float] | None = None,
) -> Ngrams:
    """Return what the n-grams of texts say of their labels, numbers below `count`; a text's loss has its weight.

    What each label is worth by itself is found where nothing was learned: some of `FOLDS` parts of the texts, enough
    for `JUDGED` texts, are each labelled by what all the others teach, and the bias of least cost there is taken.
    """
    grams = [n_grams(text) for text in texts]
    truth, shares = np.array(labels, np.int64), np.array(weights or [1.0] * len(texts), np.float32)
    folds = np.array([zlib.crc32(text.encode("utf-8", "replace")) % FOLDS for text in texts])
    judged: list[int] = []
    logprobs = [np.zeros((0, count))]
    for fold in range(FOLDS):
        inside, others = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        if inside and others and len(judged) < JUDGED:
            taught = _learned([grams[each] for each in others], truth[others], count, shares[others])
            logprobs.append(taught.logprobs([texts[each] for each in inside]))
            judged += inside
    bias = _bias(np.concatenate(logprobs), truth[judged], shares[judged])
    return replace(_learned(grams, truth, count, shares), bias=bias)


def _bias(
    logprobs: NDArray[np.float64], truth: NDArray[np.int64], shares: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what to add for each label (K,) so that true ones cost least, from log-probabilities (N, K).

    It is drawn towards 0 as by a normal distribution of variance 1. Of a rare label fewer n-grams are known than of
    the others, so that without it too few texts get that label. Found by Newton's method, a step halved while it
    does not help.
    """
    own = np.zeros(logprobs.shape)
    own[np.arange(len(truth)), truth] = 1

    def likely(bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = logprobs + bias
        logits -= logits.max(axis=1, initial=-np.inf, keepdims=True)
        found = np.exp(logits)
        sums = found.sum(axis=1, keepdims=True)
        costs = np.log(sums[:, 0]) - (logits * own).sum(axis=1)
        return float(costs @ shares + bias @ bias / 2), found / sums

    bias = np.zeros(logprobs.shape[1])
    cost, found = likely(bias)
    for _ in range(BIAS_STEPS):
        gradient = shares @ (found - own) + bias
        curvature = np.diag(shares @ found + 1) - (found.T * shares) @ found
        step = np.linalg.solve(curvature, gradient)
        while (trial := likely(bias - step))[0] > cost and np.abs(step).max() > BIAS_EXACT_TO:
            step /= 2
        bias, (cost, found) = bias - step, trial
        if np.abs(step).max() <= BIAS_EXACT_TO:
            break
    return bias.astype(np.float32)


def _learned(
    grams: Sequence[NDArray[np.uint64]], truth: NDArray[np.int64], count: int, shares: NDArray[np.float32]
) -> Ngrams:
    """Return n-grams learned from texts that have these.

    Each text is seen `EPOCHS` times, the rate of AdaGrad (Duchi et al. 2011) falling to nothing.
    """
    known = _known(grams, most=max(1, MOST_WEIGHTS // count))
    unlearned = Ngrams(known, np.zeros((len(known) + 1, count), np.float32), np.zeros(count, np.float32))
    places = [unlearned.places(each) for each in grams]
    sizes = [len(each) for each in places]
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(len(grams)) for _ in range(EPOCHS)])
    vectors = np.zeros((len(known) + 1, 3 * count), np.float32)
    met, logits = np.empty(ROWS * max(sizes), np.int64), np.empty(count, np.float32)
    _learn.call(
        order, ROWS, np.cumsum([0, *sizes]), np.concatenate(places), truth, shares,
        np.array([RATE], np.float32), vectors, met, logits,
    )()  # fmt: skip
    return replace(unlearned, vectors=np.ascontiguousarray(vectors[:, :count]))


def _known(grams: Sequence[NDArray[np.uint64]], *, most: int) -> NDArray[np.uint64]:
    """Return the n-grams that are in several texts, of so many those that are in most."""
    found, often = np.unique(np.concatenate(grams), return_counts=True)
    fewest = FEWEST if len(found) <= most else max(FEWEST, int(np.partition(often, -most)[-most]) + 1)
    known: NDArray[np.uint64] = found[often >= fewest]
    return known
