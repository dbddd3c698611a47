"""A pretrained model reads on: more raw text of a domain, before it is taught pairs of it.

It is a run of its own, in the folder `training/text` of the model that is fine-tuned after it: its checkpoints
and its log are there, and the model that it makes is the base of the fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gencli.errors import RunStateError
from gencli.knobs import seconds_of
from gencli.model.folder import CONTINUED, TRAINING, ModelFolder
from gencli.model.gpt import GPT
from gencli.settings.training import FinetuneSettings
from gencli.text.corpus import Corpus
from gencli.text.isolation import nothing
from gencli.text.tokens import TokenFile, held_out, tokenize_corpus
from gencli.training import checkpoint
from gencli.training.assembly import Lineage, Outside, assemble, parent_of, runtime_for
from gencli.training.batches import PackedBatches, in_order
from gencli.training.held_out import HeldOut, token_bytes_of
from gencli.training.loop import Length, Run
from gencli.training.pretraining import MOST_HELD_OUT_TOKENS, ROWS_AT_ONCE
from gencli.training.run_record import NAME as RECORD
from gencli.training.run_record import read_record

STEP_TOKENS = 2048
DROPOUT, WEIGHT_DECAY = 0.1, 0.1


def place_of(settings: FinetuneSettings) -> Path:
    """Return the folder of the run that reads on, and of the model that it makes."""
    return settings.output / TRAINING / CONTINUED


def is_read(settings: FinetuneSettings) -> bool:
    """Tell whether the text was read already: the fine-tuning after it has a checkpoint."""
    return bool(settings.resume and checkpoint.steps_in(settings.output / TRAINING))


def settings_for_text(settings: FinetuneSettings) -> FinetuneSettings:
    """Return the settings with which the text is read: the share of each limit, and rates of its own.

    A run that was cut off before its first step begins anew.
    """
    share, place = settings.text_share, place_of(settings)
    return replace(
        settings,
        time=f"{max(1.0, share * seconds_of(settings.time)):.3f}s" if settings.time else None,
        steps=max(1, round(share * settings.steps)) if settings.steps else None,
        tokens=max(1, round(share * settings.tokens)) if settings.tokens else None,
        epochs=settings.text_epochs,
        learning_rate=settings.text_learning_rate,
        dropout=DROPOUT,
        weight_decay=WEIGHT_DECAY,
        batch_size=None,
        patience=0,
        resume=settings.resume and (place / TRAINING / RECORD).exists(),
        overwrite=settings.overwrite or settings.resume,
    )


def settings_for_pairs(settings: FinetuneSettings) -> FinetuneSettings:
    """Return the settings with which pairs are learned after the text."""
    return replace(settings, resume=is_read(settings), overwrite=settings.overwrite or settings.resume)


def spent_on_text(settings: FinetuneSettings) -> Length:
    """Return what reading on took of each limit. Raises RunStateError if its checkpoints are gone."""
    training = place_of(settings) / TRAINING
    found, _ = checkpoint.newest(training, read_record(training).run_id)
    run = found.state["run"] if found is not None else None
    if not isinstance(run, dict):
        raise RunStateError("the run that read on has no checkpoint", where=str(training), hint="begin anew")
    return Length(seconds=float(run["seconds"]), steps=int(run["step"]), tokens=int(run["tokens"]))


def prepare_continuing(
    settings: FinetuneSettings,
    base: ModelFolder,
    corpus: Corpus,
    outside: Outside,
    *,
    progress: Callable[[int], None],
    check: Callable[[], None] = nothing,
) -> Run:
    """Return a run that reads on, ready to begin or to go on; `settings` are those for the text."""

    def checked(done: int) -> None:
        check()
        progress(done)

    tokenizer = base.tokenizer
    tokens = tokenize_corpus(corpus, tokenizer, outside.cache, progress=checked)
    for note in tokens.notes:
        outside.say(note)
    train, validation = held_out(tokens, tokenizer, share=settings.validation)
    context = _context(base, sum(end - start for start, end in train))
    rows = max(1, STEP_TOKENS // context)
    batches = PackedBatches(tokens.ids, train, context=context, rows=rows, seed=settings.seed)
    windows = list(
        in_order(tokens.ids, validation, context=context, rows=ROWS_AT_ONCE, most_tokens=MOST_HELD_OUT_TOKENS)
    )
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=tokens.end_bytes)
    return assemble(
        settings,
        place_of(settings),
        model=GPT(base.shape, dropout=settings.dropout or 0.0).load(base.weights()),
        tokenizer=tokenizer,
        batches=batches,
        held_out=HeldOut(windows, sizes) if windows else None,
        runtime=runtime_for(settings, outside.world),
        length=_length(settings, batches.steps_per_epoch),
        lineage=_lineage(settings, base, tokens),
        outside=outside,
    )


def _context(base: ModelFolder, tokens: int) -> int:
    """Return how long the windows are: the model's context, or shorter for little text."""
    return min(base.shape.context, max(16, 1 << (max(1, tokens // 16).bit_length() - 1)))


def _length(settings: FinetuneSettings, steps_per_epoch: int) -> Length:
    steps = max(1, round((settings.epochs or 1.0) * steps_per_epoch))
    return Length(
        seconds=seconds_of(settings.time) if settings.time else None,
        steps=min(steps, settings.steps) if settings.steps else steps,
        tokens=settings.tokens,
    )


def _lineage(settings: FinetuneSettings, base: ModelFolder, tokens: TokenFile) -> Lineage:
    parent = parent_of(base)
    digests = {"corpus": tokens.corpus_digest, "tokenizer": base.tokenizer.digest}
    return Lineage(
        kind="pretrained",
        command="finetune",
        digests={**digests, "base model": str(parent["weights"])},
        parent=parent,
        extra={"end_bytes": tokens.end_bytes, "read": list(settings.continue_pretraining)},
    )
