"""gencli finetune: teach a pretrained model labelled pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.places import earlier_run
from gencli.cli.reading_on import check_reading, read_on
from gencli.cli.together import check_together, together
from gencli.errors import UsageError
from gencli.settings.training import FinetuneSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.lessons import Lessons
    from gencli.training.loop import Run
    from gencli.ui import Screen

SHOWN_PROMPTS = 8


@command(
    app,
    FinetuneSettings,
    saved=earlier_run("output"),
    within=together("output"),
    example="gencli finetune questions.jsonl -m models/tale -o models/qa\n"
    "gencli finetune reviews.csv -m models/tale -o models/mood --epochs 3",
)
def finetune(settings: FinetuneSettings) -> None:
    """Teach a model your labelled pairs.

    Question and answer, text and label, sentence and translation, turns of a conversation.
    """
    from gencli.cli.places import cache_folder
    from gencli.cli.session import sampler, train
    from gencli.model.folder import check_output, open_model
    from gencli.training.assembly import NOTHING, Outside
    from gencli.training.continuing import place_of, settings_for_pairs, spent_on_text
    from gencli.training.finetuning import prepare_finetuning
    from gencli.training.lessons import prepare_pairs
    from gencli.training.world import current
    from gencli.ui import Screen

    world = current()
    check_together(settings, settings.pairs)
    check_output(settings.output, overwrite=settings.overwrite or settings.resume)
    screen = Screen(quiet=settings.quiet or not world.leads)

    lessons = prepare_pairs(settings, cache_folder(), say=screen.note)
    _check_memory(settings, lessons)
    if settings.show_example:
        _show(lessons, json=settings.json)
        return
    spent = NOTHING
    if settings.continue_pretraining:
        check_reading(settings)
        read_on(settings, screen)
        spent = spent_on_text(settings)
        lessons = replace(lessons, base=open_model(place_of(settings), cache_folder()))
        settings = settings_for_pairs(settings)

    def prepare(signals: Signals, clock: Callable[[], float]) -> Run:
        shown = [pair.prompt for pair in (lessons.held_out or lessons.train)[:SHOWN_PROMPTS]]
        outside = Outside(
            screen.note, signals.stop, clock, sampler(shown, chat=True), world, save_asked=signals.save_asked
        )
        return prepare_finetuning(settings, lessons, outside, spent=spent)

    code = train(settings, settings.output, screen, prepare, json=settings.json, goal="fine-tuning")
    if code:
        raise typer.Exit(code)
    if world.leads:
        _calibrate(settings, lessons, screen)


def _check_memory(settings: FinetuneSettings, lessons: Lessons) -> None:
    """Raise UsageError if a memory is asked for that can't be."""
    from gencli.evaluation.calibration import FEWEST_PAIRS
    from gencli.evaluation.recalling import ON

    if settings.memory == ON and lessons.task.has_labels:
        raise UsageError("--memory on is for free answers, and these are labels", hint="leave it out")
    if settings.memory == ON and len(lessons.held_out) < FEWEST_PAIRS:
        raise UsageError(
            f"--memory on needs {FEWEST_PAIRS} held-out pairs to tell when to trust it, and there are "
            f"{len(lessons.held_out)}",
            hint="more pairs, a larger --validation, or --validation-pairs FILE",
        )


def _calibrate(settings: FinetuneSettings, lessons: Lessons, screen: Screen) -> None:
    """Fit how sure the new model may be, with a memory of its pairs in place of an earlier one."""
    from gencli.cli.places import cache_folder
    from gencli.decoding.engines import open_engine
    from gencli.evaluation.calibration import FEWEST_PAIRS, calibrate
    from gencli.evaluation.recalling import OFF, remembered
    from gencli.model.folder import open_model
    from gencli.model.memory import remove_memory

    remove_memory(settings.output)
    if not lessons.held_out:
        return
    folder, engine, memory = open_model(settings.output, cache_folder()), None, None
    wanted = settings.memory != OFF and not lessons.task.has_labels
    if wanted and len(lessons.held_out) >= FEWEST_PAIRS:
        engine = open_engine(folder)
        # pairs that were set aside to judge the model are worth knowing too, once it is judged
        pairs = lessons.train if settings.validation_pairs else [*lessons.train, *lessons.held_out]
        with screen.patient(f"reading {len(pairs):,} prompts once more, to find them again"):
            memory = remembered(folder, pairs, engine)
    calibrate(
        folder,
        lessons.held_out,
        ngrams=lessons.ngrams,
        memory=memory,
        keep=settings.memory,
        learned=len(lessons.train),
        engine=engine,
        say=screen.note,
    )


def _show(lessons: Lessons, *, json: bool) -> None:
    """Show the first pair to learn from as tokens, with brackets around what is learned of it."""
    from gencli.text.examples import encode_pairs
    from gencli.ui import emit, show, write

    pair, tokenizer = lessons.train[0], lessons.base.tokenizer
    encoded = encode_pairs([pair], tokenizer, context=lessons.base.shape.context)
    example = encoded.examples[0]
    pieces = [tokenizer.piece(number) for number in example.ids]
    if json:
        emit(
            {
                "event": "example", "file": pair.file, "line": pair.line,
                "ids": example.ids, "pieces": pieces, "learned": example.learned,
            }
        )  # fmt: skip
        return
    words: list[str] = []
    inside = False
    for piece, learned in zip(pieces, example.learned, strict=True):
        if learned != inside:
            words.append("[" if learned else "]")
        inside = learned
        words.append(show(piece.replace("\n", "\\n")))
    text = " ".join([*words, "]"] if inside else words)
    place = f"{show(pair.file)}:{pair.line}"
    write(f"{place}: {len(pieces)} tokens, the {sum(example.learned)} in [ ] are learned\n{text}\n")
    for note in encoded.notes:
        write(f"{note}\n")
