"""How much memory a training process takes, how much there is, and how many rows fit at once."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import torch

from gencli.errors import MachineError
from gencli.model.fused import LONGEST_STORED
from gencli.model.shape import Shape
from gencli.training.runtime import Runtime

PROCESS_BYTES = 450 << 20  # of a process that has torch loaded and has done nothing yet


def memory_of(shape: Shape, rows: int, runtime: Runtime) -> int:
    """Return about how many bytes a training process takes with so many rows in a forward pass.

    Weights, gradients, optimizer state and what an update works on are float32, about 4.5 numbers a weight.
    Each block keeps for the backward pass its vectors, its inner layer and, below `LONGEST_STORED` tokens,
    its attention shares. Logits are there in several forms at once.
    """
    kept = 2 if runtime.dtype == torch.bfloat16 else 4
    tokens = rows * shape.context
    attention = shape.heads * min(shape.context, LONGEST_STORED) // 2
    block = 4 * 2 * shape.width + kept * (8 * shape.width + 5 * shape.hidden + attention)
    logits = shape.vocabulary * (kept + 14)
    return PROCESS_BYTES + 18 * shape.parameters + tokens * (shape.layers * block + logits)


def check_memory(shape: Shape, runtime: Runtime) -> None:
    """Raise MachineError, before anything is made, for a model that can't be trained even one row at a time."""
    needed, free = memory_of(shape, 1, runtime) - PROCESS_BYTES, free_bytes(runtime.device)
    if needed > free:
        raise MachineError(
            f"a model of {shape.parameters:,} parameters needs about {needed / 1e9:,.1f} GB of memory to be trained",
            where=f"{runtime.device.type}: {free / 1e9:,.1f} GB are free",
            kept="nothing was touched",
            hint="a smaller --size, or fewer --layers or less --width",
        )


def fitting_rows(shape: Shape, runtime: Runtime) -> int:
    """Return how many rows fit into three quarters of the memory that is free: a power of two, at least 1."""
    free = 0.75 * free_bytes(runtime.device)
    rows = 1 << 16
    while rows > 1 and memory_of(shape, rows, runtime) > free:
        rows //= 2
    return rows


def free_bytes(device: torch.device) -> float:
    """Return how many bytes of memory are free, without end where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        return 1024.0 * int(free.split()[1])
    return math.inf
