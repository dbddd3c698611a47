"""What the machine offers, decided once and said in one line.

Device, arithmetic, threads, compiled or not, and how memory is kept. Each has a flag that decides instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib.util
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gencli.errors import MachineError
from gencli.kernels.team import cores
from gencli.model.device import find_device

# What compiling gains, as a share of a run's time, and costs: see the record of the recipe in tests/benchmarks.
# On a CPU the costly parts are single functions already; the figure for a GPU is a guess.
COMPILED_GAIN = {"cpu": 0.0, "cuda": 0.3}
COMPILING_SECONDS = 40.0
COMPILED_BEFORE_SECONDS = 8.0  # the same with everything in the cache on disk

_BFLOAT16_PAYS_FROM = 1.3  # times as fast as float32
_PROBE = (512, 512, 256)  # rows, columns and depth of the product that compares them
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16 over float32 weights"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Weights and optimizer state are float32 always."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    compiled: bool = False
    marker: Path | None = None  # a file that tells later runs that this work is in the compiler's cache
    trouble: str = ""  # what the compiler said when it failed

    def precision(self) -> AbstractContextManager[object]:
        """Return a block in which matrix products use `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def precision_name(self) -> str:
        """Return what --precision calls the arithmetic."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def describe(self) -> str:
        """Return the decision in a few words."""
        where = (
            f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            if self.device.type == "cpu"
            else torch.cuda.get_device_name(self.device)
        )
        how = "compiled" if self.compiled else "eager"
        if self.trouble:
            how += f" because compiling failed ({self.trouble[:120]})"
        return f"{self.device.type}, {_NAMES[self.dtype]}, {where}, {how}"

    def mark_compiled(self) -> None:
        """Let later runs know that the compiler's cache holds this work."""
        if self.marker is not None:
            with contextlib.suppress(OSError):
                self.marker.touch()


def choose_runtime(device: str = "auto", *, precision: str = "auto", threads: int = 0) -> Runtime:
    """Decide device, arithmetic and threads, and set torch's threads and the process's allocator.

    Raises MachineError, with what there is, when the device asked for is not there.
    """
    chosen = find_device(device)
    wanted = threads or min(torch.get_num_threads(), cores())
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    keep_memory(chosen)
    dtype = DTYPES.get(precision, torch.float32)
    if precision == "auto" and bfloat16_gain(chosen) >= _BFLOAT16_PAYS_FROM:
        dtype = torch.bfloat16
    return Runtime(chosen, dtype, wanted)


def bfloat16_gain(device: torch.device) -> float:
    """Return how many times as fast as in float32 a matrix product is in bfloat16, measured in a moment."""
    if device.type == "cuda":
        return 2.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 0.0
    return _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    rows, columns, depth = _PROBE
    a, b = torch.ones(rows, depth, dtype=dtype), torch.ones(depth, columns, dtype=dtype)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def keep_memory(device: torch.device) -> None:
    """Have freed memory kept for the next step instead of given back to the system and asked for again."""
    if device.type == "cuda":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with contextlib.suppress(OSError, AttributeError):  # a C library without this function
        library = ctypes.CDLL(None)
        library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: blocks below this come from the heap
        library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: the heap shrinks only if so much is free


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector away from the block, and from what is there: a training step makes no cycles.

    What does make some in the block, collects them itself.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def with_compiler(runtime: Runtime, choice: str, *, seconds: float | None, cache: Path, work: str) -> Runtime:
    """Return the runtime with the decision to compile the model or not, for a run of so many seconds.

    `choice` is auto, on or off. `work` names all that compiled code depends on: what an earlier run
    compiled for the same work is found in the folder `cache`.
    Raises MachineError where compiling is asked for and there is no compiler.
    """
    missing = missing_compiler(runtime.device)
    if choice == "on" and missing:
        raise MachineError(
            f"--compile on needs {missing}", kept="nothing was touched", hint="install it, or --compile off"
        )
    work = f"{work} {runtime.dtype} {runtime.threads} {runtime.device.type} {torch.__version__}"
    marker = cache / f"{hashlib.sha256(work.encode()).hexdigest()[:16]}.done"
    cost = COMPILED_BEFORE_SECONDS if marker.exists() else COMPILING_SECONDS
    pays = seconds is not None and seconds * COMPILED_GAIN[runtime.device.type] > cost
    if choice == "off" or missing or not (pays or choice == "on"):
        return runtime
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    return replace(runtime, compiled=True, marker=marker)


def missing_compiler(device: torch.device) -> str:
    """Return what torch.compile lacks on this machine, or nothing."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton"
    named = os.environ.get("CXX")
    found = any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))
    return "" if found else "a C++ compiler"
