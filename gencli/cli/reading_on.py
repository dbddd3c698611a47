"""What finetune does before it teaches pairs, if it is asked to: let the model read more raw text."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from gencli.errors import CompleteError, UsageError
from gencli.settings.training import FinetuneSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.loop import Run
    from gencli.ui import Screen


def check_reading(settings: FinetuneSettings) -> None:
    """Raise UsageError for flags that contradict reading on."""
    if settings.adapter:
        raise UsageError(
            "an adapter belongs to its base as it is, and --continue-pretraining changes it",
            hint="leave out --adapter: the new model is then a whole one",
        )
    if "-" in settings.continue_pretraining and "-" in settings.pairs:
        raise UsageError("stdin can't be the text and the pairs", hint="put one of them in a file")


def read_on(settings: FinetuneSettings, screen: Screen) -> None:
    """Let the model read the text, or go on reading, unless it is done. Exits as `train` does after a signal."""
    from gencli.cli.places import cache_folder
    from gencli.cli.session import sampler, train
    from gencli.model.folder import TRAINING, open_model
    from gencli.text.corpus import open_corpus
    from gencli.training import checkpoint
    from gencli.training.assembly import Outside, check_folder, run_before
    from gencli.training.continuing import is_read, place_of, prepare_continuing, settings_for_text
    from gencli.training.run_record import RunRecord
    from gencli.training.world import current

    if is_read(settings):
        return
    world, training = current(), settings.output / TRAINING
    if world.leads:
        check_folder(settings.output, settings)
    base = open_model(settings.model, cache_folder())
    corpus = open_corpus(settings.continue_pretraining, encoding=None, text_field="text")
    text = settings_for_text(settings)

    def prepare(signals: Signals, clock: Callable[[], float]) -> Run:
        def check() -> None:
            signals.check()
            world.check()

        outside = Outside(
            screen.note,
            signals.stop,
            clock,
            sampler([""], chat=False),
            world,
            cache_folder(),
            signals.save_asked,
        )
        with screen.counted("tokenising", corpus.nbytes) as count, world.in_turn(signals.check):
            run = prepare_continuing(text, base, corpus, outside, progress=count, check=check)
        begin = run.begin

        def begin_both() -> None:
            """Begin, and let --resume find what the whole command was asked for."""
            begin()
            if not settings.resume:
                checkpoint.clear(training, run_before(training))
                about = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
                RunRecord("finetune", about, {}, world.launch).write(training)

        run.begin = begin_both
        return run

    with contextlib.suppress(CompleteError):  # it ended before the command did
        code = train(
            text, place_of(settings), screen, prepare, json=settings.json, goal="reading", is_last=False
        )
        if code:
            raise typer.Exit(code)
