"""gencli classify: a label and its probability for each text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.prompt_rows import STDIN, PromptRow, arriving_rows
from gencli.cli.sureness import UNKNOWN
from gencli.errors import InputError, UsageError
from gencli.settings.decoding import ClassifySettings

if TYPE_CHECKING:
    from gencli.decoding.labeller import Labeller
    from gencli.ui import Screen


@command(
    app,
    ClassifySettings,
    example='gencli classify "정말 재미있었다" -m models/mood\n'
    "gencli classify --input reviews.txt -m models/mood --abstain 0.7\n"
    "tail -f app.log | gencli classify -m models/triage --json",
)
def classify(settings: ClassifySettings) -> None:
    """Label texts.

    A line for each text: its label and how likely that is. The model must have been fine-tuned on labels.
    """
    from gencli.cli.places import cache_folder
    from gencli.decoding.choices import split_choices
    from gencli.decoding.engines import open_engine
    from gencli.decoding.labeller import Labeller, check_labels
    from gencli.model.folder import open_model
    from gencli.ui import Screen

    screen = Screen(quiet=settings.quiet)
    windows = _windows(settings)
    given = split_choices(settings.labels, strip=True, flag="--labels") if settings.labels is not None else []
    folder = open_model(settings.model, cache_folder())
    check_labels(folder, given or folder.task.labels)
    engine = open_engine(folder, engine=settings.engine, device=settings.device, precision=settings.precision)
    job = _Job(settings, Labeller(folder, engine, given))
    if job.labeller.note:
        screen.note(job.labeller.note)
    for window in windows:
        if job.count:
            labelled = job.labelled(window)
        else:
            with screen.patient("compiling the decoding loop for this machine, once"):
                labelled = job.labelled(window)
        _write(labelled, settings)
    _tell_end(job, screen)


@dataclass(frozen=True)
class Labelled:
    """A row and each label's probability, the likeliest first; none for a row that can't be used."""

    row: PromptRow
    ranked: list[tuple[str, float]]


@dataclass
class _Job:
    """Labels windows of rows, and counts."""

    settings: ClassifySettings
    labeller: Labeller
    count: int = 0
    failed: int = 0
    first_failure: str = ""
    seconds: float = 0.0

    def labelled(self, window: Sequence[PromptRow]) -> list[Labelled]:
        """Return the rows of a window with their labels, in order."""
        began = time.monotonic()
        for row in window:
            if row.error:
                self.failed += 1
                self.first_failure = self.first_failure or f"line {row.line}: {row.error}"
        self.count += len(window)
        texts = [row.prompt for row in window if not row.error]
        found = iter(self.labeller.ranked(texts, rows=self.settings.batch_size))
        self.seconds += time.monotonic() - began
        return [Labelled(row, [] if row.error else next(found)) for row in window]


def _windows(settings: ClassifySettings) -> Iterator[list[PromptRow]]:
    """Return the rows to label, as they come."""
    from gencli.decoding.many import BATCHES_AHEAD

    texts, source = settings.texts, settings.input
    if texts and source is not None:
        raise UsageError("texts and --input can't both be given", hint="put all texts into the file")
    if texts and texts != ("-",):
        plain = (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in texts)
        return iter([[PromptRow(number, text) for number, text in enumerate(plain, 1)]])
    keys = tuple(dict.fromkeys((settings.text_field, "prompt")))
    return arriving_rows(
        source or STDIN, BATCHES_AHEAD * settings.batch_size, keys=keys, blanks=True, what="the texts"
    )


def _write(window: Sequence[Labelled], settings: ClassifySettings) -> None:
    """Write a window's rows on stdout: a line for each, whatever it holds."""
    from gencli.ui import emit, write

    if settings.json:
        for labelled in window:
            emit(_record(labelled, settings))
        return
    write("".join(_line(labelled, settings) for labelled in window))


def _line(labelled: Labelled, settings: ClassifySettings) -> str:
    if not labelled.ranked:
        return f"{UNKNOWN}\t0.0000\n"
    ranked = labelled.ranked if settings.all else labelled.ranked[:1]
    if settings.abstain is not None and labelled.ranked[0][1] < settings.abstain:
        ranked = [(UNKNOWN, labelled.ranked[0][1]), *(ranked if settings.all else [])]
    cells = [f"{' '.join(label.split())}\t{probability:.4f}" for label, probability in ranked]
    return "\t".join(cells) + "\n"


def _record(labelled: Labelled, settings: ClassifySettings) -> dict[str, object]:
    row = labelled.row
    record: dict[str, object] = {"line": row.line, **({} if row.id is None else {"id": row.id})}
    if not labelled.ranked:
        return {**record, "error": row.error}
    label, probability = labelled.ranked[0]
    record |= {"text": row.prompt, "label": label, "probability": round(probability, 6)}
    if settings.abstain is not None and probability < settings.abstain:
        record |= {"label": UNKNOWN, "withheld": label}
    if settings.all:
        record["probabilities"] = {name: round(share, 6) for name, share in labelled.ranked}
    return record


def _tell_end(job: _Job, screen: Screen) -> None:
    """Say how many were labelled how fast. Raises InputError if there was no text, or none of use."""
    where = str(job.settings.input or "stdin")
    if job.count == 0:
        raise InputError("there is no text here", where=where, hint="write one a line")
    if job.failed == job.count:
        raise InputError(
            f"none of {job.count:,} lines could be used", where=f"{where}, {job.first_failure}",
            hint=f'a line of a .jsonl is an object such as {{"{job.settings.text_field}": "..."}}',
        )  # fmt: skip
    if job.count > 1:
        screen.note(f"{job.count:,} texts, {60 * job.count / max(job.seconds, 1e-9):,.0f} a minute", "dim")
    if job.failed:
        screen.note(f"{job.failed:,} could not be used; the first: {where}, {job.first_failure}")
