"""How the processes that torchrun starts find each other, also when it has started them before."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gencli.errors import MachineError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")

# Longer than one process may work while the others wait in a collective: a checkpoint written to a slow disk.
PATIENCE = timedelta(minutes=60)
GREETING_SECONDS = 600.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Meeting:
    """A place among the processes, and the store of keys and values that they share.

    `starts` counts, in the first process, how often the processes were started.
    """

    store: Store
    rank: int
    size: int
    starts: int


def is_launched() -> bool:
    """Tell whether this process was started as one of several. Raises MachineError for half a place."""
    missing = [name for name in PLACE if name not in os.environ]
    if missing and any(name in os.environ for name in PLACE[:2]):
        raise _misplaced(f"{', '.join(missing)} is not set, and other variables of torchrun's are")
    for name in NUMBERS:
        if not os.environ.get(name, "0").isdecimal():
            raise _misplaced(f"{name} is no whole number: {os.environ[name]!r}")
    if not missing and int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        raise _misplaced(f"RANK {os.environ['RANK']} is not below WORLD_SIZE {os.environ['WORLD_SIZE']}")
    return not missing


def _misplaced(what: str) -> MachineError:
    return MachineError(what, hint=f"start with torchrun, or alone: env -u {' -u '.join(NUMBERS)} gencli ...")


def meet() -> Meeting:
    """Find the others and make the process group: Gloo for the CPU, NCCL for GPUs. Raises MachineError."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        shared, rank, size = next(iter(rendezvous("env://")))
        starts = shared.add("gencli/starts", 1) if rank == 0 else 0
        store = PrefixStore(f"gencli/{_attempt(shared, rank, size)}", shared)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store, rank=rank, world_size=size, timeout=PATIENCE,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"the processes did not find each other: {str(error).splitlines()[0]}",
            where=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            hint="start them with torchrun; every machine must reach this address",
        ) from error
    return Meeting(store, rank, size, starts)


def _attempt(store: Store, rank: int, size: int) -> str:
    """Return a name that all processes started together agree on, and none that were started before.

    torchrun keeps one store over all restarts, with the addresses of the dead in it, and no count of restarts
    is the same on every machine. So the first process draws the name and answers greetings with it; as each
    greeting is new, an answer to it can't be an old one.
    """
    own = secrets.token_hex(8)
    until = time.monotonic() + GREETING_SECONDS
    if rank:
        store.set(f"gencli/hello/{rank}", own)
        answer = ["", ""]
        while answer[0] != own:
            _rest(until)
            if store.check([f"gencli/answer/{rank}"]):
                answer = store.get(f"gencli/answer/{rank}").decode().split()
        store.set(f"gencli/met/{answer[1]}/{rank}", "")
        return answer[1]
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"gencli/met/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"gencli/hello/{other}"]):
                store.set(f"gencli/answer/{other}", store.get(f"gencli/hello/{other}").decode() + f" {own}")
        _rest(until)
    return own


def _rest(until: float) -> None:
    if time.monotonic() > until:
        raise RuntimeError("some of them did not come")
    time.sleep(POLL_SECONDS)
