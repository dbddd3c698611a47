"""gencli verify: is a model folder what was written, and is its resumed run the same run?"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import ModelError, RunStateError, UsageError
from gencli.settings.tools import VerifySettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.loop import Run
    from gencli.training.replay import Replay
    from gencli.ui import Screen


@command(
    app,
    VerifySettings,
    example="gencli verify models/tale\ngencli verify models/tale --resume-exact 50",
)
def verify(settings: VerifySettings) -> None:
    """Check that models and checkpoints are what was written.

    Compares every digest. --resume-exact makes the steps between the two newest checkpoints once more.
    """
    from gencli.cli.session import Signals
    from gencli.ui import Screen

    models = [*map(Path, settings.models), *([settings.model] if settings.model else [])]
    if not models:
        raise UsageError("which model?", hint="give its folder")
    screen = Screen(quiet=settings.quiet)
    with Signals().watched() as signals:
        for model in models:
            _check_files(model, screen, signals, json=settings.json)
            if settings.resume_exact:
                _check_run(model, settings, screen, signals)


def _check_files(model: Path, screen: Screen, signals: Signals, *, json: bool) -> None:
    """Show what was found at each place. Raises ModelError if anything is damaged."""
    from gencli.ui import emit
    from gencli.verification import verify as findings_in

    rows, damaged = [], 0
    for finding in findings_in(model):
        signals.check()
        damaged += finding.damaged
        rows.append((finding.place, "✗" if finding.damaged else "✓", finding.verdict))
        if json:
            emit(
                {"event": "finding", "model": str(model), "place": finding.place, "damaged": finding.damaged,
                 "verdict": finding.verdict}
            )  # fmt: skip
    if not json:
        screen.table(str(model), rows)
    if damaged:
        raise ModelError(
            f"{damaged} of {len(rows)} places are damaged",
            where=str(model),
            kept="nothing was touched",
            hint="--resume goes on from the newest whole checkpoint; a damaged model is made anew by that",
        )


def _check_run(model: Path, settings: VerifySettings, screen: Screen, signals: Signals) -> None:
    """Make steps of the run again and say whether they are the same. Raises RunStateError if they are not."""
    from gencli.model.folder import TOKENIZER, TRAINING
    from gencli.training.checkpoint import folder_of
    from gencli.training.metrics import NAME
    from gencli.training.replay import interval, replay, scratch_copy
    from gencli.ui import emit

    training = model / TRAINING
    start, end = interval(training)
    with tempfile.TemporaryDirectory(prefix="gencli-") as folder:
        scratch = Path(folder) / "model"
        scratch_copy(training, start, scratch / TRAINING)
        shutil.copy(model / TOKENIZER, scratch / TOKENIZER)
        run = _resumed(scratch, start, screen, signals)
        total = min(settings.resume_exact, end - start)
        with screen.counted("making steps again", total) as count:

            def progress(made: int) -> None:
                signals.check()
                count(made)

            result = replay(
                run, training / NAME, folder_of(training, end), steps=settings.resume_exact, progress=progress
            )
    if settings.json:
        emit({"event": "replay", "model": str(model), **vars(result)})
    if result.difference:
        raise RunStateError(
            f"not the same run: {result.difference}",
            where=f"{training}, from step {result.start:,}",
            kept="nothing was touched",
            hint="the same machine, threads and versions are needed for the same bits",
        )
    screen.note(_told(result))


def _told(result: Replay) -> str:
    steps = f"{result.steps:,} steps after step {result.start:,}: bit-identical"
    if result.tensors:
        return f"{steps}, all {result.tensors} tensors of the later checkpoint too"
    return f"{steps} in loss and gradient (a larger --resume-exact reaches the later checkpoint)"


def _resumed(scratch: Path, step: int, screen: Screen, signals: Signals) -> Run:
    """Return the run of a folder, resumed from the checkpoint that is there, with its settings and threads."""
    import time

    from gencli.alignment.aligning import prepare_alignment
    from gencli.alignment.goals import prepare_goals
    from gencli.cli.places import cache_folder, earlier_run
    from gencli.knobs import resolve
    from gencli.model.folder import TOKENIZER, TRAINING
    from gencli.settings.alignment import AlignSettings
    from gencli.settings.training import FinetuneSettings, PretrainSettings
    from gencli.text.corpus import open_corpus
    from gencli.training import checkpoint
    from gencli.training.assembly import Outside, runtime_for
    from gencli.training.continuing import place_of
    from gencli.training.finetuning import prepare_finetuning
    from gencli.training.lessons import prepare_pairs
    from gencli.training.pretraining import prepare_pretraining, prepare_text
    from gencli.training.run_record import read_record
    from gencli.training.world import current

    began = time.monotonic()
    outside = Outside(
        lambda line: None, signals.stop, lambda: time.monotonic() - began, None, current(), cache_folder()
    )
    threads = checkpoint.state_in(checkpoint.folder_of(scratch / TRAINING, step)).get("threads")
    command = read_record(scratch / TRAINING).command
    own = "model" if command == "pretrain" else "output"
    given: dict[str, object] = {own: scratch, "resume": True, **({"threads": threads} if threads else {})}
    earlier = earlier_run(own)(given)
    if command == "align":
        aligned = resolve(AlignSettings, given, earlier)
        return prepare_alignment(prepare_goals(aligned, outside.cache, say=outside.say), outside)
    if own == "output":
        finetuned = resolve(FinetuneSettings, given, earlier)
        base = place_of(finetuned) if finetuned.continue_pretraining else None
        return prepare_finetuning(
            finetuned, prepare_pairs(finetuned, outside.cache, say=outside.say, place=base), outside
        )
    pretrained = resolve(PretrainSettings, given, earlier)
    corpus = open_corpus(pretrained.corpus, encoding=pretrained.encoding, text_field=pretrained.text_field)
    runtime = runtime_for(pretrained, outside.world)
    with screen.counted("tokenising", corpus.nbytes) as count:
        material = prepare_text(
            pretrained,
            corpus,
            scratch / TOKENIZER,
            outside.cache,
            runtime,
            say=outside.say,
            progress=count,
            check=signals.check,
        )
    return prepare_pretraining(pretrained, material, runtime, outside)
