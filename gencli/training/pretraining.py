"""From raw text to a training run: tokenizer, tokens, shape and model are made ready here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gencli.errors import CorpusError
from gencli.knobs import seconds_of
from gencli.model.gpt import GPT
from gencli.settings.common import SHAPE
from gencli.settings.training import PretrainSettings
from gencli.text.corpus import Corpus
from gencli.text.isolation import nothing
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from gencli.text.tokens import Range, TokenFile, held_out, tokenize_corpus
from gencli.training.assembly import Lineage, Outside, assemble, length_of
from gencli.training.batches import PackedBatches, in_order
from gencli.training.forecast import trigram_bits
from gencli.training.held_out import HeldOut, token_bytes_of
from gencli.training.loop import Run
from gencli.training.plan import DEFAULT_SECONDS, Plan, pieces_for, planned, shape_of
from gencli.training.runtime import Runtime, with_compiler
from gencli.training.world import World

# An evaluation reads at most this many tokens, evenly spaced over the held-out text.
MOST_HELD_OUT_TOKENS = 131_072
ROWS_AT_ONCE = 16  # when scoring
CLOSING_SECONDS = 1.0  # of a run in time: about what its last evaluation and save take


@dataclass(frozen=True)
class Material:
    """The text of a run in the form that training reads, and where in its tokens to train and to validate."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: TokenFile
    train: Sequence[Range]
    validation: Sequence[Range]


def prepare_text(
    settings: PretrainSettings,
    corpus: Corpus,
    path: Path,
    cache: Path,
    runtime: Runtime,
    *,
    say: Callable[[str], None],
    progress: Callable[[int], None],
    check: Callable[[], None] = nothing,
) -> Material:
    """Open the tokenizer at `path` or train one there, and turn the corpus into tokens.

    `progress` is told how many bytes are done; what `check` raises ends the work at once.
    """

    def checked(done: int) -> None:
        check()
        progress(done)

    if path.exists():
        tokenizer = Tokenizer.open(path, cache)
        if settings.vocab_size not in (None, tokenizer.vocabulary):
            say(
                f"the folder has a tokenizer of {tokenizer.vocabulary:,} pieces; --vocab-size changes nothing"
            )
    else:
        trained = train_tokenizer(
            corpus,
            path,
            vocabulary=settings.vocab_size,
            kind=settings.kind,
            character_coverage=settings.character_coverage,
            held_out=settings.validation,
            pieces=pieces_for(time_of(settings), corpus.nbytes, runtime),
            cache=cache,
            check=check,
        )
        tokenizer = trained.tokenizer
        say(f"trained a tokenizer of {tokenizer.vocabulary:,} pieces")
        for note in trained.notes:
            say(note)
    tokens = tokenize_corpus(corpus, tokenizer, cache, progress=checked)
    for note in tokens.notes:
        say(note)
    train, validation = held_out(tokens, tokenizer, share=settings.validation)
    return Material(corpus, tokenizer, tokens, train, validation)


def time_of(settings: PretrainSettings) -> float | None:
    """Return the limit in time of a run, in seconds, or None if it is limited otherwise."""
    if settings.time:
        return seconds_of(settings.time)
    return None if any((settings.steps, settings.tokens, settings.epochs)) else DEFAULT_SECONDS


def decided(
    settings: PretrainSettings, material: Material, runtime: Runtime, outside: Outside
) -> tuple[PretrainSettings, Plan | None]:
    """Return the settings with all that was left open filled in, and the plan; a resumed run keeps its own."""
    if settings.resume and settings.batch_size is not None:
        return replace(settings, compile="on" if settings.compile == "on" else "off"), None
    vocabulary = material.tokenizer.vocabulary
    seconds = time_of(settings)
    settings, plan = planned(
        settings,
        runtime,
        vocabulary=vocabulary,
        train_tokens=sum(end - start for start, end in material.train),
        trigram=trigram_bits(
            material.tokens.ids,
            material.train,
            material.validation,
            vocabulary=vocabulary,
            token_bytes=_token_bytes(material),
        ),
        seconds=max(1.0, seconds - outside.clock() - CLOSING_SECONDS) if seconds else None,
        processes=outside.world.size,
    )
    runtime = _with_compiler(runtime, settings, plan, outside)
    return replace(settings, compile="on" if runtime.compiled else "off"), plan


def _token_bytes(material: Material) -> NDArray[np.float64]:
    tokenizer = material.tokenizer
    return token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=material.tokens.end_bytes)


def _with_compiler(
    runtime: Runtime, settings: PretrainSettings, plan: Plan | None, outside: Outside
) -> Runtime:
    shape = {f.name: getattr(settings, f.name) for f in fields(settings) if f.metadata["knob"].panel == SHAPE}
    rows = settings.batch_size, settings.rows_at_once
    return with_compiler(
        runtime,
        "off" if settings.shard else settings.compile,
        seconds=plan.seconds if plan is not None else None,
        cache=outside.cache / "compiled",
        work=f"{shape} {plan.vocabulary if plan else 0} {rows} {bool(settings.dropout)} {outside.world.size}",
    )


def same_choice(settings: PretrainSettings, ours: PretrainSettings, world: World) -> PretrainSettings:
    """Return the settings with what the first process chose, where the user left a choice."""
    names = [f.name for f in fields(ours) if getattr(ours, f.name) != getattr(settings, f.name)]
    return replace(settings, **world.told({name: getattr(ours, name) for name in names}))


def prepare_pretraining(
    settings: PretrainSettings, material: Material, runtime: Runtime, outside: Outside
) -> Run:
    """Return a run that is ready to begin, or to go on from its newest checkpoint.

    Raises CorpusError for too little text, RunStateError when there is nothing to resume.
    """
    tokenizer, tokens, world = material.tokenizer, material.tokens, outside.world
    ours, plan = decided(settings, material, runtime, outside)
    settings = same_choice(settings, ours, world)
    assert settings.batch_size is not None
    shape = shape_of(settings, tokenizer.vocabulary)
    runtime = _with_compiler(runtime, settings, plan, outside)
    batches = PackedBatches(
        tokens.ids, material.train, context=shape.context, rows=settings.batch_size, seed=settings.seed
    )
    windows = list(
        in_order(
            tokens.ids,
            material.validation,
            context=shape.context,
            rows=ROWS_AT_ONCE,
            most_tokens=MOST_HELD_OUT_TOKENS,
        )
    )
    if settings.validation and not windows:
        raise CorpusError("no text is left to judge the model on", hint="add text, or --validation 0")
    sizes = _token_bytes(material)
    model = GPT(shape, dropout=settings.dropout or 0.0)
    model.initialise(torch.Generator().manual_seed(settings.seed))
    lineage = Lineage(
        kind="pretrained",
        command="pretrain",
        digests={"corpus": tokens.corpus_digest, "tokenizer": tokenizer.digest},
        extra={"end_bytes": tokens.end_bytes},
    )
    return assemble(
        settings,
        settings.model,
        model=model,
        tokenizer=tokenizer,
        batches=batches,
        held_out=HeldOut(windows, sizes) if windows else None,
        runtime=runtime,
        length=length_of(settings, batches.steps_per_epoch, default_seconds=DEFAULT_SECONDS),
        lineage=lineage,
        outside=outside,
        plan=plan,
    )
