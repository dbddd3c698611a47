"""Signals in each phase of a run, and numbers that are not finite."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from gencli.errors import DivergedError
from gencli.model.scoring import Batch
from gencli.text import tokens
from gencli.training import pretraining
from gencli.training.gradients import Gradients
from gencli.training.held_out import HeldOut
from tests.faults.trial import STEPS, Ended, Place, at_operation

Figure = dict[str, object]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
MOST_SECONDS = 10.0


def _signal_itself(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def _once_before(owner: object, name: str, act: Callable[[], None], *, call: int = 1) -> None:
    """Let a function of the program act before its `call`-th call."""
    real, calls = getattr(owner, name), 0

    def wrapped(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return real(*arguments, **more)

    setattr(owner, name, wrapped)


def _stopped_well(place: Place, ended: Ended, expected: str, *, number: int = signal.SIGTERM) -> bool:
    """Tell whether a signal ended the run with one save, its code, in time; and the run goes on the same."""
    stops = [event for event in ended.events if event["event"] == "stopped"]
    saves = [event["step"] for event in ended.events if event["event"] == "saved"]
    well = ended.code == CODES[signal.Signals(number)] and ended.seconds < MOST_SECONDS and len(stops) == 1
    well = well and saves.count(stops[0]["step"]) >= 1 and place.newest() == stops[0]["step"]
    return well and place.finished() == expected


def signals(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Send signals at random moments of the steps: one save, the signal's exit code, and the same run after."""
    straight, draw, well = Place(root / "straight"), random.Random(seed), 0
    expected = straight.finished()
    for trial in range(trials):
        place, number = straight.beside(f"signal-{trial}"), list(CODES)[trial % len(CODES)]
        call = draw.randrange(1, STEPS)
        ended = place.ran(
            place.arguments(),
            lambda call=call, number=number: _once_before(  # type: ignore[misc]
                Gradients, "backward", lambda: _signal_itself(number), call=call
            ),
        )
        well += _stopped_well(place, ended, expected, number=number)
    return {"signals": trials, "stopped_well": well, "ok": well == trials}


def signals_in_saves(root: Path, *, trials: int) -> Figure:
    """Send SIGTERM before every fifth operation on the disk: one save, exit 143, and the same run after."""
    straight = Place(root / "straight")
    expected, well = straight.finished(), 0
    for trial in range(trials):
        place = straight.beside(f"save-{trial}")
        # From the 40th operation on the first checkpoint is being written.
        ended = place.watched(place.arguments(), at_operation(40 + trial * 5, _signal_itself))
        well += _stopped_well(place, ended, expected)
    return {"signals": trials, "stopped_well": well, "ok": well == trials}


def signals_in_phases(root: Path, *, trials: int) -> Figure:
    """Send SIGTERM in the tokenising and in an evaluation: exit 143 in time, and the same run after."""
    straight = Place(root / "straight")
    expected = straight.finished()
    early = Place(root / "tokenising")
    ended = early.ran(early.arguments(), lambda: _once_before(tokens, "_write_ids", _signal_itself))
    tokenising = (
        ended.code == 143 and ended.seconds < MOST_SECONDS and not list(early.root.glob("cache/*/tokens.bin"))
    )
    tokenising = tokenising and early.newest() == 0 and early.finished() == expected
    trained = Place(root / "training a tokenizer")
    ended = trained.ran(
        trained.arguments(), lambda: _once_before(pretraining, "train_tokenizer", _signal_itself)
    )
    tokenizer = ended.code == 143 and ended.seconds < MOST_SECONDS and trained.finished() == expected
    judged = straight.beside("evaluating")
    ended = judged.ran(judged.arguments(), lambda: _once_before(HeldOut, "score", _signal_itself))
    evaluating = _stopped_well(judged, ended, expected)
    return {
        "tokenizer": tokenizer, "tokenising": tokenising, "evaluating": evaluating,
        "ok": tokenizer and tokenising and evaluating and trials > 0,
    }  # fmt: skip


def not_finite(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Let the loss of a step be NaN: no update is made of it, exit 6, and the run goes on the same."""
    straight, draw, well = Place(root / "straight"), random.Random(seed), 0
    expected = straight.finished()
    for trial in range(trials):
        place, call = straight.beside(f"nan-{trial}"), draw.randrange(2, STEPS)
        ended = place.ran(place.arguments(), lambda call=call: _lose(call))  # type: ignore[misc]
        made = [event["step"] for event in ended.events if event["event"] == "step"]
        kept = place.newest() == (call - 1) // 2 * 2 and made == list(range(1, call))
        well += ended.code == DivergedError.exit_code and kept and place.finished() == expected
    return {"losses": trials, "stopped_well": well, "ok": well == trials}


def _lose(call: int) -> None:
    """Let the loss of that call be NaN."""
    real, calls = Gradients.backward, 0

    def backward(self: Gradients, batch: Batch, step: int) -> tuple[float, dict[str, float]]:
        nonlocal calls
        calls += 1
        loss, figures = real(self, batch, step)
        return math.nan if calls == call else loss, figures

    Gradients.backward = backward  # type: ignore[method-assign]


def impatience(root: Path, *, trials: int) -> Figure:
    """Send a second Ctrl-C a second after the first, in a save that takes long: it leaves at once."""
    straight = Place(root / "straight")
    expected, well = straight.finished(), 0

    def hang() -> None:
        _signal_itself(signal.SIGINT)
        time.sleep(1.2)
        _signal_itself(signal.SIGINT)
        time.sleep(30)

    for trial in range(trials):
        place = straight.beside(f"twice-{trial}")
        ended = place.watched(place.arguments(), at_operation(50 + trial, hang))
        well += ended.code == 130 and ended.seconds < MOST_SECONDS and place.finished() == expected
    return {"trials": trials, "left_at_once": well, "ok": well == trials}
