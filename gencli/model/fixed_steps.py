"""Steps of one token a row whose sizes never change: on a GPU they are captured once as a graph, and replayed.

A step of a small model is hundreds of little pieces of work, and a GPU waits for Python to ask for each of them;
a graph asks for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gencli.model.cache import FixedCache, KVCache
from gencli.model.gpt import GPT


class FixedSteps:
    """Steps of all rows of a cache, of which some may have ended: those compute on, and nobody looks.

    On CUDA the second step is captured: what is asked for one step only, as by a beam search, isn't worth a graph.
    """

    def __init__(self, model: GPT, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._inputs = torch.zeros(2, len(cache.lengths), dtype=torch.long, device=cache.keys.device)
        self._view = FixedCache(cache, self._inputs[1])
        self._graph: torch.cuda.CUDAGraph | None = None
        self._begun = False
        self._logits = torch.empty(0)

    @torch.no_grad()
    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """Add one token to every row; return the next logits (B, V), which hold until the next step."""
        slots = [min(length, self._cache.slots - 1) for length in self._cache.lengths]
        self._inputs.copy_(torch.tensor([list(tokens), slots]))
        if self._graph is None and self._begun and self._inputs.is_cuda:
            self._graph = self._captured()
        if self._graph is None:
            self._logits = self._compute()
        else:
            self._graph.replay()
        self._begun = True
        self._cache.advance(1)
        return self._logits

    def _compute(self) -> Tensor:
        """Return the logits (B, V) from what stands in the inputs. Done twice, it leaves the same behind."""
        return self._model(self._inputs[0][:, None], self._view)[:, -1]  # type: ignore[no-any-return]

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Return the graph of a step, made on a stream where libraries have taken their memory before."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._compute()
        return graph
