"""gencli demo: the whole way on the embedded corpus, each command shown as a user would type it."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from gencli.cli.app import app, run
from gencli.cli.options import command
from gencli.errors import RunStateError
from gencli.settings.tools import DemoSettings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gencli.text.stories import Example
    from gencli.ui import Screen

MARKER = "demo.json"
TASKS = {
    "question": "questions about a story",
    "label": "sentences labelled",
    "translation": "Korean to English",
}
SHOWN = 3  # examples of each task
SCHOOL = "나는 학교에 간다"


@dataclass(frozen=True)
class Extent:
    """How much the demo does."""

    stories: int
    pairs: int
    tests: int
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]


FULL = Extent(3000, 6000, 300, ("--time", "40s", "--heads", "2"), ("--time", "58s", "--lr", "0.01"))
QUICK = Extent(
    400, 600, 60, ("--steps", "12", "--layers", "2", "--width", "64", "--context", "64"), ("--steps", "12")
)


@command(app, DemoSettings, example="gencli demo\ngencli demo --quick -o /tmp/demo")
def demo(settings: DemoSettings) -> None:
    """Show the whole way in two minutes.

    Tokenize, pretrain, finetune and generate on an embedded corpus in Korean and English.
    """
    from gencli.ui import Screen, emit

    screen = Screen(quiet=settings.quiet)
    extent = QUICK if settings.quick else FULL
    began = time.monotonic()
    folder = settings.output
    tests = write_material(folder, extent, settings.seed)
    base, tuned = str(folder / "base"), str(folder / "tuned")
    quiet = ["-q"] if settings.quiet or settings.json else []
    seed = ["--seed", str(settings.seed)]
    for arguments in (
        ["tokenize", str(folder / "corpus.txt"), "-m", base, "--vocab-size", "1200"],
        ["pretrain", str(folder / "corpus.txt"), "-m", base, *extent.pretrain, *seed],
        ["finetune", str(folder / "pairs.jsonl"), "-m", base, "-o", tuned, *extent.finetune, *seed],
    ):
        _typed(screen, arguments, quiet, json=settings.json)
    if not settings.json:
        for prompt in ("미나는", "One day Tom"):
            _typed(screen, ["generate", prompt, "-m", base, "-n", "80", *seed], quiet)
        _typed(screen, ["generate", SCHOOL, "-m", tuned, "-t", "0"], quiet)
    results = answered(folder / "tuned", tests)
    seconds = time.monotonic() - began
    if settings.json:
        emit({"event": "demo", "tasks": shares(results), "seconds": round(seconds, 1), "model": tuned})
        return
    _show(screen, results, seconds, folder)


def write_material(folder: Path, extent: Extent, seed: int) -> list[Example]:
    """Write the corpus and the pairs into the demo's folder; return the examples that stay untaught.

    What an earlier demo left there is replaced. Raises RunStateError for a folder that is no demo's.
    """
    from gencli.storage import remove_folder, replace_file, told_as_machine_error
    from gencli.text.stories import corpus_text, examples, pairs_lines, stories

    if folder.exists() and not (folder / MARKER).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunStateError(
            "this is not a demo's folder, and it is not empty",
            where=str(folder),
            kept="nothing was touched",
            hint="another folder with -o",
        )
    with told_as_machine_error(folder):
        for part in ("base", "tuned"):
            if (folder / part).is_dir():
                remove_folder(folder / part)
    corpus = corpus_text(stories(seed=seed, count=extent.stories))
    train, test = examples(seed=seed, train=extent.pairs, test=extent.tests)
    test = [example for example in test if not stands_in(corpus, example)]
    replace_file(folder / MARKER, '{"format": 1}\n')
    replace_file(folder / "corpus.txt", corpus)
    replace_file(folder / "pairs.jsonl", pairs_lines(train))
    replace_file(folder / "test.jsonl", pairs_lines(test))
    return test


def stands_in(corpus: str, example: Example) -> bool:
    """Tell whether the corpus has the example's sentence, or its question's story."""
    return re.search(r"(?<!\w)" + re.escape(example.prompt.split("\n")[0]), corpus) is not None


def answered(model: Path, tests: Iterable[Example]) -> list[tuple[Example, str]]:
    """Return each untaught example with the model's own answer."""
    from gencli.cli.places import cache_folder
    from gencli.decoding.engines import open_engine
    from gencli.evaluation.answers import answers
    from gencli.model.folder import open_model
    from gencli.text.chat import Turn
    from gencli.text.pairs import Pair

    known = {example.prompt: example for example in tests}
    pairs = [
        Pair((Turn("user", example.prompt), Turn("assistant", example.completion)), "demo", 0)
        for example in known.values()
    ]
    folder = open_model(model, cache_folder())
    engine = open_engine(folder, engine="torch")
    said = answers(pairs, engine, folder.tokenizer)
    return [(known[answer.pair.prompt], answer.text.strip()) for answer in said]


def shares(results: Iterable[tuple[Example, str]]) -> dict[str, float]:
    """Return the share of exactly right answers by task."""
    right: dict[str, list[bool]] = {task: [] for task in TASKS}
    for example, said in results:
        right[example.task].append(said == example.completion)
    return {task: round(sum(marks) / max(1, len(marks)), 4) for task, marks in right.items()}


def _typed(screen: Screen, arguments: list[str], quiet: list[str], *, json: bool = False) -> None:
    """Show a command as a user would type it, and run it. Stops the demo where the command fails."""
    screen.note("")
    screen.note(f"$ gencli {shlex.join(arguments)}", "bold")
    code = run([*arguments, *quiet, *(["--json"] if json else [])])
    if code:
        raise typer.Exit(code)


def _show(screen: Screen, results: list[tuple[Example, str]], seconds: float, folder: Path) -> None:
    right = shares(results)
    for task, title in TASKS.items():
        ours = [(example, said) for example, said in results if example.task == task]
        ours.sort(key=lambda result: result[0].prompt != SCHOOL)
        shown = ours[:SHOWN]
        rows = [
            (example.prompt.replace("\n", " / "), "→", said, _mark(example, said)) for example, said in shown
        ]
        screen.table(
            f"\n{title}: {right[task]:.0%} of {len(ours)} right, none of them ever seen in training", rows
        )
    screen.note(f"\nthe whole way took {seconds:.0f} s; everything is in {folder}")
    screen.note(f'try it: gencli generate -m {folder / "tuned"} "너는 시장에 간다"')


def _mark(example: Example, said: str) -> str:
    return "✓" if said == example.completion else f"✗ {example.completion}"
