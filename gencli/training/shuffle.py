"""A shuffled order of any length in constant memory: each place is computed, none is kept.

A Feistel network permutes the numbers of an even count of bits whatever its round function is; where it leads
out of range, it is applied again (cycle walking). Black and Rogaway 2002, "Ciphers with arbitrary finite
domains". Here it only has to look random, so the round function is a good hash and no cipher.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_ROUNDS = 8  # so that even the order of a few dozen numbers has no pattern
_WORD = (1 << 64) - 1


class Shuffle:
    """A permutation of the numbers below `length`: a pure function of (length, seed, epoch)."""

    def __init__(self, length: int, *, seed: int, epoch: int) -> None:
        self.length = length
        self._half = max(1, ((length - 1).bit_length() + 1) // 2)  # bits; at most 4 times as many numbers
        self._keys = _keys(seed, epoch)

    def at(self, place: int) -> int:
        """Return the number at `place`, which is from 0 to below `length`."""
        number = self._permuted(place)
        while number >= self.length:
            number = self._permuted(number)
        return number

    def below(self, limit: int) -> int:
        """Return a number from 0 to below `limit` that goes with this order."""
        return self._keys[_ROUNDS] % limit

    def _permuted(self, number: int) -> int:
        mask = (1 << self._half) - 1
        left, right = number >> self._half, number & mask
        for key in self._keys[:_ROUNDS]:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return left << self._half | right


@lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> tuple[int, ...]:
    """Return the keys of the rounds and one more, 64 bits each."""
    return tuple(np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS + 1, np.uint64).tolist())


def _mixed(value: int) -> int:
    """Return a hash of 64 bits in which every bit depends on all bits (the finaliser of SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)
