"""Functions that Numba compiles once, kept on disk as machine code and called without Numba.

Importing Numba, and letting it find what it keeps, takes longer than a small model takes for a line of text.
Here only LLVM's loader is needed. A function of a module of this folder is named; at its first call with
arguments of some kinds it is compiled for them, or its code is read from a file. It takes arrays by reference
and whole numbers, returns nothing, and may be called by several threads at a time.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gencli import storage
from gencli.errors import MachineError


class Numbers(NamedTuple):
    """A contiguous array that another library holds, by its address; it must stay there until the call is over."""

    address: int
    shape: tuple[int, ...]
    element: str  # as NumPy names it


Argument = npt.NDArray[Any] | Numbers | int
_FOLDER = Path(__file__).parent
_SUFFIX = ".code"
_lock = threading.Lock()


class Code(NamedTuple):
    """Machine code; `missing` are the names that it needs from elsewhere."""

    symbol: str
    missing: list[str]
    machine_code: bytes


class Function:
    """A compiled function by its module and name."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name
        self._loaded: dict[tuple[str, ...], _Loaded] = {}

    def loaded(self, kinds: tuple[str, ...]) -> _Loaded:
        """Return the code for arguments of these kinds."""
        with _lock:
            if kinds not in self._loaded:
                self._loaded[kinds] = _Loaded(_code(self._module, self._name, kinds))
        return self._loaded[kinds]

    def call(self, *arguments: Argument) -> Call:
        """Return a call with these arguments, to be made any number of times."""
        return Call(self, *arguments)


class Call:
    """A function and its arguments; calling it calls the function, and leaves Python's lock meanwhile.

    Arrays must be contiguous; what they hold may change between calls.
    """

    def __init__(self, function: Function, *arguments: Argument) -> None:
        self._arguments = arguments  # they must not be freed
        words: list[int] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                if not argument.flags.c_contiguous:
                    raise ValueError("compiled code takes contiguous arrays")
                words += [argument.__array_interface__["data"][0], *argument.shape]
            elif isinstance(argument, Numbers):
                words += [argument.address, *argument.shape]
            else:
                words.append(int(argument))
        self.block = np.array(words, np.int64)
        self.block_address = self.block.__array_interface__["data"][0]
        self._code = function.loaded(tuple(map(_kind, arguments)))
        self._function = self._code.function

    def point(self, array: npt.NDArray[Any]) -> None:
        """Take another array of the same kind and shape in the place of the first argument."""
        self._first = array
        self.block[0] = array.__array_interface__["data"][0]

    @property
    def function_address(self) -> int:
        """Return where the function's code begins."""
        return _address(self._function)

    def __call__(self) -> None:
        self._function(self.block_address)


def _kind(argument: Argument) -> str:
    """Return the kind of an argument: the element and the dimensions of an array, or int64."""
    if isinstance(argument, np.ndarray):
        return f"{argument.dtype.name} {argument.ndim}"
    return f"{argument.element} {len(argument.shape)}" if isinstance(argument, Numbers) else "int64"


class _Loaded:
    """Code in memory, and its function as ctypes calls it, with the address of a block."""

    def __init__(self, code: Code) -> None:
        from llvmlite import binding

        process = ctypes.CDLL(None)
        for (
            name
        ) in code.missing:  # Numba's own is never called: it reports errors of Python's, which nothing raises
            binding.add_symbol(name, _address(getattr(process, name, process.abort)))
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_machine())
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code.machine_code))
        self._engine.finalize_object()
        self.function = ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._engine.get_function_address(code.symbol))


def _address(function: Any) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _target_machine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(jit=True)


def _code(module: str, name: str, kinds: tuple[str, ...]) -> Code:
    """Return a function's code, from a file if it is there."""
    place = f"{module}.{name}-{_digest(*kinds, *_machine())}-"
    file = place + _digest(_sources()) + _SUFFIX
    for folder in _folders():
        code = _read(folder / file)
        if code is not None:
            return code
    from gencli.kernels.compiling import compiled

    code = compiled(module, name, kinds)
    for folder in _folders():
        if _keep(folder, place, file, code):
            break
    return code


def _read(path: Path) -> Code | None:
    """Return the code in a file, or None if there is none or not all of it."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    head, _, machine_code = rest.partition(b"\n")
    symbol, missing = json.loads(head)
    return Code(symbol, missing, machine_code)


def _keep(folder: Path, place: str, file: str, code: Code) -> bool:
    """Write code to a file in the place of that of older sources, and tell whether that could be done."""
    rest = json.dumps([code.symbol, code.missing]).encode() + b"\n" + code.machine_code
    try:
        storage.replace_file(folder / file, hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
        for older in folder.glob(f"{place}*{_SUFFIX}"):
            if older.name != file:
                storage.remove_file(older)
    except MachineError:
        return False
    return True


def _folders() -> list[Path]:
    """Return where code may be kept: beside this file, or where the user may write."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [_FOLDER / "__pycache__", Path(base) / "gencli" / "code"]


def _machine() -> tuple[str, ...]:
    """Return what code depends on beside its sources: the compiler, and the processor it was made for."""
    import llvmlite
    from llvmlite import binding

    features = binding.get_host_cpu_features().flatten()
    return llvmlite.__version__, binding.get_process_triple(), binding.get_host_cpu_name(), features


@functools.cache
def _sources() -> str:
    """Return a digest of all modules that are compiled: most of them go into every function."""
    return _digest(*(path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.py"))))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
