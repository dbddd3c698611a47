"""The engine that runs a GPT with torch, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencli.model.cache import KVCache
from gencli.model.gpt import GPT

FloatArray = NDArray[np.float32]


class TorchEngine:
    """Prefill and cached steps of a GPT; rows of different lengths share a batch."""

    name = "torch"
    threads = 1

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.context, self.vocabulary = model.shape.context, model.shape.vocabulary
        self.device = next(model.parameters()).device
        self._cache: KVCache | None = None

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> FloatArray:
        """Read the prompts, padded on the right to one length; return the next logits [B * copies, V]."""
        tokens, lengths = _padded(prompts)
        cache = KVCache(self.model.shape, rows=len(prompts), slots=slots, device=self.device)
        hidden = self.model.hidden(tokens.to(self.device), cache)  # (B, T, C)
        cache.rewind(lengths)
        last = torch.tensor(lengths, device=self.device) - 1
        logits = self.model.lm_head(hidden[torch.arange(len(prompts), device=self.device), last])  # (B, V)
        self._cache = cache.fork(copies) if copies > 1 else cache
        return _array(logits.repeat_interleave(copies, dim=0))

    @torch.no_grad()
    def step(self, tokens: NDArray[np.int64]) -> FloatArray:
        """Add one token to every row; return the next logits [B, V]."""
        hidden = self.model.hidden(
            torch.from_numpy(tokens)[:, None].to(self.device), self._cache
        )  # (B, 1, C)
        return _array(self.model.lm_head(hidden[:, -1]))

    @torch.no_grad()
    def extend(self, tokens: Sequence[int], *, after: int) -> FloatArray:
        """Forget all but the first `after` tokens of the only row, read more; return the logits [1, V] then."""
        assert self._cache is not None
        self._cache.rewind([after])
        hidden = self.model.hidden(torch.tensor([list(tokens)], device=self.device), self._cache)  # (1, T, C)
        return _array(self.model.lm_head(hidden[:, -1]))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        assert self._cache is not None
        self._cache = self._cache.pick(rows)

    @torch.no_grad()
    def vectors(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Read the prompts, and keep none; return the normed vectors [B, C] that the head makes logits of."""
        self._cache = None
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
