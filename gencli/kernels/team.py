"""Jobs of compiled code that several threads do together.

Helpers wait in compiled code for the next job, a millisecond or two, and then asleep. A job begins with those that
wait at that moment: nobody is waited for, and a job that finds nobody is done by one thread.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from pathlib import Path

import numpy as np

from gencli.kernels.machine_code import Argument, Call, Function

_WORDS = 8  # of a helper: a line of the processor's cache
_PATIENCE = 50_000  # turns
_MOMENT = 1e-4  # seconds
_serve, _run = Function("crew", "serve"), Function("crew", "run")


@functools.cache
def cores() -> int:
    """Return how many cores this process may use: what it is bound to, and its group's share of time."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            found = min(found, -(-int(quota) // int(period)))
    return max(1, found)


class _Helpers:
    """Threads that wait for jobs, one fewer than there are cores."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.words = np.zeros((cores() - 1, _WORDS), np.int64)
        self._awake = [threading.Event() for _ in self.words]
        for words, awake in zip(self.words, self._awake, strict=True):
            serve = _serve.call(words, _PATIENCE)
            threading.Thread(target=self._wait, args=(serve, awake), daemon=True).start()

    @staticmethod
    def _wait(serve: Call, awake: threading.Event) -> None:
        while True:
            awake.wait()
            awake.clear()
            serve()

    def wake(self, many: int) -> bool:
        """Wake those of the first helpers who sleep, and tell whether any did."""
        asleep = [
            awake for words, awake in zip(self.words[:many], self._awake, strict=False) if words[0] == 0
        ]
        for awake in asleep:
            awake.set()
        return bool(asleep)


_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _helpers_of(process: int) -> _Helpers:
    """Return the helpers of a process; a fork of it has no threads but its own."""
    return _Helpers()


def _all_helpers() -> _Helpers:
    with _lock:
        return _helpers_of(os.getpid())


def summon(threads: int) -> None:
    """Have helpers ready for a long job: those that sleep are woken, and given a moment to come."""
    helpers = _all_helpers() if threads > 1 else None
    if helpers is not None and helpers.wake(threads - 1):
        time.sleep(_MOMENT)


class Job:
    """A function of compiled code that threads call together.

    Beside the arguments given it takes the job's words, which tell how many threads there are, and the number of
    the thread.
    """

    def __init__(self, function: Function, *arguments: Argument, threads: int) -> None:
        self._words = np.zeros(16, np.int64)
        self._each = [function.call(*arguments, self._words, number) for number in range(threads)]
        addresses = [self._each[0].function_address, *(call.block_address for call in self._each)]
        self._calls, self._most = np.array(addresses, np.int64), np.zeros(1, np.int64)
        self._helpers: _Helpers | None = None

    def __call__(self, threads: int) -> int:
        """Do the job with at most so many threads; return how many did it."""
        threads = min(threads, len(self._each))
        helpers = self._ready() if threads > 1 else None
        if helpers is None or not helpers.busy.acquire(blocking=False):
            self._words[0] = 1
            self._each[0]()
            return 1
        try:
            self._most[0] = threads - 1
            self._together()
            came = int(self._most[0]) + 1
        finally:
            helpers.busy.release()
        if came < threads:
            helpers.wake(threads - 1)
        return came

    def _ready(self) -> _Helpers | None:
        helpers = _all_helpers()
        if helpers is not self._helpers:
            self._helpers = helpers
            self._together = _run.call(helpers.words, self._words, self._calls, self._most)
        return helpers if len(helpers.words) else None
