"""gencli pretrain: train a GPT on raw text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.places import earlier_run
from gencli.cli.together import check_together, together
from gencli.errors import UsageError
from gencli.settings.training import PretrainSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.text.corpus import Corpus
    from gencli.training.loop import Run
    from gencli.training.pretraining import Material
    from gencli.training.runtime import Runtime
    from gencli.ui import Screen


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
    from gencli.cli.session import Signals, clock, sampler, train
    from gencli.model.folder import TOKENIZER, check_output
    from gencli.text.corpus import open_corpus
    from gencli.training.assembly import Outside, runtime_for
    from gencli.training.pretraining import prepare_pretraining
    from gencli.training.world import current
    from gencli.ui import Screen

    world = current()
    if not settings.corpus:
        raise UsageError("which text?", hint="give files or folders, or - for stdin")
    check_together(settings, settings.corpus)
    if settings.dry_run and (settings.resume or world.launched):
        raise UsageError(
            "--dry-run plans a new run of one process",
            hint="leave out --resume: a resumed run keeps its plan"
            if settings.resume
            else "try it without torchrun; more processes do more steps in the same time",
        )
    check_output(settings.model, overwrite=settings.overwrite or settings.resume)
    screen = Screen(quiet=settings.quiet or not world.leads)

    corpus = open_corpus(settings.corpus, encoding=settings.encoding, text_field=settings.text_field)

    def prepare(signals: Signals, clock: Callable[[], float], tokenizer: Path) -> Run:
        runtime = runtime_for(settings, world)
        material = _material(settings, corpus, tokenizer, runtime, signals, screen)
        sample = sampler([settings.sample_prompt], chat=False)
        return prepare_pretraining(
            settings,
            material,
            runtime,
            Outside(screen.note, signals.stop, clock, sample, world, cache_folder(), signals.save_asked),
        )

    path = settings.model / TOKENIZER
    if settings.dry_run:
        with tempfile.TemporaryDirectory() as folder, Signals().watched() as signals:
            there = path if path.exists() else Path(folder) / TOKENIZER
            _tell(prepare(signals, clock(), there), screen, json=settings.json)
        return
    code = train(
        settings,
        settings.model,
        screen,
        lambda signals, watch: prepare(signals, watch, path),
        json=settings.json,
        goal="pretraining",
    )
    if code:
        raise typer.Exit(code)


def _material(
    settings: PretrainSettings,
    corpus: Corpus,
    tokenizer: Path,
    runtime: Runtime,
    signals: Signals,
    screen: Screen,
) -> Material:
    """Make the tokenizer and the tokens of a run ready; of several processes one does the work."""
    from gencli.cli.places import cache_folder
    from gencli.training.pretraining import prepare_text
    from gencli.training.world import current

    world = current()

    def check() -> None:
        signals.check()
        world.check()

    with screen.counted("tokenising", corpus.nbytes) as count, world.in_turn(signals.check):
        world.await_file(tokenizer)
        material = prepare_text(
            settings, corpus, tokenizer, cache_folder(), runtime, say=screen.note, progress=count, check=check
        )
    signals.check()
    tokens = material.tokens
    screen.note(
        f"{tokens.source_bytes:,} bytes in {tokens.documents:,} documents, {len(tokens.ids):,} tokens, "
        f"vocabulary {material.tokenizer.vocabulary:,}"
    )
    return material


def _tell(run: Run, screen: Screen, *, json: bool) -> None:
    """Say what the run would be."""
    from gencli.training.plan import Plan
    from gencli.ui import emit

    assert isinstance(run.plan, Plan)
    if json:
        emit(run.plan.record())
    screen.note(run.runtime.describe())
    for line in run.plan.lines():
        screen.note(line)
