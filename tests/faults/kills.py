"""kill -9: at random moments of a run, and before every single operation on the disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from gencli.errors import GencliError
from gencli.model.folder import open_model
from tests.faults.trial import LONGEST_SECONDS, STEPS, Place, at_operation, kill_itself

Figure = dict[str, object]
STEP_SECONDS = 0.012  # saves and all; a run that is over when its kill comes does not count
SHORT = 6  # steps of the run whose every operation is killed


def random_kills(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Kill runs at random moments; each must keep what it announced, and end with the same weights."""
    straight = Place(root / "straight")
    expected, draw = straight.finished(), random.Random(seed)
    timed = straight.beside("timed")
    again = timed.ran(timed.arguments())
    lost = wrong = killed = saved = 0
    for trial in range(trials):
        place = straight.beside(f"killed-{trial}")
        child = place.started(place.arguments())
        if trial % 4:  # the others may be killed before their first step
            _wait_for_an_event(place)
        time.sleep(draw.random() * (again.seconds if trial % 4 == 0 else STEP_SECONDS * STEPS))
        os.kill(child.pid, signal.SIGKILL)
        ended = child.ended()
        killed += ended.code == -signal.SIGKILL
        saved += ended.announced() > 0
        lost += place.newest() < ended.announced()
        wrong += place.finished() != expected
        shutil.rmtree(place.root)
    return {
        "kills": killed, "after_a_save": saved, "checkpoints_lost": lost, "resumes_not_bit_exact": wrong,
        "ok": lost == wrong == 0 and killed >= trials * 0.8,
    }  # fmt: skip


def _wait_for_an_event(place: Place) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while not (place.root / "out").stat().st_size and time.monotonic() < until:
        time.sleep(0.001)


def every_operation(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Kill a run before each operation of its saves, prunes and publications; all must recover."""
    counted = Place(root / "counted")
    operations: list[str] = []
    ended = counted.watched(
        counted.arguments(steps=SHORT),
        lambda operation, *_: _put(operation),
    )
    operations = ended.err.splitlines()
    expected = counted.weights()
    numbers = list(range(len(operations)))
    if trials < len(numbers):
        numbers = sorted(random.Random(seed).sample(numbers, trials))
    lost = wrong = unopened = 0
    for number in numbers:
        place = Place(root / f"operation-{number}")
        ended = place.watched(place.arguments(steps=SHORT), at_operation(number, kill_itself))
        assert ended.code == -signal.SIGKILL, ended.err
        lost += place.newest() < ended.announced()
        unopened += not _opens_or_is_not_there(place.model)
        wrong += place.finished(steps=SHORT) != expected
        wrong += bool(list(place.training.glob(".tmp-*")) + list(place.model.glob(".tmp-*")))
        shutil.rmtree(place.root)
    return {
        "operations": len(operations), "killed_before": len(numbers), "checkpoints_lost": lost,
        "models_not_opened": unopened, "runs_not_recovered": wrong, "ok": lost == wrong == unopened == 0,
    }  # fmt: skip


def _put(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def _opens_or_is_not_there(model: Path) -> bool:
    """Tell whether the published model is whole, or was never there."""
    if not (model / "model.safetensors").exists():
        return True
    try:
        opened = open_model(model)
        return bool(opened.weights()) and opened.tokenizer.vocabulary > 0
    except GencliError:
        return False
