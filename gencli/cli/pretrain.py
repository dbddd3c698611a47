"""gencli pretrain: train a GPT on raw text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.places import earlier_run
from gencli.cli.together import check_together, together
from gencli.errors import UsageError
from gencli.settings import PretrainSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.loop import Run


@command(
    app,
    PretrainSettings,
    saved=earlier_run("model"),
    within=together("model"),
    example="gencli pretrain novels/ -m models/tale --time 10m\ngencli pretrain -m models/tale --resume",
)
def pretrain(settings: PretrainSettings) -> None:
    """Train a GPT on your text.

    Trains a tokenizer first if the folder has none.
    """
    from gencli.cli.places import cache_folder
    from gencli.cli.session import sampler, train
    from gencli.model.folder import TOKENIZER
    from gencli.text.corpus import open_corpus
    from gencli.training.assembly import Outside
    from gencli.training.pretraining import prepare_pretraining, prepare_text
    from gencli.training.world import current
    from gencli.ui import Screen

    world = current()
    if not settings.corpus:
        raise UsageError("which text?", hint="give files or folders, or - for stdin")
    check_together(settings, settings.corpus)
    screen = Screen(quiet=settings.quiet or not world.leads)

    corpus = open_corpus(settings.corpus, encoding=settings.encoding, text_field=settings.text_field)

    def prepare(signals: Signals, clock: Callable[[], float]) -> Run:
        total = sum(path.stat().st_size for path in corpus.files)
        with screen.counted("tokenising", total) as count, world.in_turn(signals.check):

            def progress(done: int) -> None:
                signals.check()
                world.check()
                count(done)

            world.await_file(settings.model / TOKENIZER)
            material = prepare_text(settings, corpus, cache_folder(), say=screen.note, progress=progress)
        signals.check()
        tokens = material.tokens
        screen.note(
            f"{tokens.source_bytes:,} bytes in {tokens.documents:,} documents, {len(tokens.ids):,} tokens, "
            f"vocabulary {material.tokenizer.vocabulary:,}"
        )
        sample = sampler([settings.sample_prompt], chat=False)
        return prepare_pretraining(
            settings, material, Outside(screen.note, signals.stop, clock, sample, world)
        )

    code = train(settings, settings.model, screen, prepare, json=settings.json, goal="pretraining")
    if code:
        raise typer.Exit(code)
