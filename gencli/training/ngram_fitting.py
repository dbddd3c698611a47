"""A quick learner of labels: each n-gram is evidence by itself, for which some thousand examples are enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from gencli.model.ngrams import Ngrams, n_grams

FEWEST = 2  # texts that an n-gram is in, to count
MOST_WEIGHTS = 1 << 24  # of the n-grams that are in most texts
EPOCHS, ROWS, RATE = 10, 32, 0.2


def fitted_ngrams(
    texts: Sequence[str],
    labels: Sequence[int],
    count: int,
    *,
    weights: Sequence[float] | None = None,
) -> Ngrams:
    """Return what the n-grams of texts say of their labels, numbers below `count`; a text's loss has its weight.

    Each text is seen `EPOCHS` times, the rate of AdaGrad (Duchi et al. 2011) falling to nothing.
    """
    grams = [n_grams(text) for text in texts]
    known = _known(grams, most=max(1, MOST_WEIGHTS // count))
    ngrams = Ngrams(known, np.zeros((len(known) + 1, count), dtype=np.float32))
    places = [torch.from_numpy(ngrams.places(each)) for each in grams]
    truth, shares = torch.tensor(labels), torch.tensor(weights or [1.0] * len(texts))
    vectors = torch.from_numpy(ngrams.vectors).requires_grad_()
    squares = torch.zeros_like(vectors)
    random = np.random.default_rng(0)
    orders = [random.permutation(len(texts)) for _ in range(EPOCHS)]
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


def _logits(places: Sequence[torch.Tensor], vectors: torch.Tensor) -> torch.Tensor:
    sizes = torch.tensor([len(each) for each in places])
    starts = sizes.cumsum(0) - sizes
    sums = F.embedding_bag(torch.cat(list(places)), vectors, starts, mode="sum", sparse=True)
    return sums / sizes.sqrt()[:, None]
