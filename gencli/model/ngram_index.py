"""An index of texts by their characters' n-grams: how alike a text is to each of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gencli.model.ngrams import MOST_READ, distinct, encoded, hashes_of, n_grams

_AT_ONCE = 1 << 20  # characters of texts whose n-grams are found together
_PLACE_BITS = 16
_LAST = (1 << _PLACE_BITS) - 1


class NgramIndex:
    """N texts; an n-gram that is in n of them weighs 1 + ln((1 + N) / (1 + n)), also one in none of them.

    `known` (G,) are the sorted n-grams; those texts that hold number g are `rows[starts[g] : starts[g + 1]]`, and
    `shares` are its weight in each, over the length of the text's vector.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = len(texts)
        grams, self.rows = grams_and_rows(texts)
        first = np.ones(len(grams), bool)
        first[1:] = grams[1:] != grams[:-1]
        self.known = grams[first]
        self.starts = np.append(np.flatnonzero(first), len(grams))
        counts = np.diff(self.starts)
        self.weights = 1 + np.log((1 + self.texts) / (1 + counts))
        every = np.repeat(self.weights, counts)
        lengths = np.sqrt(np.bincount(self.rows, every**2, minlength=self.texts))
        self.shares = every / lengths[self.rows]

    def cosines(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosines [B, N] of B texts with all that are held."""
        found = np.zeros((len(texts), self.texts), np.float32)
        for row, text in enumerate(texts):
            grams = n_grams(text)
            places = np.searchsorted(self.known, grams)
            places = places[self.known[np.minimum(places, len(self.known) - 1)] == grams]
            strange = (len(grams) - len(places)) * (1 + np.log(1 + self.texts)) ** 2
            counts = np.diff(self.starts)[places]
            ends = counts.cumsum()
            spots = np.arange(counts.sum()) + np.repeat(self.starts[places] - (ends - counts), counts)
            shares = self.shares[spots] * np.repeat(self.weights[places], counts)
            length = np.sqrt((self.weights[places] ** 2).sum() + strange)
            found[row] = np.bincount(self.rows[spots], shares, minlength=self.texts) / length
        return found


def grams_and_rows(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the n-grams of all texts, sorted, each with the number of its text: once for each text it is in."""
    parts = [_of_some(texts, first, end) for first, end in _stretches(texts)]
    if len(parts) == 1:
        return parts[0]
    grams, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(grams, kind="stable")
    return grams[order], rows[order]


def _stretches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of texts whose n-grams are found together."""
    first = characters = 0
    for number, text in enumerate(texts, 1):
        characters += min(len(text), MOST_READ)
        if characters >= _AT_ONCE or number - first > _LAST or number == len(texts):
            yield first, number
            first, characters = number, 0


def _of_some(texts: Sequence[str], first: int, end: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the sorted n-grams of some texts, laid out one after the other, and whose each is.

    An n-gram of 48 bits and the place of its text among these, of 16, are one number to sort.
    """
    data = [encoded(text) for text in texts[first:end]]
    letters = np.frombuffer(b"".join(data), np.uint32)
    owners = np.repeat(
        np.arange(end - first, dtype=np.uint64), [len(each) // letters.itemsize for each in data]
    )
    found = []
    for more, hashes in enumerate(hashes_of(letters)):
        own = owners[: len(hashes)]
        within = own == owners[more:]  # what reaches into the next text is no n-gram
        found.append(hashes[within] << np.uint64(_PLACE_BITS) | own[within])
    joint = distinct(np.concatenate(found))
    return joint >> np.uint64(_PLACE_BITS), (joint & np.uint64(_LAST)).astype(np.int64) + first
