"""The gradient of a batch's mean loss, made by all processes together.

Each process takes its share of the rows. DistributedDataParallel adds up what they find while the backward
pass still runs; a sharded model does the same for the part of the weights that each process keeps.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch, total_loss
from gencli.training.runtime import Runtime
from gencli.training.sharding import is_sharded
from gencli.training.world import World

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


class Objective(nn.Module):
    """The loss as a module, so that what wraps it sees the whole backward pass."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return total_loss(self.model, tokens, targets)


class Gradients:
    """Leaves the gradient of a step's batch in the parameters: in every process the same, or its shard of it.

    With a runtime that says so, the model is compiled for batches like `example`; where that fails, `runtime`
    is then the one that is used instead.
    """

    def __init__(
        self, model: GPT, runtime: Runtime, world: World, *, seed: int, rows_at_once: int, example: Batch
    ) -> None:
        self.model, self.runtime, self.world = model, runtime, world
        self.seed, self.rows_at_once = seed, rows_at_once
        self._objective: nn.Module = Objective(model)
        if runtime.compiled:
            self._compile(portions(example, world.rank, world.size, rows_at_once)[0])
        if world.size > 1 and not is_sharded(model):
            self._objective = self._parallel()

    def backward(self, batch: Batch, step: int) -> float:
        """Add the gradient of the batch's mean loss to the parameters; return that loss.

        Dropout is a function of (seed, step, process).
        """
        learned = int((batch.targets != IGNORED).sum())
        parts = portions(batch, self.world.rank, self.world.size, self.rows_at_once)
        nats = 0.0
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            drawn = np.random.SeedSequence([self.seed, step, self.world.rank])
            torch.manual_seed(int(drawn.generate_state(1)[0]))
            for number, (tokens, targets) in enumerate(parts, start=1):
                with self._alone() if number < len(parts) else contextlib.nullcontext():
                    loss = self._loss(tokens, targets)
                    # What the processes find is averaged, and the mean over their targets is wanted.
                    (loss * self.world.size / learned).backward()  # type: ignore[no-untyped-call]
                nats += loss.item()
        return self.world.total(nats)[0] / learned

    def _loss(self, tokens: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensor:
        device = self.runtime.device
        with self.runtime.precision():
            loss: Tensor = self._objective(
                torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device)
            )
        return loss

    def _compile(self, rows: Rows) -> None:
        """Compile forward and backward pass, and run both once without teaching anything."""
        tokens, targets = rows
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about its own parts
                self._objective.compile(dynamic=False)
                self._loss(tokens, np.full_like(targets, IGNORED)).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever a compiler may raise: the run goes on without it
            torch.compiler.reset()
            self._objective = Objective(self.model)
            self.runtime = replace(self.runtime, compiled=False, trouble=_first_line(error))
        else:
            self.runtime.mark_compiled()
        for parameter in self.model.parameters():
            parameter.grad = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep gradients to this process: only the last part of a batch need be exchanged."""
        wrapped = self._objective
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            with wrapped.no_sync():
                yield
        else:
            yield

    def _parallel(self) -> nn.Module:
        if self.runtime.device.type == "cuda":
            torch.cuda.set_device(self.runtime.device)
        wrapped = nn.parallel.DistributedDataParallel(
            self._objective, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        # The first backward pass fixes the order in which gradients are added. One that teaches nothing, made
        # before any that counts, gives a resumed run the order of the run that went straight on.
        nothing = torch.zeros(1, 2, dtype=torch.int64, device=self.runtime.device)
        for _ in range(2):
            wrapped(nothing, nothing + IGNORED).backward()
        for parameter in self.model.parameters():
            parameter.grad = None
        return wrapped


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def portions(batch: Batch, rank: int, size: int, rows_at_once: int) -> list[Rows]:
    """Return a process's rows of a batch in parts of at most `rows_at_once` (0: all).

    The processes' rows follow each other and together are the batch. Each process gets the same number of
    parts, because they meet in each; where one has no rows left, it gets one from which nothing is learned.
    """
    count = len(batch.tokens)
    first, last = rank * count // size, (rank + 1) * count // size
    most = -(-count // size)
    rows = rows_at_once or most
    parts = []
    for start in range(first, first + most, rows):
        end = min(start + rows, last)
        if start < end:
            parts.append((batch.tokens[start:end], batch.targets[start:end]))
        else:
            parts.append((batch.tokens[:1], np.full_like(batch.targets[:1], IGNORED)))
    return parts
