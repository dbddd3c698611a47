"""What the machine offers: device, arithmetic and threads, decided once and said in one line."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from gencli.model.device import find_device

# Below this width a matrix product in bfloat16 gains nothing over float32 on a CPU.
BFLOAT16_FROM_WIDTH = 256


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Weights and optimizer state are float32 always."""

    device: torch.device
    dtype: torch.dtype
    threads: int

    def precision(self) -> AbstractContextManager[object]:
        """Return a block in which matrix products use `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def describe(self) -> str:
        """Return the decision in a few words."""
        arithmetic = {torch.float32: "float32", torch.bfloat16: "bfloat16 over float32 weights"}[self.dtype]
        where = (
            f"{self.threads} threads"
            if self.device.type == "cpu"
            else torch.cuda.get_device_name(self.device)
        )
        return f"{self.device.type}, {arithmetic}, {where}"


def choose_runtime(device: str = "auto", *, precision: str = "auto", threads: int = 0, width: int) -> Runtime:
    """Decide device, arithmetic and threads for a model of the given width, and set torch's threads.

    Raises MachineError, with what there is, when the device asked for is not there.
    """
    chosen = find_device(device)
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    wide = chosen.type == "cuda" or (width >= BFLOAT16_FROM_WIDTH and _fast_bfloat16())
    dtypes = {
        "auto": torch.bfloat16 if wide else torch.float32,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
    }
    return Runtime(chosen, dtypes[precision], torch.get_num_threads())


def _fast_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
