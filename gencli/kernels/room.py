"""Memory for large arrays, in large pages where the system has them: a processor finds what stands in them sooner."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes of the processor's cache
_PAGE = 2 << 20  # bytes of a large page on most machines


def whole(number: int, step: int) -> int:
    """Return the number, or the next one that is so many times a step."""
    return -(-number // step) * step


class Room:
    """One stretch of memory for several arrays, each of which begins with a line of the processor's cache.

    It is all zeros, and taken from the system only as it is written to. `nbytes` are those of each array.
    """

    def __init__(self, nbytes: Iterable[int]) -> None:
        memory = np.frombuffer(_pages(sum(whole(each, LINE) for each in nbytes) + _PAGE), np.uint8)
        self._bytes = memory[-memory.ctypes.data % _PAGE :]
        self._next = 0

    def take(self, size: Sequence[int], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the next array of this size."""
        start, nbytes = self._next, math.prod(size) * np.dtype(kind).itemsize
        self._next += whole(nbytes, LINE)
        return self._bytes[start : start + nbytes].view(kind).reshape(size)


def _pages(nbytes: int) -> mmap.mmap:
    """Return fresh memory of this process alone: what processes might share, Linux mostly leaves in small pages."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
