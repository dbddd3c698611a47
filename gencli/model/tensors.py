"""The weights' file: checked as a whole before a single number of it is read.

A safetensors file is eight bytes that tell the length of its header, the header in JSON, and the numbers
(https://huggingface.co/docs/safetensors). The library takes files that say a thing twice or name a tensor by
control characters; here a header is believed only where it agrees with itself, with the size of the file and
with the shape of the model, so that no number in it makes anything large.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gencli.errors import MachineError, ModelError
from gencli.kernels.room import Room
from gencli.text.json_lines import parsed_file, spelled
from gencli.text.magic import misnamed_kind

LARGEST_HEADER = 8 << 20
MOST_TENSORS = 20_000
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_WRAPPERS = ("_orig_mod.", "module.")  # torch.compile and DistributedDataParallel put these before each name
_NUMBERS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_KEYS = {"dtype", "shape", "data_offsets"}
_LISTED = 5
_MOST_COUNT = 1 << 53
_FRAME = 8  # bytes before the header
_START_BYTES = 512
_AGAIN = "copy or download the file again"


class Stored(NamedTuple):
    """Where a tensor stands in the file, counted from the end of the header, and in which form."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header makes sense."""

    path: Path
    tensors: Mapping[str, Stored]
    data_at: int

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ModelError unless the file holds exactly these tensors, each in its shape."""
        where = str(self.path)
        for wrapper in _WRAPPERS:
            if any(name.startswith(wrapper) for name in self.tensors):
                raise ModelError(
                    f"the names of the tensors begin with {wrapper!r}",
                    where=where,
                    hint=f"save the model's own weights, without the wrapper that puts {wrapper!r} there",
                )
        missing = [name for name in expected if name not in self.tensors]
        unknown = [name for name in self.tensors if name not in expected]
        if missing or unknown:
            parts = [("missing", missing), ("unknown", unknown)]
            told = "; ".join(f"{what}: {_listed(names)}" for what, names in parts if names)
            raise ModelError(
                f"these are not the tensors that config.json describes; {told}",
                where=where,
                hint="weights and config.json must be of one model",
            )
        for name, shape in expected.items():
            if self.tensors[name].shape != shape:
                raise ModelError(
                    f"{name} has the shape {self.tensors[name].shape}, not {shape}",
                    where=where,
                    hint="weights and config.json must be of one model",
                )

    def arrays(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield each tensor with its name, as float32. Raises ModelError for what is no finite number.

        All stand in one stretch of memory: large pages hold it, which a processor finds sooner.
        """
        room = Room(4 * prod(stored.shape) for stored in self.tensors.values())
        with _told(self.path), self.path.open("rb", buffering=0) as file:
            for name, stored in self.tensors.items():
                array = room.take((prod(stored.shape),), np.float32)
                file.seek(self.data_at + stored.start)
                if not _filled(array, file, stored.dtype):
                    raise ModelError(
                        "the file became shorter while it was read", where=str(self.path), hint=_AGAIN
                    )
                with np.errstate(invalid="ignore"):
                    is_finite = bool(np.isfinite(array.sum(dtype=np.float64)))
                if not is_finite:
                    raise ModelError(
                        f"{name} holds numbers that are not finite",
                        where=str(self.path),
                        hint="use an earlier copy of the model: this one can't write text",
                    )
                yield name, array.reshape(stored.shape)


def _filled(array: NDArray[np.float32], file: io.FileIO, dtype: str) -> bool:
    """Fill an array with the next numbers of a file; return whether there are so many."""
    raw: NDArray[Any] = (
        array if dtype == "F32" and sys.byteorder == "little" else np.empty(array.size, _NUMBERS[dtype])
    )
    view, read = raw.view(np.uint8).data, 0
    while read < len(view) and (more := file.readinto(view[read:])):
        read += more
    if raw is not array:
        array[:] = _single(raw, dtype)
    return read == len(view)


def open_tensors(path: Path) -> TensorFile:
    """Read and check the header. Raises ModelError for whatever is no safetensors file of a model's numbers."""
    where = str(path)
    with _told(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("the weights are not in a regular file", where=where)
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
            length = int.from_bytes(start[:_FRAME], "little")
            _check_frame(start, length, status.st_size, where)
            file.seek(_FRAME)
            header = parsed_file(file.read(length), name=f"{where} (header)", kind=ModelError)
    tensors = _checked(header, status.st_size - _FRAME - length, where)
    return TensorFile(path, tensors, _FRAME + length)


def _check_frame(start: bytes, length: int, size: int, where: str) -> None:
    """Raise ModelError unless the file begins like a safetensors file whose header fits into it."""
    if not start:
        raise ModelError("the file of the weights is empty", where=where, hint=_AGAIN)
    if start[_FRAME : _FRAME + 1] != b"{":
        kind, hint = misnamed_kind(start)
        if "zip" in kind or "pickle" in kind:
            hint = "a PyTorch checkpoint can run code when it is read: gencli takes safetensors files alone"
        raise ModelError(
            f"this is {kind}, not a safetensors file" if kind else "this is no safetensors file",
            where=where,
            hint=hint or _AGAIN,
        )
    if length > LARGEST_HEADER:
        raise ModelError(f"the header says that it has {length:,} bytes: too many", where=where, hint=_AGAIN)
    if length > size - _FRAME:
        raise ModelError(
            f"the file was cut short: {size:,} bytes, and the header alone needs {length + _FRAME:,}",
            where=where,
            hint=_AGAIN,
        )


def _checked(header: Mapping[str, object], nbytes: int, where: str) -> dict[str, Stored]:
    """Return what a header says; ModelError unless its tensors fill the file's bytes without gap or overlap."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MOST_TENSORS:
        raise ModelError(f"{len(entries):,} tensors are more than a model has", where=where)
    tensors = {name: _stored(name, entry, where) for name, entry in entries.items()}
    end = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if stored.start != end:
            raise ModelError(
                f"{name} does not begin where the tensor before it ends", where=where, hint=_AGAIN
            )
        end = stored.end
    if end != nbytes:
        raise ModelError(
            f"the file was damaged: {nbytes:,} bytes of numbers, the header tells of {end:,}",
            where=where,
            hint=_AGAIN,
        )
    return tensors


def _stored(name: str, entry: object, where: str) -> Stored:
    """Return one entry of a header. Raises ModelError if it is not what a program writes."""
    if not _NAME.fullmatch(name):
        raise ModelError(f"a tensor has the odd name {name[:40]!r}", where=where)
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        _refuse(name, "is not described by dtype, shape and data_offsets", where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _NUMBERS:
        _refuse(name, f"has numbers of the type {spelled(dtype)}; gencli reads {', '.join(_NUMBERS)}", where)
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        _refuse(name, "has a shape or an offset that is no whole number", where)
    start, end = offsets
    if end - start != prod(shape) * np.dtype(_NUMBERS[dtype]).itemsize:
        _refuse(name, f"takes {end - start:,} bytes, which is not what its shape {shape} needs", where)
    return Stored(dtype, tuple(shape), start, end)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    """Tell whether a value from JSON is a short list of whole numbers from 0 on."""
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(
            isinstance(part, int) and not isinstance(part, bool) and 0 <= part < _MOST_COUNT for part in value
        )
    )


def _refuse(name: str, why: str, where: str) -> NoReturn:
    raise ModelError(f"the tensor {name} {why}", where=where)


def _single(raw: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    """Return numbers in single precision; those of BF16 are the upper halves of such numbers."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32, copy=False)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a MachineError."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MachineError(f"the weights can't be read: {reason}", where=str(path)) from error
