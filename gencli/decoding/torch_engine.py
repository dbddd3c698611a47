"""The engine that runs a GPT with torch, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencli.model.cache import KVCache
from gencli.model.fixed_steps import FixedSteps
from gencli.model.gpt import GPT

FloatArray = NDArray[np.float32]


class TorchEngine:
    """Prefill and cached steps of a GPT; rows of different lengths share a batch.

    With `fixed`, steps have sizes that never change, which a GPU replays as a graph; rows that have ended then stay
    until they are half of the batch. None stands for True on CUDA.
    """

    name = "torch"
    threads = 1

    def __init__(self, model: GPT, *, fixed: bool | None = None) -> None:
        self.model = model.eval()
        self.context, self.vocabulary = model.shape.context, model.shape.vocabulary
        self.device = next(model.parameters()).device
        self._fixed = self.device.type == "cuda" if fixed is None else fixed
        self._cache: KVCache | None = None
        self._places: list[int] = []  # of the rows in the cache
        self._steps: FixedSteps | None = None

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> FloatArray:
        """Read the prompts, padded on the right to one length; return the next logits [B * copies, V]."""
        tokens, lengths = _padded(prompts)
        cache = KVCache(self.model.shape, rows=len(prompts), slots=slots, device=self.device)
        hidden = self.model.hidden(tokens.to(self.device), cache)  # (B, T, C)
        cache.rewind(lengths)
        last = torch.tensor(lengths, device=self.device) - 1
        logits = self.model.lm_head(hidden[torch.arange(len(prompts), device=self.device), last])  # (B, V)
        self._use(cache.fork(copies) if copies > 1 else cache)
        return _array(logits.repeat_interleave(copies, dim=0))

    @torch.no_grad()
    def step(self, tokens: NDArray[np.int64]) -> FloatArray:
        """Add one token to every row; return the next logits [B, V]."""
        assert self._cache is not None
        if not self._fixed:
            logits = self.model(torch.from_numpy(tokens)[:, None].to(self.device), self._cache)  # (B, 1, V)
            return _array(logits[:, -1])
        if self._steps is None:
            self._steps = FixedSteps(self.model, self._cache)
        every = [0] * len(self._cache.lengths)
        for place, token in zip(self._places, tokens.tolist(), strict=True):
            every[place] = token
        return _array(self._steps(every)[self._places])

    @torch.no_grad()
    def extend(self, tokens: Sequence[int], *, after: int) -> FloatArray:
        """Forget all but the first `after` tokens of the only row, read more; return the logits [1, V] then."""
        assert self._cache is not None
        self._cache.rewind([after])
        hidden = self.model.hidden(torch.tensor([list(tokens)], device=self.device), self._cache)  # (1, T, C)
        return _array(self.model.lm_head(hidden[:, -1]))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, given by their places in the batch; they move up in this order."""
        assert self._cache is not None
        self._places = [self._places[row] for row in rows]
        held = len(self._cache.lengths)
        if not self._fixed or held // 2 >= len(rows) or len(set(rows)) < len(rows):
            self._use(self._cache.pick(self._places))

    def _use(self, cache: KVCache) -> None:
        """Go on with this cache, all of whose rows are in use."""
        self._cache, self._places = cache, list(range(len(cache.lengths)))
        self._steps = None

    @torch.no_grad()
    def vectors(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Read the prompts, and keep none; return the normed vectors [B, C] that the head makes logits of."""
        self._cache = self._steps = None
        tokens, lengths = _padded(prompts)
        hidden = self.model.hidden(tokens.to(self.device))  # (B, T, C)
        return _array(hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1])


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Return prompts filled up on the right (B, T), and how long each is."""
    lengths = [len(prompt) for prompt in prompts]
    tokens = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    return tokens, lengths


def _array(numbers: Tensor) -> FloatArray:
    return numbers.float().cpu().numpy()
