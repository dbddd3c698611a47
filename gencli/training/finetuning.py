"""From labelled pairs and a pretrained model to a training run: the loss is on the answers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gencli.errors import PairsError, UsageError
from gencli.model.folder import WEIGHTS, ModelFolder, open_model
from gencli.model.gpt import GPT
from gencli.model.task import Task, detected_task
from gencli.settings import FinetuneSettings
from gencli.storage import digest_of
from gencli.text.examples import encode_pairs, split_by_prompt
from gencli.text.pairs import Pair, PairsFile, read_pairs
from gencli.training.assembly import Lineage, Outside, assemble, length_of, runtime_for
from gencli.training.batches import PairBatches, pairs_in_order
from gencli.training.held_out import HeldOut, token_bytes_of
from gencli.training.loop import Run

DEFAULT_EPOCHS = 4.0
DEFAULT_ROWS = 32
ROWS_AT_ONCE = 64  # when scoring
SHOWN_LABELS = 6


@dataclass(frozen=True)
class Lessons:
    """The base model and the pairs of a run, parted into what is learned and what is held out."""

    base: ModelFolder
    files: tuple[PairsFile, ...]
    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    task: Task


def prepare_pairs(settings: FinetuneSettings, cache: Path, *, say: Callable[[str], None]) -> Lessons:
    """Open the base model, read the pairs and hold some out. Raises PairsError where there are too few."""
    if settings.output.resolve() == settings.model.resolve():
        raise UsageError("the fine-tuned model needs a folder of its own", hint="another folder with -o")
    if not settings.pairs:
        raise UsageError("which pairs?", hint="give at least one file, or - for stdin")
    base = open_model(settings.model, cache)
    files = tuple(
        read_pairs(
            path,
            encoding=settings.encoding,
            prompt_key=settings.prompt_key,
            completion_key=settings.completion_key,
        )
        for path in settings.pairs
    )
    for file in files:
        say(f"{file.path}: {len(file.pairs):,} pairs, {file.format}, {file.fields}")
        for note in file.notes:
            say(note)
    task = detected_task(files, settings.task)
    say(_told(task, asked=settings.task))
    pairs = [pair for file in files for pair in file.pairs]
    train, held_out = split_by_prompt(pairs, share=settings.validation, seed=settings.seed)
    if not train:
        raise PairsError("there is nothing to learn", hint="add pairs with other prompts")
    return Lessons(base, files, tuple(train), tuple(held_out), task)


def prepare_finetuning(settings: FinetuneSettings, lessons: Lessons, outside: Outside) -> Run:
    """Return a run that is ready to begin, or to go on from its newest checkpoint."""
    base = lessons.base
    tokenizer, shape = base.tokenizer, base.shape
    train = encode_pairs(lessons.train, tokenizer, context=shape.context)
    held_out = encode_pairs(lessons.held_out, tokenizer, context=shape.context)
    for note in train.notes:
        outside.say(note)
    batches = PairBatches(
        train.examples, rows=settings.batch_size or DEFAULT_ROWS, seed=settings.seed, padding=tokenizer.pad
    )
    judged = list(pairs_in_order(held_out.examples, rows=ROWS_AT_ONCE, padding=tokenizer.pad))
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=0.0)
    weights, parent = base.weights(), digest_of(base.path / WEIGHTS)
    lineage = Lineage(
        kind="finetuned",
        command="finetune",
        digests={"pairs": _digest(lessons), "tokenizer": tokenizer.digest, "base model": parent},
        parent={"path": str(base.path), "weights": parent, "lineage": base.lineage},
        extra={"task": lessons.task.record()},
    )
    return assemble(
        settings,
        settings.output,
        model=GPT(shape, dropout=settings.dropout).load(weights),
        tokenizer=tokenizer,
        batches=batches,
        held_out=HeldOut(judged, sizes) if judged else None,
        runtime=runtime_for(settings, outside.world),
        length=length_of(settings, batches.steps_per_epoch, default_epochs=DEFAULT_EPOCHS),
        lineage=lineage,
        outside=outside,
    )


def _told(task: Task, *, asked: str) -> str:
    """Return the task in words, with the way out where it was guessed."""
    if not task.has_labels:
        return "task: free answers"
    some = ", ".join(task.labels[:SHOWN_LABELS]) + (", ..." if len(task.labels) > SHOWN_LABELS else "")
    guessed = "; --task answer would take them for free answers" if asked == "auto" else ""
    return f"task: {len(task.labels):,} labels ({some}){guessed}"


def _digest(lessons: Lessons) -> str:
    import hashlib

    digest = hashlib.sha256()
    for pair in (*lessons.train, *lessons.held_out):
        for turn in pair.turns:
            digest.update(f"{turn.role}\0{turn.text}\0".encode())
        digest.update(b"\n")
    return digest.hexdigest()
