"""gencli evaluate: what texts and pairs cost a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import UsageError
from gencli.settings import EvaluateSettings

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine
    from gencli.evaluation.cost import Rounded
    from gencli.evaluation.pairs import PairsScore
    from gencli.evaluation.text import TextScore
    from gencli.model.folder import ModelFolder
    from gencli.model.gpt import GPT
    from gencli.training.runtime import Runtime


@command(
    app,
    EvaluateSettings,
    example="gencli evaluate held-out.txt -m models/tale\ngencli evaluate test.jsonl -m models/qa --json",
)
def evaluate(settings: EvaluateSettings) -> None:
    """Score texts and labelled pairs.

    Texts in bits per byte; pairs by what the right answers cost and how often the model's own is exactly right.
    """
    from gencli.cli.places import cache_folder
    from gencli.model.folder import open_model
    from gencli.training.runtime import choose_runtime
    from gencli.ui import Screen, emit

    if not settings.files:
        raise UsageError("which files?", hint="give texts, or labelled pairs for a fine-tuned model")
    screen = Screen(quiet=settings.quiet)
    folder = open_model(settings.model, cache_folder())
    runtime = choose_runtime(settings.device, precision=settings.precision, threads=settings.threads)
    model = _opened(folder, settings, runtime)
    scores: list[TextScore | PairsScore] = []
    for name in settings.files:
        if _as_pairs(settings, name):
            from gencli.evaluation.pairs import score_pairs
            from gencli.text.pairs import read_pairs

            file = read_pairs(
                name, encoding=settings.encoding,
                prompt_key=settings.prompt_key, completion_key=settings.completion_key,
            )  # fmt: skip
            if not folder.is_chat:
                screen.note("this model was not fine-tuned: it has never seen a question with its answer")
            for note in (f"{name}: {len(file.pairs):,} pairs, {file.fields}", *file.notes):
                screen.note(note)
            scores.append(
                score_pairs(
                    file,
                    folder,
                    model,
                    _writer(model),
                    runtime,
                    rows=settings.batch_size,
                    say=screen.note,
                )
            )
        else:
            from gencli.evaluation.text import score_text
            from gencli.text.corpus import open_corpus
            from gencli.text.tokens import tokenize_corpus

            corpus = open_corpus([name], encoding=settings.encoding, text_field=settings.text_field)
            tokens = tokenize_corpus(corpus, folder.tokenizer, cache_folder())
            for note in tokens.notes:
                screen.note(note)
            scores.append(
                score_text(name, tokens, model, folder.tokenizer, runtime, rows=settings.batch_size)
            )
        if settings.json:
            emit(scores[-1].record())
    if not settings.json:
        _show(scores, screen)


def _opened(folder: ModelFolder, settings: EvaluateSettings, runtime: Runtime) -> GPT | Rounded:
    """Return the model in the form that computes with the precision asked for."""
    from gencli.model.gpt import GPT

    if settings.precision != "int8":
        return GPT(folder.shape).load(folder.weights()).to(runtime.device)
    from gencli.decoding.cpu_engine import CpuEngine
    from gencli.evaluation.cost import Rounded

    if runtime.device.type != "cpu":
        raise UsageError("only the engine cpu computes with int8 weights", hint="--device cpu")
    threads = settings.threads or None
    return Rounded(folder.shape, CpuEngine(folder.shape, folder.weights(), precision="int8", threads=threads))


def _writer(model: GPT | Rounded) -> Engine:
    """Return what writes a model's own answers."""
    from gencli.decoding.torch_engine import TorchEngine
    from gencli.evaluation.cost import Rounded

    return model.engine if isinstance(model, Rounded) else TorchEngine(model)


def _as_pairs(settings: EvaluateSettings, name: str) -> bool:
    from gencli.evaluation.text import has_texts_only, looks_like_pairs

    if settings.pairs is not None:
        return settings.pairs
    if name.endswith(".jsonl"):
        return not has_texts_only(name, settings.text_field)
    return looks_like_pairs(name)


def _show(scores: list[TextScore | PairsScore], screen: object) -> None:
    from gencli.evaluation.pairs import PairsScore
    from gencli.ui import Screen

    assert isinstance(screen, Screen)
    head = ("file", "bits/byte", "loss", "tokens", "bytes", "exact match")
    rows = [
        (
            score.file, f"{score.bits_per_byte:.4f}", f"{score.loss:.4f}", f"{score.tokens:,}", f"{score.bytes:,}",
            f"{score.exact_match:.1%} of {score.pairs:,}" if isinstance(score, PairsScore) else "",
        )
        for score in scores
    ]  # fmt: skip
    width = 6 if any(row[5] for row in rows) else 5
    screen.table("Scores", [row[:width] for row in rows], head[:width])
