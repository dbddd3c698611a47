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
from gencli.settings import FinetuneSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.training.lessons import Lessons
    from gencli.training.loop import Run

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
    from gencli.evaluation.calibration import calibrate
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
    if world.leads and lessons.held_out:
        calibrate(
            open_model(settings.output, cache_folder()),
            lessons.held_out,
            ngrams=lessons.ngrams,
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
