"""Many prompts: which go together in a batch, and results in the order of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCHES_AHEAD = 16  # so many batches' prompts are sorted by length at a time


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one shorter; no more than one list is held."""
    rest = iter(items)
    while window := list(islice(rest, size)):
        yield window


def batches_by_length(
    items: Sequence[Item], length: Callable[[Item], int], rows: int
) -> Iterator[list[Item]]:
    """Yield all items in batches of at most `rows`, the shortest first: a batch waits for its longest."""
    yield from windows(sorted(items, key=length), rows)


def in_order(results: Iterable[tuple[int, Result]], order: Iterable[int]) -> Iterator[Result]:
    """Yield the results in the `order` of their numbers, each as soon as those before it are there."""
    waiting: dict[int, Result] = {}
    expected = iter(order)
    following = next(expected, None)
    for number, result in results:
        waiting[number] = result
        while following is not None and following in waiting:
            yield waiting.pop(following)
            following = next(expected, None)
