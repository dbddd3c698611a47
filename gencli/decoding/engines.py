"""Opens the engine that suits the machine; heavy libraries are imported only for the one that is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.errors import UsageError
from gencli.model.folder import ModelFolder

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine


def open_engine(
    folder: ModelFolder,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Engine:
    """Return an engine with the folder's weights, which are float32 unless `precision` is int8.

    `threads` is at most how many the engine cpu uses; by default it takes all cores.
    Raises UsageError for a CPU engine on another device, and for int8 in another engine than that.
    """
    if engine == "cpu" and device not in ("auto", "cpu"):
        raise UsageError(f"the engine cpu can't run on {device}", hint="--engine torch")
    if engine == "cpu" or (engine == "auto" and device in ("auto", "cpu") and not _has_gpu(device)):
        from gencli.decoding.cpu_engine import CpuEngine

        return CpuEngine(
            folder.shape,
            folder.weights(),
            precision="int8" if precision == "int8" else "float32",
            threads=threads,
            in_place=True,
        )
    if precision == "int8":
        raise UsageError("only the engine cpu computes with int8 weights", hint="--engine cpu")
    from gencli.decoding.torch_engine import TorchEngine
    from gencli.model.device import find_device
    from gencli.model.gpt import GPT

    model = GPT(folder.shape).load(folder.weights())
    return TorchEngine(model.to(find_device(device)))


def _has_gpu(device: str) -> bool:
    """Tell, without importing torch, whether a GPU may be there."""
    from pathlib import Path

    return device == "auto" and Path("/dev/nvidia0").exists()
