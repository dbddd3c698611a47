"""What pretrain and finetune do around their run: signals, the lock, the screen, the samples."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gencli.cli.progress import TrainingView
from gencli.errors import CompleteError, StoppedError
from gencli.settings.training import Training
from gencli.storage import locked
from gencli.ui import Screen, emit

if TYPE_CHECKING:
    from gencli.model.gpt import GPT
    from gencli.text.tokenizer import Tokenizer
    from gencli.training.events import Event
    from gencli.training.loop import Run

IMPATIENT_SECONDS = 1.0  # a second Ctrl-C after this long leaves at once
SAMPLE_TOKENS = 48


class Signals:
    """Remembers the first SIGINT, SIGTERM or SIGHUP; a later second Ctrl-C interrupts at once.

    SIGUSR1 asks for a checkpoint now, and ends nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._asked = False
        self._at = 0.0

    def stop(self) -> int | None:
        """Return the signal that asked the run to end, if any did."""
        return self.number

    def check(self) -> None:
        """Raise StoppedError if a signal asked the command to end."""
        if self.number is not None:
            raise StoppedError(self.number)

    def save_asked(self) -> bool:
        """Tell whether a checkpoint was asked for since the last call."""
        asked, self._asked = self._asked, False
        return asked

    def _ask(self, _: int, __: FrameType | None) -> None:
        self._asked = True

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self._at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._at > IMPATIENT_SECONDS:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def watched(self) -> Iterator[Signals]:
        """Handle the signals for the time of the block."""
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in caught}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def clock() -> Callable[[], float]:
    """Return a clock that counts from the start of the command, imports included."""
    main = sys.modules.get("gencli.__main__") or sys.modules["__main__"]
    began = getattr(main, "BEGAN", None)
    start = time.monotonic()
    first = began if isinstance(began, float) and not _used else start
    _used.append(True)
    return lambda: time.monotonic() - first


_used: list[bool] = []


def train(
    settings: Training,
    folder: Path,
    screen: Screen,
    prepare: Callable[[Signals, Callable[[], float]], Run],
    *,
    json: bool,
    goal: str,
    is_last: bool = True,
) -> int:
    """Prepare and run a training in `folder`; return the exit code: 0, or 128 + the signal that ended it.

    Of several trainings of a command the last one says what to do next.
    """
    from gencli.model.folder import TRAINING
    from gencli.training.assembly import check_folder
    from gencli.training.events import Done, Stopped
    from gencli.training.loop import fit
    from gencli.training.metrics import NAME, recorded
    from gencli.training.world import current

    watch, world = clock(), current()
    lock: AbstractContextManager[None] = contextlib.nullcontext()
    if world.leads:
        check_folder(folder, settings)
        lock = locked(folder / TRAINING / "lock")
    with Signals().watched() as signals, lock:
        try:
            run = prepare(signals, watch)
        except CompleteError:
            if not world.restarts:
                raise
            screen.note("the run was complete when a process of it was lost")
            return 0
        view = TrainingView(screen, f"{goal} {folder}", run)
        last: Event | None = None
        with view:
            events = fit(run)
            for event in (
                recorded(events, folder / TRAINING / NAME, say=screen.note) if world.leads else events
            ):
                last = event
                if world.leads:
                    view.update(event)
                    if json:
                        emit(event.record())
        if isinstance(last, Stopped):
            screen.note(f"stopped at step {last.step:,}, saved; the same command with --resume goes on")
            return 128 + last.signal
        if isinstance(last, Done) and is_last:
            screen.note(f'next: gencli generate -m {folder} "..."')
    return 0


def sampler(prompts: list[str], *, chat: bool) -> Callable[[GPT, Tokenizer], tuple[str, str]]:
    """Return a function that writes a short text with a model, from each prompt in turn."""
    count = 0

    def write(model: GPT, tokenizer: Tokenizer) -> tuple[str, str]:
        nonlocal count
        from gencli.decoding.decoder import Token, generate
        from gencli.decoding.prompts import prompt_ids
        from gencli.decoding.sampler import Sampling
        from gencli.decoding.torch_engine import TorchEngine

        prompt = prompts[count % len(prompts)]
        count += 1
        was_training = model.training
        events = generate(
            TorchEngine(model),
            tokenizer,
            [prompt_ids(tokenizer, prompt, chat=chat)],
            sampling=Sampling(temperature=0.0 if chat else 0.8),
            seed=0,
            max_new_tokens=SAMPLE_TOKENS,
        )
        text = "".join(event.text for event in events if isinstance(event, Token))
        model.train(was_training)
        return prompt, text

    return write
