"""A command that several processes run at once, as torchrun starts them, and starts them again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import typer

from gencli.errors import RunStateError, UsageError
from gencli.settings.training import Training


def together(folder_knob: str) -> Callable[[dict[str, object]], AbstractContextManager[dict[str, object]]]:
    """Return a block that a process enters with its flags and runs with the others.

    After torchrun lost a process and started all again, the flags in the block ask for the run in the
    folder of that knob to go on, if it is the one that this launch began.
    """

    @contextlib.contextmanager
    def block(given: dict[str, object]) -> Iterator[dict[str, object]]:
        from gencli.training.world import joined

        left = None
        with joined() as world:
            again = bool(world.restarts) and folder_knob in given
            goes_on = again and world.told(began(Path(str(given[folder_knob])), given, world.launch))
            try:
                yield {**given, "resume": True, "overwrite": False} if goes_on else given
            except typer.Exit as error:
                left = error  # an exit that all processes agreed on
        if left is not None:
            raise left

    return block


def check_together(settings: Training, inputs: Sequence[str]) -> None:
    """Raise UsageError for flags that contradict each other, or ask one process for what only several can do."""
    from gencli.training.world import current

    if settings.resume and settings.overwrite:
        raise UsageError(
            "--resume goes on with a run and --overwrite begins another", hint="give one of the two"
        )
    launched = current().launched
    if settings.shard and not launched:
        raise UsageError(
            "--shard splits a model among processes, and this is one alone",
            hint="torchrun --standalone --nproc-per-node 2 -m gencli ... --shard",
        )
    if launched and "-" in inputs:
        raise UsageError("stdin can't be read by several processes", hint="put it in a file, and name that")


def began(folder: Path, given: dict[str, object], launch: str) -> bool:
    """Tell whether the folder's run is the one that this launch of torchrun began with these flags."""
    from gencli.model.folder import TRAINING
    from gencli.training.run_record import check_same, read_record

    try:
        record = read_record(folder / TRAINING)
        check_same(record, given, {})
    except RunStateError:
        return False
    return record.launch == launch
