"""How good an answer is: a number from an exact match, a regular expression, or a function of the user's own.

A function is the user's own code and runs as such: nothing holds it back. It is found where the user points to
and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

from gencli.errors import RewardError, UsageError
from gencli.text.prompts import Prompt

_SHOWN = 60  # characters of a text in an error


class Reward(Protocol):
    """Tells how good an answer to a prompt is. `digest` is of all that the number depends on."""

    words: str
    digest: str

    def __call__(self, prompt: Prompt, answer: str) -> float: ...


class ExactMatch:
    """1 for the answer that the pair has, spaces at both ends aside, and 0 for any other."""

    words = "exact match"
    digest = "exact"

    def __call__(self, prompt: Prompt, answer: str) -> float:
        return float(answer.strip() == prompt.expected.strip())


class PatternMatch:
    """1 for an answer in which a regular expression is found, 0 for any other. Raises UsageError for a bad one."""

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(
                f"--reward-pattern is no regular expression: {error}", where=pattern, hint="see Python's re"
            ) from error
        self.words, self.digest = f"the pattern {pattern}", f"pattern {pattern}"

    def __call__(self, prompt: Prompt, answer: str) -> float:
        return float(self._pattern.search(answer) is not None)


class OwnFunction:
    """What a function of the user's returns for (prompt, answer) or (prompt, answer, completion).

    `name` is module:function or file.py:function. Raises RewardError, with the place, for what can't be found,
    raises, or returns no finite number.
    """

    def __init__(self, name: str) -> None:
        place, colon, function = name.rpartition(":")
        if not colon or not place or not function.isidentifier():
            raise UsageError(
                f"--reward-function names no function: {name!r}",
                hint="write it like rewards.py:score or module:score",
            )
        module, self._file = _opened(place)
        found = getattr(module, function, None)
        if not callable(found):
            others = [
                each for each, value in vars(module).items() if inspect.isfunction(value) and each[0] != "_"
            ]
            raise RewardError(
                f"there is no function {function!r}",
                where=self._file or place,
                hint=f"it has: {', '.join(others[:8])}" if others else "define it there",
            )
        self._function: Callable[..., object] = found
        self._takes = _parameters(found, function, self._file or place)
        self.words = f"the function {name}"
        code = Path(self._file).read_bytes() if self._file else name.encode()
        self.digest = f"function {function} {hashlib.sha256(code).hexdigest()}"

    def __call__(self, prompt: Prompt, answer: str) -> float:
        given = (prompt.text, answer, prompt.expected)[: self._takes]
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for events
                value = self._function(*given)
        except (Exception, SystemExit) as error:
            raise RewardError(
                f"the reward function raised {type(error).__name__}: {error}",
                where=f"{self._place(error)} for {_excerpt(prompt.text)} and {_excerpt(answer)}",
                hint="catch it there and return a number for such an answer",
            ) from error
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, str | bytes) or not math.isfinite(number):
            raise RewardError(
                f"the reward function returned {_excerpt(value)}, which is no finite number",
                where=f"{self._file or self.words} for {_excerpt(prompt.text)} and {_excerpt(answer)}",
                hint="return a number such as 0.0 or 1.0 for every answer",
            )
        return number

    def _place(self, error: BaseException) -> str:
        """Return the line of the user's own file that an error came through last."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == self._file] or frames
        return f"{own[-1].filename}:{own[-1].lineno}"


def _opened(place: str) -> tuple[ModuleType, str]:
    """Return a module, by the path of its file or by its name, and its file. Raises RewardError."""
    path = Path(place)
    is_file = path.suffix == ".py" or os.sep in place
    if is_file and not path.is_file():
        raise RewardError("there is no such file", where=place, hint="give the path of a .py file")
    try:
        with (
            contextlib.redirect_stdout(sys.stderr),
            _beside(path.resolve().parent if is_file else Path.cwd()),
        ):
            module = _from_file(path.resolve()) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and place.startswith(error.name):
            raise RewardError(
                f"there is no module {place!r}",
                where=str(Path.cwd()),
                hint="or name a file: rewards.py:score",
            ) from error
        frames = [f for f in traceback.extract_tb(error.__traceback__) if path.name in f.filename]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        raise RewardError(
            f"the reward's file can't be loaded: {type(error).__name__}: {error}",
            where=f"{place}:{line}" if line else place,
        ) from error
    return module, str(getattr(module, "__file__", "") or "")


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let the modules of a folder be found for the time of the block, as a script of that folder finds them."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _parameters(function: Callable[..., object], name: str, where: str) -> int:
    """Return whether a function takes 3 texts or 2. Raises RewardError if it takes neither."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 3
    for count in (3, 2):
        with contextlib.suppress(TypeError):
            signature.bind(*[""] * count)
            return count
    raise RewardError(
        f"{name}{signature} can't be called with a prompt and an answer",
        where=where,
        hint=f"define it as {name}(prompt, answer) or {name}(prompt, answer, completion)",
    )


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
