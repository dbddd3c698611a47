"""gencli finetune: teach a pretrained model labelled pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.settings import FinetuneSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.loop import Run

SHOWN_PROMPTS = 8


def _earlier(given: dict[str, object]) -> dict[str, object]:
    """Return the settings of the run that is to be resumed."""
    if not given.get("resume") or "output" not in given:
        return {}
    from gencli.model.folder import TRAINING
    from gencli.training.run_record import read_record

    return read_record(Path(str(given["output"])) / TRAINING).settings


@command(
    app,
    FinetuneSettings,
    saved=_earlier,
    example="gencli finetune questions.jsonl -m models/tale -o models/qa\n"
    "gencli finetune reviews.csv -m models/tale -o models/mood --epochs 3",
)
def finetune(settings: FinetuneSettings) -> None:
    """Teach a pretrained model your labelled pairs: question and answer, text and label, translation."""
    from gencli.cli.session import sampler, train
    from gencli.training.assembly import Outside
    from gencli.training.finetuning import prepare_finetuning, prepare_pairs
    from gencli.ui import Screen

    screen = Screen(quiet=settings.quiet)

    lessons = prepare_pairs(settings, say=screen.note)

    def prepare(signals: Signals, clock: Callable[[], float]) -> Run:
        shown = [pair.prompt for pair in (lessons.held_out or lessons.train)[:SHOWN_PROMPTS]]
        outside = Outside(screen.note, signals.stop, clock, sampler(shown, chat=True))
        return prepare_finetuning(settings, lessons, outside)

    code = train(settings, settings.output, screen, prepare, json=settings.json, goal="fine-tuning")
    if code:
        raise typer.Exit(code)
