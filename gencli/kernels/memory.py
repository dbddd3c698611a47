"""The flat arrays in which the words of a text are remembered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32]
Slots = npt.NDArray[np.uint64]

MARK = 0xFE  # between two texts; no byte of UTF-8
AT_ONCE = 128  # words that are looked up together


class Words(NamedTuple):
    """Words by number, in the order in which they were first met, and a hash table that finds them."""

    met: Counts  # (1,) how many there are
    slots: Slots  # (a power of two,) number + 1 below 32 bits of the hash, or 0
    starts: Numbers  # (most + 1,) where the bytes of each begin
    letters: Bytes  # the bytes of all, one after the other
    id_starts: Numbers  # (most + 1,) where the ids of each begin
    ids: Numbers  # the ids of all, one after the other


def no_words(most: int, nbytes: int) -> Words:
    """Return room for `most` words of `nbytes` bytes in all; memory is taken as it fills."""
    return Words(
        met=np.zeros(1, np.int64),
        slots=np.zeros(1 << (2 * most - 1).bit_length(), np.uint64),
        starts=np.zeros(most + 1, np.int32),
        letters=np.empty(nbytes, np.uint8),
        id_starts=np.zeros(most + 1, np.int32),
        ids=np.empty(nbytes + 1, np.int32),  # no piece is shorter than a byte; a mark has two ids
    )
