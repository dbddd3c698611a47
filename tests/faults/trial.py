"""A small real run of the program in a forked child, to be disturbed: what it wrote, and how it ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from gencli import storage
from gencli.cli.app import run
from gencli.errors import GencliError
from gencli.model.folder import open_model
from gencli.training import checkpoint, plan
from gencli.training.run_record import read_record
from tests.conftest import tiny_text

STEPS, SAVE_EVERY, EVALUATE_EVERY = 24, 2, 5
TOY = ["--layers", "2", "--width", "32", "--context", "32", "--vocab-size", "400", "--batch-size", "4"]
EXACT = ["--threads", "1", "--precision", "float32", "--dropout", "0.1"]
LONGEST_SECONDS = 60.0

Watcher = Callable[..., None]


def prepare() -> None:
    """Make this process fit to fork trials: one thread, and no trying of the machine's speed."""
    torch.set_num_threads(1)
    plan.measured_pace = lambda *_, **__: 30_000.0


def at_operation(number: int, act: Callable[[], None], *, only: str = "") -> Watcher:
    """Return a watcher that acts before the operation of that number, counted from 0; `only` counts one kind."""
    count = 0

    def watch(operation: str, path: Path, target: Path | None = None) -> None:
        nonlocal count
        if only and operation != only:
            return
        count += 1
        if count == number + 1:
            act()

    return watch


def kill_itself() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (minus the signal that killed it), what it printed, how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @cached_property
    def events(self) -> list[dict[str, object]]:
        """Return the events that it told before it ended."""
        return [json.loads(line) for line in self.out.splitlines(keepends=True) if line.endswith("}\n")]

    def announced(self) -> int:
        """Return the step of the last checkpoint that it said was saved, 0 for none."""
        return max((int(str(e["step"])) for e in self.events if e["event"] == "saved"), default=0)


@dataclass
class Place:
    """A folder for one trial: the corpus, a cache, a model."""

    root: Path
    corpus: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.corpus = self.root / "corpus.txt"
        if not self.corpus.exists():
            self.corpus.write_text(tiny_text(40), encoding="utf-8")

    def beside(self, name: str) -> Place:
        """Return another place with this one's tokenizer and token cache, whose run begins at its first step."""
        other = Place(self.root.parent / name)
        shutil.copytree(self.root / "cache", other.root / "cache")
        other.model.mkdir()
        for file in self.model.glob("tokenizer*"):
            shutil.copy(file, other.model)
        return other

    @property
    def model(self) -> Path:
        """Return the model's folder."""
        return self.root / "model"

    @property
    def training(self) -> Path:
        """Return the folder of the run."""
        return self.model / "training"

    def arguments(self, *more: str, steps: int = STEPS, save_every: int = SAVE_EVERY) -> list[str]:
        """Return the command line of the run."""
        return [
            "pretrain", str(self.corpus), "-m", str(self.model), "--json", "-q", *TOY, *EXACT,
            "--steps", str(steps), "--save-every", str(save_every), "--evaluate-every", str(EVALUATE_EVERY), *more,
        ]  # fmt: skip

    def started(self, arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> Child:
        """Fork a child that runs the command, after `before` has armed what shall happen to it."""
        out, err = self.root / "out", self.root / "err"
        began = time.monotonic()
        for path in (out, err):
            path.write_bytes(b"")  # it may be killed before it has opened them
        child = os.fork()
        if child == 0:
            _be_the_command(arguments, before, out, err, self.root / "cache")
        return Child(child, out, err, began)

    def ran(self, arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> Ended:
        """Run the command in a child to its end."""
        return self.started(arguments, before).ended()

    def watched(self, arguments: Sequence[str], watcher: Watcher) -> Ended:
        """Run the command in a child whose every operation on the disk passes the watcher first."""
        return self.ran(arguments, lambda: setattr(storage, "watch", watcher))

    def finished(self, *more: str, steps: int = STEPS) -> str:
        """Run to the end, going on from what is there; return what became of the weights."""
        resume = ["--resume"] if (self.training / "run.json").exists() else []
        ended = self.ran(self.arguments(*resume, *more, steps=steps))
        if ended.code == 5 and "complete" in ended.err:
            return self.weights()
        assert ended.code == 0, f"{ended.code}\n{ended.err}"
        return self.weights()

    def weights(self) -> str:
        """Return the sha256 of all tensors: those published, and those of the last checkpoint."""
        digest = hashlib.sha256()
        found, _ = checkpoint.newest(self.training)
        assert found is not None
        for name, tensor in sorted({**found.weights, **found.optimizer}.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        for name, array in sorted(open_model(self.model).weights().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def newest(self) -> int:
        """Return the step of the newest whole checkpoint, 0 for none. Raises what loading raises."""
        try:
            run_id = read_record(self.training).run_id
        except GencliError:
            return 0
        found, _ = checkpoint.newest(self.training, run_id)
        return found.step if found is not None else 0


@dataclass
class Child:
    """A forked command."""

    pid: int
    out: Path
    err: Path
    began: float

    def ended(self) -> Ended:
        """Wait for the end; a child that lasts too long is killed and counts as hung."""
        until = self.began + LONGEST_SECONDS
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"a trial did not end in {LONGEST_SECONDS} s")
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(found[1])
        return Ended(
            code, self.out.read_text("utf-8"), self.err.read_text("utf-8"), time.monotonic() - self.began
        )


def _be_the_command(
    arguments: Sequence[str], before: Callable[[], None], out: Path, err: Path, cache: Path
) -> None:
    """Run the command in this process, and end it."""
    code = 1
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        os.environ["GENCLI_CACHE"] = str(cache)
        before()
        code = run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
