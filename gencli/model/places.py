"""Some places of a batch laid side by side, so that no work is done for the others.

Rows of a batch are of different length, and few of their places are asked for: of a labelled pair only those
before the answer's tokens. What stands after the last of them in a row, padding too, changes nothing.

Shapes: B rows, T tokens, H heads, D width of a head, F features; N places come in, M go out.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

# Memory is found again sooner, and code that a library makes for products of one size serves again, where there are
# few sizes: of a batch's length, and of the number of places.
LENGTHS, MULTIPLE = 8, 128


class Places:
    """What a block works on, of the places of a batch (B, T), counted through all rows: `comes` (N,), `goes` (M,).

    Both are in rising order, and all that go out have come in.
    """

    def __init__(self, rows: int, length: int, comes: Tensor, goes: Tensor | None = None) -> None:
        self.rows, self.length, self.comes = rows, length, comes
        self.goes = comes if goes is None else goes
        self._carried = None if goes is None else torch.searchsorted(comes, goes)

    def spread(self, x: Tensor) -> Tensor:
        """Return x (N, F) as (B, T, F), zeros at other places."""
        whole = cast(Tensor, _Spread.apply(x, self.comes, self.rows * self.length))  # type: ignore[no-untyped-call]
        return whole.view(self.rows, self.length, x.size(-1))

    def gathered(self, y: Tensor) -> Tensor:
        """Return of y (B, H, T, D) what goes out, (M, H D)."""
        found = cast(Tensor, _Gathered.apply(y, self.goes))  # type: ignore[no-untyped-call]
        return found.flatten(1)

    def carried(self, x: Tensor) -> Tensor:
        """Return of x (N, F) what goes out, (M, F)."""
        return x if self._carried is None else x[self._carried]


def evened(tokens: Tensor, asked: Tensor, *, most: int) -> tuple[Tensor, Tensor]:
    """Return a batch (B, T) filled up to a multiple of `LENGTHS`, or to `most`, and its places that were `asked`."""
    length = tokens.size(1)
    added = min(most, -(-length // LENGTHS) * LENGTHS) - length
    return F.pad(tokens, (0, added)), asked + asked // length * added


def up_to(asked: Tensor, rows: int, length: int) -> Tensor:
    """Return the places (N,) that those which are `asked` (M,) depend on: each row's first up to its last of them.

    Some others fill N up to a multiple of `MULTIPLE`, where there are as many.
    """
    ends = asked.new_zeros(rows).scatter_reduce_(0, asked // length, asked % length + 1, "amax")  # (B,)
    needed = (torch.arange(length, device=asked.device) < ends[:, None]).flatten()
    others = (~needed).nonzero()[:, 0]
    needed[others[: -(rows * length - len(others)) % MULTIPLE]] = True
    return needed.nonzero()[:, 0]


class _Spread(Function):
    """Rows of x written to their places; the gradient is read from there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(count, x.size(-1)).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _Gathered(Function):
    """Vectors (H, D) of y (B, H, T, D) read from their places; the gradient is written there."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = y.shape
        return y.transpose(1, 2)[places // y.size(2), places % y.size(2)]  # (M, H, D)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        B, H, T, D = ctx.size
        whole = gradient.new_zeros(B * T, H, D).index_copy_(0, places, gradient)
        return whole.view(B, T, H, D).transpose(1, 2), None
