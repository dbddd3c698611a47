"""A quick learner of labels: each n-gram is evidence by itself, for which some thousand examples are enough."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gencli.model.ngrams import Ngrams, n_grams

FEWEST = 2  # texts that an n-gram is in, to count
MOST_WEIGHTS = 1 << 24  # of the n-grams that are in most texts
EPOCHS, ROWS, RATE = 10, 32, 0.2
FOLDS, JUDGED, BIAS_STEPS = 5, 4000, 100


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
    truth, shares = torch.tensor(labels), torch.tensor(weights or [1.0] * len(texts), dtype=torch.float32)
    folds = np.array([zlib.crc32(text.encode("utf-8", "replace")) % FOLDS for text in texts])
    judged: list[int] = []
    logprobs = [np.zeros((0, count))]
    for fold in range(FOLDS):
        inside, others = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        if inside and others and len(judged) < JUDGED:
            taught = _learned([grams[each] for each in others], truth[others], count, shares[others])
            logprobs.append(taught.logprobs([texts[each] for each in inside]))
            judged += inside
    bias = _bias(torch.from_numpy(np.concatenate(logprobs)), truth[judged], shares[judged])
    return replace(_learned(grams, truth, count, shares), bias=bias)


def _bias(logprobs: Tensor, truth: Tensor, shares: Tensor) -> NDArray[np.float32]:
    """Return what to add for each label (K,) so that true ones cost least, from log-probabilities (N, K).

    It is drawn towards 0 as by a normal distribution of variance 1. Of a rare label fewer n-grams are known than of
    the others, so that without it too few texts get that label.
    """
    bias = torch.zeros(logprobs.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([bias], max_iter=BIAS_STEPS, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        losses = F.cross_entropy(logprobs + bias, truth, reduction="none")
        total = (losses * shares).sum() + bias.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    search.step(cost)  # type: ignore[no-untyped-call]
    return bias.detach().float().numpy()


def _learned(grams: Sequence[NDArray[np.uint64]], truth: Tensor, count: int, shares: Tensor) -> Ngrams:
    """Return n-grams learned from texts that have these.

    Each text is seen `EPOCHS` times, the rate of AdaGrad (Duchi et al. 2011) falling to nothing.
    """
    known = _known(grams, most=max(1, MOST_WEIGHTS // count))
    ngrams = Ngrams(known, np.zeros((len(known) + 1, count), np.float32), np.zeros(count, np.float32))
    places = [torch.from_numpy(ngrams.places(each)) for each in grams]
    vectors = torch.from_numpy(ngrams.vectors).requires_grad_()
    squares = torch.zeros_like(vectors)
    random = np.random.default_rng(0)
    orders = [random.permutation(len(grams)) for _ in range(EPOCHS)]
    batches = [
        order[first : first + ROWS].tolist() for order in orders for first in range(0, len(order), ROWS)
    ]
    for step, batch in enumerate(batches):
        logits = _logits([places[number] for number in batch], vectors)
        losses = F.cross_entropy(logits, truth[batch], reduction="none")
        (gradient,) = torch.autograd.grad((losses * shares[batch]).mean(), vectors)
        gradient = gradient.coalesce()
        at, change = gradient.indices()[0], gradient.values()
        with torch.no_grad():
            squares[at] += change**2
            vectors[at] -= RATE * (1 - step / len(batches)) * change / (squares[at].sqrt() + 1e-10)
    return ngrams


def _known(grams: Sequence[NDArray[np.uint64]], *, most: int) -> NDArray[np.uint64]:
    """Return the n-grams that are in several texts, of so many those that are in most."""
    found, often = np.unique(np.concatenate(grams), return_counts=True)
    fewest = FEWEST if len(found) <= most else max(FEWEST, int(np.partition(often, -most)[-most]) + 1)
    known: NDArray[np.uint64] = found[often >= fewest]
    return known


def _logits(places: Sequence[Tensor], vectors: Tensor) -> Tensor:
    sizes = torch.tensor([len(each) for each in places])
    starts = sizes.cumsum(0) - sizes
    sums = F.embedding_bag(torch.cat(list(places)), vectors, starts, mode="sum", sparse=True)
    return sums / sizes.sqrt()[:, None]
