"""gencli evaluate: what texts and pairs cost a model, how right it is, and how sure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import UsageError
from gencli.settings.tools import EvaluateSettings

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine
    from gencli.evaluation.cost import Rounded
    from gencli.evaluation.pairs import PairsScore
    from gencli.evaluation.text import TextScore
    from gencli.model.folder import ModelFolder
    from gencli.model.gpt import GPT
    from gencli.text.pairs import PairsFile
    from gencli.training.runtime import Runtime
    from gencli.ui import Screen


@command(
    app,
    EvaluateSettings,
    example="gencli evaluate held-out.txt -m models/tale\n"
    "gencli evaluate test.jsonl -m models/qa --errors wrong.jsonl\n"
    "gencli evaluate test.jsonl -m models/qa --against models/qa-before",
)
def evaluate(settings: EvaluateSettings) -> None:
    """Score texts and labelled pairs.

    Texts in bits per byte. Labels: accuracy, macro-F1, confusions. Answers: exact match, token F1, chrF, BLEU.
    Both: what the right answers cost, how well the model knows how sure it is, and how right it is on the
    share that it is surest of.
    """
    from gencli.cli.scores import show_scores
    from gencli.evaluation.comparison import compare
    from gencli.evaluation.pairs import PairsScore
    from gencli.ui import Screen, emit

    if not settings.files:
        raise UsageError("which files?", hint="give texts, or labelled pairs for a fine-tuned model")
    screen = Screen(quiet=settings.quiet)
    sources = [_source(settings, name, screen) for name in settings.files]
    scores: list[list[TextScore | PairsScore]] = []
    for number, path in enumerate((settings.model, *map(Path, settings.against))):
        own = settings if number == 0 else replace(settings, recall=False, calibrate=False)
        scores.append(_scores(own, path, sources, screen))
        if settings.json:
            for score in scores[-1]:
                emit(score.record())
    comparisons = [
        compare(other, own)
        for others in scores[1:]
        for own, other in zip(scores[0], others, strict=True)
        if isinstance(own, PairsScore) and isinstance(other, PairsScore)
    ]
    if settings.json:
        for comparison in comparisons:
            emit(comparison.record())
    else:
        show_scores([score for each in zip(*scores, strict=True) for score in each], comparisons, screen)
    if settings.errors is not None:
        _write_errors(settings.errors, [score for of_model in scores for score in of_model], screen)


def _source(settings: EvaluateSettings, name: str, screen: Screen) -> str | PairsFile:
    """Return the pairs in a file, or its name if it holds text."""
    if not _as_pairs(settings, name):
        return name
    from gencli.text.pairs import read_pairs

    file = read_pairs(
        name, encoding=settings.encoding,
        prompt_key=settings.prompt_key, completion_key=settings.completion_key,
    )  # fmt: skip
    for note in (f"{name}: {len(file.pairs):,} pairs, {file.fields}", *file.notes):
        screen.note(note)
    return file


def _scores(
    settings: EvaluateSettings, path: Path, sources: Sequence[str | PairsFile], screen: Screen
) -> list[TextScore | PairsScore]:
    """Return a model's score on each file."""
    from gencli.cli.places import cache_folder
    from gencli.model.folder import open_model
    from gencli.training.runtime import choose_runtime

    folder = open_model(path, cache_folder())
    runtime = choose_runtime(settings.device, precision=settings.precision, threads=settings.threads)
    model = _opened(folder, settings, runtime)
    files = [source for source in sources if not isinstance(source, str)]
    on_pairs = iter(_on_pairs(settings, files, folder, model, runtime, screen) if files else [])
    return [
        _on_text(settings, source, folder, model, runtime, screen)
        if isinstance(source, str)
        else next(on_pairs)
        for source in sources
    ]


def _on_pairs(
    settings: EvaluateSettings,
    files: Sequence[PairsFile],
    folder: ModelFolder,
    model: GPT | Rounded,
    runtime: Runtime,
    screen: Screen,
) -> list[PairsScore]:
    """Return the scores on files of pairs; with --calibrate fit the first model's confidence to them after."""
    from gencli.decoding.recall import open_recaller
    from gencli.evaluation.calibration import calibrate
    from gencli.evaluation.pairs import score_pairs
    from gencli.model.confidence import read_calibration

    if not folder.is_chat:
        screen.note(f"{folder.path} was not fine-tuned: it has never seen a question with its answer")
    calibration, note = read_calibration(folder.path)
    if note:
        screen.note(note)
    engine = _writer(folder, model, runtime)
    recaller = open_recaller(folder, engine, calibration, note) if settings.recall else None
    found = [
        score_pairs(
            file,
            folder,
            model,
            engine,
            runtime,
            calibration,
            rows=settings.batch_size,
            say=screen.note,
            recaller=recaller,
        )
        for file in files
    ]
    if settings.calibrate:
        pairs = [pair for file in files for pair in file.pairs]
        calibrate(folder, pairs, engine=engine, say=screen.note)
    return found


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


def _writer(folder: ModelFolder, model: GPT | Rounded, runtime: Runtime) -> Engine:
    """Return what writes a model's own answers: on a CPU the engine that is faster there."""
    from gencli.evaluation.cost import Rounded

    if isinstance(model, Rounded):
        return model.engine
    if runtime.device.type == "cpu":
        from gencli.decoding.engines import open_engine

        return open_engine(folder, engine="cpu", threads=runtime.threads)
    from gencli.decoding.torch_engine import TorchEngine

    return TorchEngine(model)


def _on_text(
    settings: EvaluateSettings,
    name: str,
    folder: ModelFolder,
    model: GPT | Rounded,
    runtime: Runtime,
    screen: Screen,
) -> TextScore:
    from gencli.cli.places import cache_folder
    from gencli.evaluation.text import score_text
    from gencli.text.corpus import open_corpus
    from gencli.text.tokens import tokenize_corpus

    corpus = open_corpus([name], encoding=settings.encoding, text_field=settings.text_field)
    tokens = tokenize_corpus(corpus, folder.tokenizer, cache_folder())
    for note in tokens.notes:
        screen.note(note)
    return score_text(
        name, tokens, model, folder.tokenizer, runtime, path=folder.path, rows=settings.batch_size
    )


def _write_errors(path: Path, scores: Sequence[TextScore | PairsScore], screen: Screen) -> None:
    """Write a row for each pair that a model got wrong, the surest first."""
    from gencli.evaluation.pairs import PairsScore
    from gencli.storage import replace_file

    wrong = [
        (score.model, one)
        for score in scores
        if isinstance(score, PairsScore)
        for one in sorted(score.judged, key=lambda one: -one.confidence)
        if not one.exact
    ]
    rows = [
        {
            "file": one.pair.file, "line": one.pair.line, "model": model, "prompt": one.pair.prompt,
            "expected": one.pair.completion, "said": one.said, "confidence": round(one.confidence, 6),
        }
        for model, one in wrong
    ]  # fmt: skip
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    screen.note(f"{len(rows):,} wrong answers are in {path}, the surest first")


def _as_pairs(settings: EvaluateSettings, name: str) -> bool:
    from gencli.evaluation.text import has_texts_only, looks_like_pairs

    if settings.pairs is not None:
        return settings.pairs
    if name.endswith(".jsonl"):
        return not has_texts_only(name, settings.text_field)
    return looks_like_pairs(name)
