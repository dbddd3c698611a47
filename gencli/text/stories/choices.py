"""Random choices that are the same on every machine."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Choices:
    """A stream of random choices that is the same in every version of Python.

    Only `random.Random.random` is used: its sequence for a given seed is promised never to change.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, items: Sequence[T]) -> T:
        return items[int(self._random.random() * len(items))]

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different items in random order."""
        left = list(items)
        return [left.pop(int(self._random.random() * len(left))) for _ in range(count)]

    def chance(self, share: float) -> bool:
        return self._random.random() < share
