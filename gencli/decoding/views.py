"""A text read in several ways: in the pieces that its tokenizer chooses, and in smaller ones.

A model that was taught with other pieces each time errs in another way on each, and the mean errs less.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gencli.text.splits import Splits, parts_of

if TYPE_CHECKING:
    from gencli.model.folder import ModelFolder


@dataclass(frozen=True)
class Views:
    """So many ways to write a text, the tokenizer's own among them."""

    count: int
    splits: Splits

    def of(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the ids as they are and others of the same text; the same ids give the same every time."""
        random = np.random.default_rng(zlib.crc32(np.array(ids, dtype=np.int32).tobytes()))
        return [list(ids), *(self.splits.drawn(ids, random) for _ in range(self.count - 1))]


def views_of(folder: ModelFolder) -> Views | None:
    """Return in which ways a fine-tuned model reads a text to label it, None if in one."""
    task = folder.task
    return Views(task.views, Splits(parts_of(folder.tokenizer), task.splits)) if task.views > 1 else None
