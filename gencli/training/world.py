"""The processes that train one model together: who they are, and what they must agree on.

torchrun starts them and tells each its place in environment variables. A process that was started alone is
a World of one, in which every call answers at once; it loads nothing of torch.distributed.

Whatever decides how a run goes on (its clock, a signal, a score) is agreed on with small collectives over
the CPU, so that all processes take the same turns. A failure goes another way, through the key-value store
of the rendezvous: a process that leaves early writes its exit code there before its connections close, and
whoever finds a connection closed looks there for the reason. So one process tells the error, and all leave.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gencli.errors import GencliError, MachineError, PeerError, is_memory_full
from gencli.training.meeting import Meeting, is_launched, meet

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for leaving in order after another process failed
HEARING_SECONDS = 2.0
VISIBLE_SECONDS = 10.0  # a shared folder may show a new file late
_FAILED, _HEARD = "gencli/failed", "gencli/heard"
_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|socket", re.IGNORECASE)


class World:
    """A process on its own, and what every world can do."""

    rank, size, local_rank, restarts = 0, 1, 0, 0
    launched = False  # by torchrun, or by what sets the same variables
    launch = ""  # torchrun's name for all that one command line started, restarts included

    @property
    def leads(self) -> bool:
        """Tell whether this is the one process that writes and speaks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the name of the device that is this process's own, where `name` leaves the choice."""
        return name

    def agree(self, stop: int | None, *figures: float) -> tuple[int | None, tuple[float, ...]]:
        """Return the signal that asks any process to stop, and the first process's figures."""
        return stop, figures

    def total(self, *figures: float) -> tuple[float, ...]:
        """Return each figure summed over the processes."""
        return figures

    def told(self, value: Any) -> Any:
        """Return the first process's value, which JSON can hold."""
        return value

    def check(self) -> None:
        """Raise PeerError if another process failed."""

    def await_file(self, path: Path) -> None:
        """Make sure that this process sees a file the first one wrote. Raises MachineError."""

    @contextlib.contextmanager
    def in_turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Run the block in the first process, then in the first of each machine, then in the others.

        Who waits calls `check` all the time; what it raises ends the waiting.
        """
        yield


class Group(World):
    """One process of several that torchrun started."""

    launched = True

    def __init__(self, meeting: Meeting) -> None:
        self.rank, self.size = meeting.rank, meeting.size
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
        self._machine = os.environ.get("GROUP_RANK", "0")
        self._store, self._told, self._turns = meeting.store, 0, 0
        self._left = threading.Event()
        self._code: int | None = None  # of the process that failed first
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        # Each machine has its own count, of the restarts for which it gave the cause.
        counted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.restarts = self.agree(max(counted, meeting.starts - 1))[0] or 0

    def device(self, name: str) -> str:
        import torch

        own = name == "cuda" or (name == "auto" and torch.cuda.is_available())
        return f"cuda:{self.local_rank}" if own else name

    def agree(self, stop: int | None, *figures: float) -> tuple[int | None, tuple[float, ...]]:
        import torch
        import torch.distributed as dist

        own = figures if self.leads else [-math.inf] * len(figures)
        row = torch.tensor([stop or 0, *own], dtype=torch.float64)
        dist.all_reduce(row, op=dist.ReduceOp.MAX)
        first, *rest = row.tolist()
        return int(first) or None, tuple(rest)

    def total(self, *figures: float) -> tuple[float, ...]:
        import torch
        import torch.distributed as dist

        row = torch.tensor(figures, dtype=torch.float64)
        dist.all_reduce(row)
        return tuple(row.tolist())

    def told(self, value: Any) -> Any:
        self._told += 1
        key = f"gencli/told/{self._told}"
        if self.leads:
            self._store.set(key, json.dumps(value, default=str))
        self._wait_for(key, self.check)
        return json.loads(self._store.get(key))

    def check(self) -> None:
        if self._code is not None:
            raise PeerError(self._code)

    def await_file(self, path: Path) -> None:
        until = time.monotonic() + VISIBLE_SECONDS
        while not self.leads and not path.exists():
            if time.monotonic() > until:
                raise MachineError(
                    f"process {self.rank} does not find what the first process wrote",
                    where=str(path),
                    hint="on several machines the model's folder must be one that all of them share",
                )
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def in_turn(self, check: Callable[[], None]) -> Iterator[None]:
        self._turns += 1
        first = f"gencli/turn/{self._turns}"
        here = f"{first}/{self._machine}"
        if not self.leads:
            self._wait_for(first if self.local_rank == 0 else here, check)
        yield
        if self.leads:
            self._store.set(first, "")
        if self.leads or self.local_rank == 0:
            self._store.set(here, "")

    def _wait_for(self, key: str, check: Callable[[], None]) -> None:
        """Wait in the store, not in a collective: preparing a large corpus may outlast any timeout."""
        while not self._store.check([key]):
            check()
            self.check()
            time.sleep(POLL_SECONDS)

    def settled(self, error: BaseException) -> BaseException:
        """Return what this process should raise where it would raise `error`, and tell the others.

        That is the error itself in the process that failed first, PeerError in all others.
        """
        self._leave_soon(exit_code_of(error))
        # torchrun ends all when one has ended; the one that tells why must live until it has.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            told = self._store.compare_set(_FAILED, "", f"{self.rank} {exit_code_of(error)}").decode()
            self._wait_until_heard()
        except RuntimeError:  # the store died with the process that held it
            return _lost() if self._code is None else PeerError(self._code)
        finally:
            self._stop_watching()
        rank, code = map(int, told.split())
        if rank != self.rank:
            return PeerError(code)
        return _lost() if _is_lost_connection(error) else error

    def _wait_until_heard(self) -> None:
        """Keep the store alive, if it is in this process, until all others know of the failure."""
        if not self.leads or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        until = time.monotonic() + HEARING_SECONDS
        while self._store.add(_HEARD, 0) < self.size and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Take leave of the others, who are done too.

        The store may end with the first process: none may still look into it when that one knows that all are done.
        """
        import torch.distributed as dist

        self._stop_watching()
        self.agree(None)
        dist.destroy_process_group()

    def _watch(self) -> None:
        """Look for another's failure; a collective on a GPU would wait for the dead one without end."""
        while not self._left.wait(2 * POLL_SECONDS):
            try:
                if self._store.check([_FAILED]):
                    self._code = int(self._store.get(_FAILED).decode().split()[1])
                    self._store.add(_HEARD, 1)
                    self._leave_soon(self._code)
                    return
            except RuntimeError:
                return  # the store is gone: closed connections will tell

    def _stop_watching(self) -> None:
        """End the thread: an interpreter that ends while a thread is inside the store aborts."""
        self._left.set()
        self._watcher.join(HEARING_SECONDS)

    def _leave_soon(self, code: int) -> None:
        def leave() -> None:
            os._exit(code)

        deadline = threading.Timer(GRACE_SECONDS, leave)
        deadline.daemon = True
        deadline.start()


_current: list[World] = [World()]


def current() -> World:
    """Return the world that this process belongs to now."""
    return _current[-1]


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Meet the other processes for the time of the block, if this process was launched as one of several."""
    if not is_launched():
        yield current()
        return
    world = Group(meet())
    _current.append(world)
    try:
        yield world
        world.leave()
    except BaseException as error:
        settled = world.settled(error)
        if settled is error:
            raise
        raise settled from None
    finally:
        _current.pop()


def exit_code_of(error: BaseException) -> int:
    """Return the code with which the program will end after this error."""
    if isinstance(error, GencliError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 4 if is_memory_full(error) or _is_lost_connection(error) else 1


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def _lost() -> MachineError:
    return MachineError(
        "another process of this run died without a word",
        kept="the newest checkpoint and the best weights stand",
        hint="the same command with --resume goes on; torchrun --max-restarts 3 does so by itself",
    )
