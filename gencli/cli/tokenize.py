"""gencli tokenize: train a tokenizer and report what it does to the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import RunStateError, StoppedError, UsageError
from gencli.settings.tools import TokenizeSettings

if TYPE_CHECKING:
    from gencli.cli.session import Signals
    from gencli.text.corpus import Corpus
    from gencli.text.report import TokenizerReport
    from gencli.text.tokenizer import Tokenizer


@command(
    app,
    TokenizeSettings,
    example="gencli tokenize novels/ letters.txt -m models/tale\ncat *.txt | gencli tokenize - -m models/tale",
)
def tokenize(settings: TokenizeSettings) -> None:
    """Train a tokenizer on your text; report what it does to it."""
    from gencli.cli.places import cache_folder
    from gencli.cli.session import Signals
    from gencli.model.folder import TOKENIZER, check_output, weights_file, write_tokenizer
    from gencli.text.corpus import open_corpus
    from gencli.text.tokenizer_training import train_tokenizer
    from gencli.ui import Screen, emit

    screen = Screen(quiet=settings.quiet)
    if not settings.corpus:
        raise UsageError("which text?", hint="give files or folders, or - for stdin")
    target = settings.model / TOKENIZER
    if weights_file(settings.model).exists():
        raise RunStateError(
            "the model in this folder was trained with the tokenizer that is there",
            where=str(settings.model),
            kept="nothing was touched",
            hint="another folder with -m",
        )
    if target.exists() and not settings.overwrite:
        raise RunStateError(
            "there is a tokenizer in this folder already",
            where=str(target),
            hint="--overwrite, or another folder",
        )
    check_output(settings.model, overwrite=settings.overwrite)
    corpus = open_corpus(settings.corpus, encoding=settings.encoding, text_field=settings.text_field)
    with Signals().watched() as signals:
        trained = train_tokenizer(
            corpus,
            target,
            vocabulary=settings.vocab_size,
            kind=settings.kind,
            character_coverage=settings.character_coverage,
            held_out=settings.validation,
            cache=cache_folder(),
            check=signals.check,
        )
        write_tokenizer(settings.model, trained.tokenizer, chat=False, context=1 << 20)
        for note in (*corpus.tally.notes(), *trained.notes):
            screen.note(note)
        report = _report(trained.tokenizer, corpus, signals)
    if settings.json:
        emit({"event": "tokenizer", "model": str(settings.model), **report.record()})
        return
    screen.table(f"Tokenizer in {settings.model}", _rows(report))
    for advice in report.advice:
        screen.note(advice)
    screen.note(f"next: gencli pretrain {' '.join(settings.corpus)} -m {settings.model}")


def _report(tokenizer: Tokenizer, corpus: Corpus, signals: Signals) -> TokenizerReport:
    """Return the report; a signal ends it, and the tokenizer is there already."""
    from gencli.text.report import tokenizer_report

    try:
        return tokenizer_report(tokenizer, corpus, check=signals.check)
    except StoppedError as error:
        raise StoppedError(error.signal, kept="the new tokenizer; only the report on it is missing") from None


def _rows(report: TokenizerReport) -> list[tuple[str, str]]:
    """Return what the report says, a line each."""
    rows = [
        ("pieces", f"{report.pieces:,}"),
        ("tokens", f"{report.tokens:,} for {report.nbytes:,} bytes in {report.documents:,} documents"),
        ("bytes per token", f"{report.bytes_per_token:.2f}"),
    ]
    rows += [
        (
            f"  {script}",
            f"{figures.bytes_per_token:.2f}  ({figures.nbytes / max(1, report.nbytes):.1%} of the text)",
        )
        for script, figures in report.scripts.items()
    ]
    return [
        *rows,
        ("spelled in single bytes", f"{report.byte_fallback_share:.3%} of the text"),
        ("round-trip failures", f"{report.round_trip_failures:,}"),
        *((f"  example {number}", failure) for number, failure in enumerate(report.failures, 1)),
        ("unused pieces", f"{report.unused_pieces:,}"),
    ]
