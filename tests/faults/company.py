"""Others at the same folder or in the same run: a second trainer, a reader, a worker that is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.numpy import load_file

from gencli.errors import RunStateError
from gencli.model.folder import Arrays, open_model
from tests.conftest import same
from tests.faults.trial import EXACT, TOY, Place

Figure = dict[str, object]
WORKER_STEPS = 40


def two_trainers(root: Path, *, trials: int) -> Figure:
    """Start a second trainer on a folder: it is refused, and the first is not disturbed."""
    straight = Place(root / "straight")
    expected, refused = straight.finished(), 0
    place = straight.beside("shared")
    first = place.started(place.arguments())
    second = straight.beside("second")
    until = time.monotonic() + 30
    while not (place.training / "lock").exists() and time.monotonic() < until:
        time.sleep(0.001)
    arguments = [
        str(place.model) if part == str(second.model) else part for part in second.arguments("--overwrite")
    ]
    for _ in range(trials):
        ended = second.ran(arguments)
        refused += ended.code == RunStateError.exit_code and "another process" in ended.err
    code = first.ended().code
    return {"trials": trials, "refused": refused, "first_exit": code,
            "ok": refused == trials and code == 0 and place.weights() == expected}  # fmt: skip


def reader_beside_trainer(root: Path, *, trials: int) -> Figure:
    """Open and read the model again and again while a trainer publishes and prunes: no reading fails."""
    place = Place(root / "read")
    place.finished(steps=2)
    child = place.started(place.arguments("--resume", "--evaluate-every", "1", steps=100_000, save_every=1))
    read = failed = 0
    versions = set()
    try:
        for _ in range(trials):
            try:
                opened = open_model(place.model)
                weights = opened.weights()
                versions.add(next(iter(weights.values())).tobytes())
                read += opened.tokenizer.vocabulary == opened.shape.vocabulary
            except Exception:
                failed += 1
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
    return {"reads": read, "failed": failed, "versions": len(versions),
            "ok": read == trials and not failed and len(versions) > 1}  # fmt: skip


def lost_worker(root: Path, *, trials: int) -> Figure:
    """Kill one of two processes under torchrun: the run comes back, and ends with the same weights."""
    undisturbed, back = _together(root / "undisturbed", kill=None), 0
    for trial in range(trials):
        back += same(_together(root / f"lost-{trial}", kill=trial % 2), undisturbed)
    return {"workers_killed": trials, "same_weights": back, "ok": back == trials}


def _together(root: Path, *, kill: int | None) -> Arrays:
    """Train with two processes, of which one may be killed; return the weights."""
    place = Place(root)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1",
        "--monitor-interval", "0.2", "-m", "gencli", "pretrain", str(place.corpus), "-m", str(place.model), "-q", *TOY,
        *EXACT, "--dropout", "0", "--steps", str(WORKER_STEPS), "--save-every", "5", "--evaluate-every", "20",
    ]  # fmt: skip
    own = {"GENCLI_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(
        command, env={**os.environ, **own}, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    if kill is not None:
        _wait_for_step(place.training / "metrics.jsonl", WORKER_STEPS // 3)
        os.kill(_worker(agent.pid, kill), signal.SIGKILL)
    _, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err.decode()[-2000:]
    return load_file(place.model / "model.safetensors")


def _wait_for_step(log: Path, step: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if log.is_file() and log.read_bytes().count(b'"event": "step"') >= step:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{log} did not reach step {step}")


def _worker(agent: int, rank: int) -> int:
    """Return the process number of one worker of torchrun's agent."""
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text(encoding="ascii").split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return int(child)
    raise LookupError(f"there is no worker of rank {rank}")
