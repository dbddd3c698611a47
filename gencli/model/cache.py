"""The keys and values that attention has already computed, kept for the tokens to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gencli.model.shape import Shape


class KVCache:
    """Keys and values of every layer for B rows of up to S tokens each; rows may differ in length.

    A row's token number i lives in slot i. Slots at or past a row's length hold nothing of meaning: they
    are masked, and overwritten by the row's next tokens. So a batch may be padded on the right and then
    rewound to each row's true length.
    """

    def __init__(self, shape: Shape, *, rows: int, slots: int, device: torch.device | str = "cpu") -> None:
        size = (shape.layers, rows, shape.kv_heads, slots, shape.head_width)
        self.keys = torch.zeros(size, device=device)  # (layers, B, H, S, D)
        self.values = torch.zeros(size, device=device)  # (layers, B, H, S, D)
        self.lengths: list[int] = [0] * rows
        self.slots = slots

    def positions(self, count: int) -> Tensor:
        """Return the positions of each row's next `count` tokens, (B, count) or (1, count) if all rows agree."""
        firsts = self.lengths if self._ragged else self.lengths[:1]
        starts = torch.tensor(firsts, device=self.keys.device)
        return starts[:, None] + torch.arange(count, device=self.keys.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new (B, H, T, D) keys and values; return all that is stored, (B, H, S', D).

        The lengths do not move until `advance`: every layer of one forward pass writes to the same slots.
        """
        count = keys.size(2)
        if self._ragged:
            rows = torch.arange(keys.size(0), device=keys.device)[:, None]
            slots = self.positions(count)  # (B, T)
            self.keys[layer][rows, :, slots] = keys.transpose(1, 2).to(self.keys.dtype)
            self.values[layer][rows, :, slots] = values.transpose(1, 2).to(self.values.dtype)
        else:
            start = self.lengths[0]
            self.keys[layer, :, :, start : start + count] = keys
            self.values[layer, :, :, start : start + count] = values
        end = max(self.lengths) + count
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def mask(self, count: int) -> Tensor | None:
        """Return which slots each of the next `count` tokens may look at, (B or 1, 1, count, S') or None for all."""
        if count == 1 and not self._ragged:
            return None
        slots = torch.arange(max(self.lengths) + count, device=self.keys.device)
        return (slots <= self.positions(count)[:, :, None])[:, None]

    def advance(self, count: int) -> None:
        """Count the next `count` tokens of every row as stored."""
        self.lengths = [length + count for length in self.lengths]

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what lies past each row's given length."""
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths, strict=True)]

    def fork(self, copies: int) -> KVCache:
        """Return a cache in which every row stands `copies` times in a row."""
        return self.pick([row for row in range(len(self.lengths)) for _ in range(copies)])

    def pick(self, rows: Sequence[int]) -> KVCache:
        """Return a cache of the given rows in the given order."""
        other = object.__new__(KVCache)
        index = torch.tensor(rows, device=self.keys.device)
        other.keys = self.keys.index_select(1, index)
        other.values = self.values.index_select(1, index)
        other.lengths = [self.lengths[row] for row in rows]
        other.slots = self.slots
        return other

    @property
    def _ragged(self) -> bool:
        return len(set(self.lengths)) > 1


class FixedCache:
    """The slots of a KVCache for one more token in every row, with sizes that never change.

    `at` (B,) is the slot of each row's token. What a step does then depends on numbers in tensors alone, as a graph
    needs that is captured once and replayed: all slots are looked at, and those past a row's token are masked.
    """

    def __init__(self, cache: KVCache, at: Tensor) -> None:
        self._keys, self._values, self._at = cache.keys, cache.values, at
        self._rows = torch.arange(at.numel(), device=at.device)
        self._slots = torch.arange(cache.slots, device=at.device)

    def positions(self, count: int) -> Tensor:
        """Return the position of each row's token, (B, 1)."""
        return self._at[:, None]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new (B, H, 1, D) keys and values; return all slots, (B, H, S, D)."""
        held = self._keys[layer], self._values[layer]
        for slots, new in zip(held, (keys, values), strict=True):
            slots[self._rows, :, self._at] = new[:, :, 0].to(slots.dtype)
        return held

    def mask(self, count: int) -> Tensor:
        """Return which slots each row's token may look at, (B, 1, 1, S)."""
        return (self._slots <= self._at[:, None])[:, None, None]

    def advance(self, count: int) -> None:
        """Do nothing: the KVCache counts."""


AnyCache: TypeAlias = KVCache | FixedCache
