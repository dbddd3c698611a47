"""Each input is opened in a process forked for it, with little memory and time; what became of it is counted."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from gencli.errors import GencliError
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import RefusedError, Target

CPU_SECONDS = 10
SECONDS = 30.0  # by the clock, on a busy machine
MEMORY = 512 << 20  # beyond what the process has when it is forked
ACCEPTED, REFUSED, TRACEBACK, FULL = 0, 3, 70, 71
OUTCOMES = {ACCEPTED: "accepted", REFUSED: "refused", TRACEBACK: "traceback", FULL: "memory"}
FAILURES = ("signal", "traceback", "memory", "timeout")


@dataclass
class Figures:
    """What became of the inputs of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    slowest: float = 0.0

    def record(self, kind: str) -> dict[str, object]:
        """Return the figures as one JSON object."""
        counts = {name: self.outcomes[name] for name in ("refused", "accepted", *FAILURES)}
        return {
            "event": "fuzz", "kind": kind, "inputs": sum(self.outcomes.values()), **counts,
            "peak_mb": round(self.peak_bytes / 1e6, 1), "slowest_seconds": round(self.slowest, 2),
        }  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of one input; `words` is the traceback or the signal."""

    number: int
    kind: str
    outcome: str
    words: str
    peak_bytes: int
    seconds: float


@dataclass
class _Running:
    number: int
    kind: str
    slot: int
    began: float
    words: int  # the pipe to read them from


class Trials:
    """Makes inputs by their number, and runs `jobs` of them at a time."""

    def __init__(self, targets: list[Target], workplace: Path, seed: int, jobs: int) -> None:
        self.targets, self.seed, self.jobs = targets, seed, jobs
        self._rooms = workplace / "rooms"
        self._address_space = _address_space() + MEMORY
        self._running: dict[int, _Running] = {}

    def input(self, number: int) -> tuple[Target, bytes]:
        """Return the kind and the bytes of an input; the same for the same seed and number."""
        draw = random.Random(f"{self.seed} {number}")
        target = self.targets[number % len(self.targets)]
        data = draw.choice(target.samples)
        if target.packed and draw.random() < 0.5:
            return target, gzip.compress(
                mutated(draw, gzip.decompress(data), (gzip.decompress(data),)), 1, mtime=0
            )
        return target, mutated(draw, data, target.samples)

    def results(self, numbers: range) -> Iterator[Result]:
        """Yield what became of each input, as they end."""
        free = list(range(self.jobs))
        for number in numbers:
            while not free:
                yield from self._ended(free)
            self._start(number, free.pop())
        while self._running:
            yield from self._ended(free)

    def _start(self, number: int, slot: int) -> None:
        target, data = self.input(number)
        room = self._rooms / str(slot) / target.kind
        if not room.exists():
            room.mkdir(parents=True)
            for part in target.room.iterdir() if target.room else ():
                if part.name != target.name:
                    (room / part.name).symlink_to(part)
        path = room / target.name
        path.write_bytes(data)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _open(target, path, writer, self._address_space)
        os.close(writer)
        self._running[pid] = _Running(number, target.kind, slot, time.monotonic(), reader)

    def _ended(self, free: list[int]) -> Iterator[Result]:
        """Yield the result of a process that ended; kill those that take too long."""
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        now = time.monotonic()
        if pid == 0:
            time.sleep(0.0005)
            for late in [pid for pid, each in self._running.items() if now - each.began > SECONDS]:
                os.kill(late, signal.SIGKILL)
            return
        ended = self._running.pop(pid)
        free.append(ended.slot)
        with open(ended.words, "rb") as pipe:  # noqa: PTH123
            words = pipe.read().decode("utf-8", "replace")
        seconds = now - ended.began
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            late = number == signal.SIGXCPU or (number == signal.SIGKILL and seconds > CPU_SECONDS)
            outcome, words = "timeout" if late else "signal", signal.Signals(number).name
        else:
            outcome = OUTCOMES.get(os.WEXITSTATUS(status), "traceback")
        yield Result(ended.number, ended.kind, outcome, words, usage.ru_maxrss << 10, seconds)


def opened(target: Target, path: Path) -> int:
    """Open a file as a command does; return whether it was accepted or refused. Raises what is a failure."""
    try:
        target.open(path)
    except (GencliError, RefusedError):
        return REFUSED
    return ACCEPTED


def _open(target: Target, path: Path, words: int, address_space: int) -> NoReturn:
    """Open a file in this forked process, silently, and end it with what became of it."""
    code = TRACEBACK
    try:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = opened(target, path)
    except MemoryError:
        code = FULL
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(words, traceback.format_exc()[-8000:].encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _address_space() -> int:
    """Return how many bytes of addresses this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
