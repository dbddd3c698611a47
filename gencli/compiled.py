"""Compiles functions with Numba at their first call and keeps the machine code on disk."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., object]")


def compiled(*beside: str, **options: Any) -> Callable[[_Function], _Function]:
    """Return a decorator with Numba's options that keeps the code where some folder can be written.

    Numba forgets it when the file of the function changes, and knows nothing of other files whose functions
    were compiled into it: those are named by `beside`, modules of the same folder.
    """

    def decorate(function: _Function) -> _Function:
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
            return cast("_Function", njit(**options)(function))
        file = dispatcher._cache._cache_file
        folder = Path(inspect.getfile(function)).parent
        file._source_stamp = (file._source_stamp, *(_stamp(folder / f"{name}.py") for name in beside))
        return cast("_Function", dispatcher)

    return decorate


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
