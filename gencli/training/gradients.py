"""The gradient of a batch's mean loss, made by all processes together.

Each process takes its share of the rows. DistributedDataParallel adds up what they find while the backward
pass still runs; a sharded model does the same for the part of the weights that each process keeps.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch
from gencli.training.objective import Objective
from gencli.training.runtime import Runtime
from gencli.training.sharding import is_sharded
from gencli.training.world import World


class Gradients:
    """Leaves the gradient of a step's batch in the parameters: in every process the same, or its shard of it.

    With a runtime that says so, the model is compiled for batches like `example`; where that fails, `runtime`
    is then the one that is used instead.
    """

    def __init__(
        self, model: GPT, runtime: Runtime, world: World, *, seed: int, rows_at_once: int, example: Batch,
        objective: Callable[[GPT], Objective] = Objective,
    ) -> None:  # fmt: skip
        self.model, self.runtime, self.world = model, runtime, world
        self.seed, self.rows_at_once = seed, rows_at_once
        self._make = objective
        self._plain = objective(model)
        self._objective: nn.Module = self._plain
        if runtime.compiled:
            self._compile(portions(example, world.rank, world.size, rows_at_once)[0])
        if world.size > 1 and not is_sharded(model):
            self._objective = self._parallel(example)

    def backward(self, batch: Batch, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradient of the batch's mean loss to the parameters; return that loss and the mean figures.

        Dropout is a function of (seed, step, process).
        """
        weight = self._plain.weight(batch)
        parts = portions(batch, self.world.rank, self.world.size, self.rows_at_once)
        sums = [0.0] * (1 + len(self._plain.figures))
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            drawn = np.random.SeedSequence([self.seed, step, self.world.rank])
            torch.manual_seed(int(drawn.generate_state(1)[0]))
            for number, part in enumerate(parts, start=1):
                with self._alone() if number < len(parts) else contextlib.nullcontext():
                    loss, figures = self._found(part)
                    # What the processes find is averaged, and the mean over the whole batch is wanted.
                    (loss * self.world.size / weight).backward()  # type: ignore[no-untyped-call]
                sums = [
                    total + found for total, found in zip(sums, (loss.item(), *figures.tolist()), strict=True)
                ]
        mean, *means = (total / weight for total in self.world.total(*sums))
        return mean, dict(zip(self._plain.figures, means, strict=True))

    def _found(self, rows: Batch) -> tuple[Tensor, Tensor]:
        device = self.runtime.device
        more = {name: torch.from_numpy(values).to(device) for name, values in rows.more.items()}
        with self.runtime.precision():
            loss, figures = self._objective(
                torch.from_numpy(rows.tokens).to(device), torch.from_numpy(rows.targets).to(device), **more
            )
        return loss, figures

    def _compile(self, rows: Batch) -> None:
        """Compile forward and backward pass, and run both once without teaching anything."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own, about its own parts
                self._objective.compile(dynamic=False)
                self._found(_nothing(rows, len(rows.tokens)))[0].backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever a compiler may raise: the run goes on without it
            torch.compiler.reset()
            self._objective = self._plain = self._make(self.model)
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

    def _parallel(self, example: Batch) -> nn.Module:
        if self.runtime.device.type == "cuda":
            torch.cuda.set_device(self.runtime.device)
        wrapped = nn.parallel.DistributedDataParallel(
            self._objective, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        # The first backward pass fixes the order in which gradients are added. One that teaches nothing, made
        # before any that counts, gives a resumed run the order of the run that went straight on.
        self._objective = wrapped
        for _ in range(2):
            self._found(_nothing(example, 1))[0].backward()  # type: ignore[no-untyped-call]
        for parameter in self.model.parameters():
            parameter.grad = None
        return wrapped


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _rows(batch: Batch, start: int, end: int) -> Batch:
    """Return some rows of a batch."""
    more = {name: values[start:end] for name, values in batch.more.items()}
    return Batch(batch.tokens[start:end], batch.targets[start:end], batch.size, more)


def _nothing(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch without anything to learn in them."""
    part = _rows(batch, 0, rows)
    return replace(part, targets=np.full_like(part.targets, IGNORED))


def portions(batch: Batch, rank: int, size: int, rows_at_once: int) -> list[Batch]:
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
            parts.append(_rows(batch, start, end))
        else:
            parts.append(_nothing(batch, 1))
    return parts
