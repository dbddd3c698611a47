"""What the n-grams of a text's characters say of its label: evidence beside that of a model.

    ngrams.safetensors   hashes (2, N): the upper and lower 24 bits of N sorted numbers;
                         vectors (N + 1, K): what each n-gram says of K labels, and a text of which none is known;
                         bias (K): what is added for each label

The logits of a text are the sum of its different n-grams' vectors, over the root of their number, and the bias: a
linear model such as fastText's (Joulin et al. 2017), of characters in place of words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencli.errors import ModelError
from gencli.model.tensors import open_tensors
from gencli.storage import staged_file

NGRAMS = "ngrams.safetensors"
LONGEST = 4  # characters
MOST_READ = 4096  # characters of a text, the last ones, as a model reads the end of what is too long
_HALF = 24  # bits that a single-precision number holds exactly
_FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_FOLD, _KEPT = np.uint64(31), np.uint64(64 - 2 * _HALF)


@dataclass(frozen=True)
class Ngrams:
    """Known n-grams' hashes (N,), sorted, the vectors (N + 1, K) of these and of a text with none, and the bias."""

    known: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]  # (K,)

    @property
    def labels(self) -> int:
        """Return K."""
        return int(self.vectors.shape[1])

    def places(self, grams: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return which vectors are those of a text's n-grams: the last one if none of these is known."""
        places = np.searchsorted(self.known, grams)
        inside = places < len(self.known)
        places = places[inside]
        places = places[self.known[places] == grams[inside]]
        return places if len(places) else np.array([len(self.known)])

    def logprobs(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the natural logarithm of each label's probability [texts, labels]."""
        found = np.empty((len(texts), self.labels))
        for row, text in enumerate(texts):
            places = self.places(n_grams(text))
            logits = self.vectors[places].sum(axis=0, dtype=np.float64) / math.sqrt(len(places))
            logits += self.bias
            logits -= logits.max()
            found[row] = logits - np.log(np.exp(logits).sum())
        return found


def n_grams(text: str) -> NDArray[np.uint64]:
    """Return the hashes, of 48 bits and sorted, of the different n-grams at the end of a text, in small letters."""
    letters = np.frombuffer(encoded(text), np.uint32)
    return distinct(np.concatenate(list(hashes_of(letters))))


def encoded(text: str) -> bytes:
    """Return what is read of a text: its end in small letters, a space before and after, 4 bytes each."""
    return f" {text[-MOST_READ:].lower()} ".encode("utf-32-le", "replace")


def hashes_of(letters: NDArray[np.uint32]) -> Iterator[NDArray[np.uint64]]:
    """Yield the hashes of the n-grams of one letter at each place, then of two, to the longest."""
    codes = letters.astype(np.uint64) + 1
    hashes = np.zeros_like(codes)
    for length in range(1, min(LONGEST, len(codes)) + 1):
        hashes = hashes[: len(codes) - length + 1] * _FACTORS[0] + codes[length - 1 :] * _FACTORS[1]
        hashes ^= hashes >> _FOLD
        yield hashes >> _KEPT


def distinct(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sort hashes where they stand, and return each once: sooner than np.unique does."""
    hashes.sort()
    return np.asarray(hashes[np.append(True, hashes[1:] != hashes[:-1])], np.uint64)


def write_ngrams(path: Path, ngrams: Ngrams) -> None:
    """Keep n-grams in a model folder. Raises MachineError when the disk refuses."""
    from safetensors.numpy import save_file

    halves = [ngrams.known >> np.uint64(_HALF), ngrams.known & np.uint64((1 << _HALF) - 1)]
    with staged_file(path / NGRAMS) as staging:
        hashes = np.stack(halves).astype(np.float32)
        save_file({"hashes": hashes, "vectors": ngrams.vectors, "bias": ngrams.bias}, staging)


def read_ngrams(path: Path) -> Ngrams:
    """Return the n-grams in a model folder. Raises ModelError if the file holds anything else."""
    file = open_tensors(path / NGRAMS)
    vectors = file.tensors.get("vectors")
    rows, labels = vectors.shape if vectors is not None and len(vectors.shape) == 2 else (1, 1)
    file.check({"hashes": (2, rows - 1), "vectors": (rows, labels), "bias": (labels,)})
    arrays = dict(file.arrays())
    if not np.all((arrays["hashes"] >= 0) & (arrays["hashes"] < 1 << _HALF)):
        raise ModelError(
            "these are not the hashes of n-grams", where=str(path / NGRAMS), hint="copy the model again"
        )
    upper, lower = arrays["hashes"].astype(np.uint64)
    return Ngrams((upper << np.uint64(_HALF)) | lower, arrays["vectors"], arrays["bias"])
