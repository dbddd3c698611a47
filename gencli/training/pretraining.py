"""From raw text to a training run: tokenizer, tokens, shape and model are made ready here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from gencli.errors import CorpusError, ModelError, UsageError
from gencli.knobs import seconds_of
from gencli.model.folder import TOKENIZER
from gencli.model.gpt import GPT
from gencli.model.shape import Shape, preset, reshaped
from gencli.settings import PretrainSettings
from gencli.text.corpus import Corpus
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from gencli.text.tokens import TokenFile, held_out, tokenize_corpus
from gencli.training.assembly import Lineage, Outside, assemble, length_of
from gencli.training.batches import PackedBatches, in_order
from gencli.training.held_out import HeldOut, token_bytes_of
from gencli.training.loop import Run
from gencli.training.runtime import choose_runtime
from gencli.training.world import World

# An evaluation reads at most this many tokens, evenly spaced over the held-out text.
MOST_HELD_OUT_TOKENS = 131_072
ROWS_AT_ONCE = 16  # when scoring


@dataclass(frozen=True)
class Material:
    """The text of a run in the form that training reads."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: TokenFile


def prepare_text(
    settings: PretrainSettings,
    corpus: Corpus,
    cache: Path,
    *,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> Material:
    """Open or train the tokenizer, and turn the corpus into tokens."""
    path = settings.model / TOKENIZER
    if path.exists():
        tokenizer = Tokenizer.open(path)
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
        )
        tokenizer = trained.tokenizer
        say(f"trained a tokenizer of {tokenizer.vocabulary:,} pieces")
        for note in trained.notes:
            say(note)
    tokens = tokenize_corpus(corpus, tokenizer, cache, progress=progress)
    for note in tokens.notes:
        say(note)
    return Material(corpus, tokenizer, tokens)


def suggested_size(seconds: float | None, nbytes: int) -> str:
    """Return the preset that does best in that time on that much text, on a laptop's CPU."""
    if nbytes < 300_000 or (seconds is not None and seconds < 300):
        return "nano"
    if nbytes < 20_000_000 and (seconds is None or seconds < 3600):
        return "tiny"
    return "small" if seconds is None or seconds < 6 * 3600 or nbytes < 200_000_000 else "base"


def suggested_tokens(seconds: float | None) -> int:
    """Return how many tokens an update should see: few where there is time for few updates."""
    limits = ((300, 1024), (1800, 2048), (7200, 4096))
    return next((tokens for limit, tokens in limits if (seconds or 600) < limit), 8192)


def decided(settings: PretrainSettings, material: Material) -> PretrainSettings:
    """Return the settings with all that is chosen by time and text filled in; a resumed run keeps them."""
    seconds = seconds_of(settings.time) if settings.time else None
    size = settings.size
    if size == "auto":
        size = suggested_size(seconds, material.tokens.source_bytes)
    context = settings.context
    if context is None:
        most = max(16, len(material.tokens.ids) // 16)  # a small corpus shortens the context
        context = min(preset(size, material.tokenizer.vocabulary).context, 1 << (most.bit_length() - 1))
    rows = settings.batch_size or max(1, suggested_tokens(seconds) // context)
    return replace(settings, size=size, context=context, batch_size=rows)


def same_choice(settings: PretrainSettings, ours: PretrainSettings, world: World) -> PretrainSettings:
    """Return the settings with what the first process chose, where the user left a choice."""
    names = [f.name for f in fields(ours) if getattr(ours, f.name) != getattr(settings, f.name)]
    return replace(settings, **world.told({name: getattr(ours, name) for name in names}))


def shape_of(settings: PretrainSettings, vocabulary: int) -> Shape:
    """Return the shape that decided settings ask for. Raises UsageError for numbers that make no model."""
    try:
        return _reshaped(settings, vocabulary)
    except ModelError as error:
        raise UsageError(error.message) from error


def _reshaped(settings: PretrainSettings, vocabulary: int) -> Shape:
    return reshaped(
        preset(settings.size, vocabulary),
        layers=settings.layers,
        width=settings.width,
        heads=settings.heads,
        kv_heads=settings.kv_heads,
        context=settings.context,
    )


def prepare_pretraining(settings: PretrainSettings, material: Material, outside: Outside) -> Run:
    """Return a run that is ready to begin, or to go on from its newest checkpoint.

    Raises CorpusError for too little text, RunStateError when there is nothing to resume.
    """
    tokenizer, tokens = material.tokenizer, material.tokens
    settings = same_choice(settings, decided(settings, material), outside.world)
    assert settings.batch_size is not None
    shape = shape_of(settings, tokenizer.vocabulary)
    runtime = choose_runtime(
        outside.world.device(settings.device),
        precision=settings.precision, threads=settings.threads, width=shape.width,
    )  # fmt: skip
    train, validation = held_out(tokens, share=settings.validation, bos=tokenizer.bos)
    batches = PackedBatches(
        tokens.ids, train, context=shape.context, rows=settings.batch_size, seed=settings.seed
    )
    windows = list(
        in_order(
            tokens.ids, validation, context=shape.context, rows=ROWS_AT_ONCE, most_tokens=MOST_HELD_OUT_TOKENS
        )
    )
    if settings.validation and not windows:
        raise CorpusError("no text is left to judge the model on", hint="add text, or --validation 0")
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=tokens.end_bytes)
    model = GPT(shape, dropout=settings.dropout)
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
        length=length_of(settings, batches.steps_per_epoch, default_seconds=600.0),
        lineage=lineage,
        outside=outside,
    )
