"""The pairs of a run: read, weighed, parted into what is learned and what is held out, and looked through."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gencli.errors import PairsError, UsageError
from gencli.knobs import nearest
from gencli.model.folder import ModelFolder, open_model
from gencli.model.ngrams import Ngrams
from gencli.model.task import Task, detected_task
from gencli.settings.training import FinetuneSettings
from gencli.text.examples import split_by_prompt
from gencli.text.labelled import told
from gencli.text.pairs import Pair, PairsFile, read_pairs
from gencli.text.survey import Survey, survey
from gencli.training.ngram_fitting import fitted_ngrams

SHOWN_LABELS = 6
LARGEST_WEIGHT = 1000.0


@dataclass(frozen=True)
class Lessons:
    """The base model and the pairs of a run; `weights` tells how often each pair to learn from is shown.

    Without any weights every one is shown once in an epoch.
    """

    base: ModelFolder
    files: tuple[PairsFile, ...]
    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    task: Task
    survey: Survey
    weights: tuple[float, ...] | None = None

    @property
    def digest(self) -> str:
        """Return a digest of all that is learned and held out."""
        digest = hashlib.sha256()
        for pair in (*self.train, *self.held_out):
            for turn in pair.turns:
                digest.update(f"{turn.role}\0{turn.text}\0".encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @cached_property
    def ngrams(self) -> Ngrams | None:
        """Return what n-grams say of the labels, fitted to the pairs to learn from; None for free answers."""
        if not self.task.has_labels:
            return None
        numbers = {label: number for number, label in enumerate(self.task.labels)}
        known = [place for place, pair in enumerate(self.train) if pair.completion in numbers]
        return fitted_ngrams(
            [self.train[place].prompt for place in known],
            [numbers[self.train[place].completion] for place in known],
            len(numbers),
            weights=[self.weights[place] for place in known] if self.weights else None,
        )

    @property
    def most_turns(self) -> int:
        """Return how many questions the longest conversation has."""
        pairs = (*self.train, *self.held_out)
        return max(sum(turn.role == "user" for turn in pair.turns) for pair in pairs)


def prepare_pairs(
    settings: FinetuneSettings, cache: Path, *, say: Callable[[str], None], place: Path | None = None
) -> Lessons:
    """Open the base model, read the pairs and hold some out. Raises PairsError where there are too few.

    The base is the model of the settings, or else that in the folder `place`.
    """
    if settings.output.resolve() == settings.model.resolve():
        raise UsageError("the fine-tuned model needs a folder of its own", hint="another folder with -o")
    if not settings.pairs:
        raise UsageError("which pairs?", hint="give at least one file, or - for stdin")
    shares = weights_of(settings.weight, settings.pairs)
    base = open_model(place or settings.model, cache)
    files = [_read(path, settings, say) for path in settings.pairs]
    pairs = [pair for file in files for pair in file.pairs]
    if settings.validation_pairs is not None:
        apart = _read(settings.validation_pairs, settings, say)
        train, held_out = pairs, list(apart.pairs)
        task = detected_task([*files, apart], settings.task)
    else:
        train, held_out = split_by_prompt(pairs, share=settings.validation)
        task = detected_task(files, settings.task)
    say(_told(task, asked=settings.task))
    if not train:
        raise PairsError("there is nothing to learn", hint="add pairs with other prompts")
    found = survey(files, train, held_out, task.labels)
    for note in found.notes:
        say(note)
    weights = _weighed(settings, task, train, dict(zip((_name(file) for file in files), shares, strict=True)))
    return Lessons(base, tuple(files), tuple(train), tuple(held_out), task, found, weights)


def weights_of(given: Sequence[str], pairs: Sequence[str]) -> list[float]:
    """Return the weight of each file, 1 unless `FILE=NUMBER` says otherwise. Raises UsageError."""
    weights = dict.fromkeys(pairs, 1.0)
    for text in given:
        name, _, number = text.rpartition("=")
        if name not in weights:
            raise UsageError(
                f"--weight {text!r} names none of the files{nearest(name or text, list(pairs))}",
                hint=f"write it like --weight '{pairs[0]}=2'",
            )
        try:
            weights[name] = float(number)
        except ValueError:
            raise UsageError(f"--weight: {number!r} is no number", hint=f"like {name}=0.5") from None
        if not 0 < weights[name] <= LARGEST_WEIGHT:
            raise UsageError(f"--weight must be above 0 and at most {LARGEST_WEIGHT:g}, not {number}")
    return [weights[name] for name in pairs]


def _read(path: str, settings: FinetuneSettings, say: Callable[[str], None]) -> PairsFile:
    file = read_pairs(
        path,
        encoding=settings.encoding,
        prompt_key=settings.prompt_key,
        completion_key=settings.completion_key,
    )
    for line in told(file, len(file.pairs), "pairs"):
        say(line)
    return file


def _name(file: PairsFile) -> str:
    return file.pairs[0].file


def _weighed(
    settings: FinetuneSettings, task: Task, train: Sequence[Pair], shares: dict[str, float]
) -> tuple[float, ...] | None:
    """Return how often each pair is shown in an epoch, None for once each."""
    if settings.balance and not task.has_labels:
        raise UsageError("--balance is for labels, and these are free answers", hint="leave it out")
    weights = [shares[pair.file] for pair in train]
    if settings.balance:
        totals: Counter[str] = Counter()
        for pair, weight in zip(train, weights, strict=True):
            totals[pair.completion] += weight  # type: ignore[assignment]
        even = sum(totals.values()) / len(totals)
        weights = [w * even / totals[pair.completion] for pair, w in zip(train, weights, strict=True)]
    return tuple(weights) if any(weight != 1.0 for weight in weights) else None


def _told(task: Task, *, asked: str) -> str:
    """Return the task in words, with the way out where it was guessed."""
    if not task.has_labels:
        return "task: free answers"
    some = ", ".join(task.labels[:SHOWN_LABELS]) + (", ..." if len(task.labels) > SHOWN_LABELS else "")
    guessed = "; --task answer would take them for free answers" if asked == "auto" else ""
    return f"task: {len(task.labels):,} labels ({some}){guessed}"
