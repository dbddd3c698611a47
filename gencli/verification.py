"""Is a model folder what was written? Every digest of the model and of its checkpoints, checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gencli.errors import GencliError
from gencli.model.adapter import ADAPTER
from gencli.model.confidence import CALIBRATION, read_calibration
from gencli.model.folder import LINEAGE, TRAINING, WEIGHTS, ModelFolder, open_model, read_json, weights_file
from gencli.model.memory import ROWS, memory_digests
from gencli.storage import digest_of
from gencli.training import checkpoint
from gencli.training.run_record import read_record


@dataclass(frozen=True)
class Finding:
    """What was found at a place of a model folder; `damaged` tells whether it can't be trusted."""

    place: str
    verdict: str
    damaged: bool = False


def verify(path: Path) -> Iterator[Finding]:
    """Yield a finding for each file of the published model, then for each checkpoint of its run.

    Reads every byte once, in constant memory. Raises ModelError for a folder that holds neither.
    """
    steps = checkpoint.steps_in(path / TRAINING)
    if not steps and not weights_file(path).exists():
        open_model(path)  # raises, with what is missing
    if not steps or (path / LINEAGE).is_file():
        yield from _published(path)
    if steps:
        yield from _checkpoints(path / TRAINING, steps)


def _published(path: Path) -> Iterator[Finding]:
    lineage = read_json(path / LINEAGE) if (path / LINEAGE).is_file() else {}
    files = lineage.get("files")
    for name, digest in files.items() if isinstance(files, dict) else ():
        yield _compared(path / Path(name).name, str(digest), lineage.get("weights_before"))
    try:
        folder = open_model(path)
        if not isinstance(files, dict):
            yield Finding(LINEAGE, "no digests on record: only the form was checked")
        yield from _form(folder)
        yield from _calibration(folder)
    except GencliError as error:
        yield Finding(Path(error.where).name or path.name, error.message, damaged=True)


def _compared(file: Path, digest: str, before: object) -> Finding:
    """Compare one file's digest with the one on record."""
    try:
        found = digest_of(file)
    except FileNotFoundError:
        return Finding(file.name, "missing", damaged=True)
    except OSError as error:
        return Finding(file.name, f"can't be read: {error.strerror}", damaged=True)
    if found == digest:
        return Finding(file.name, "as it was written")
    if file.name in (WEIGHTS, ADAPTER) and found == before:
        return Finding(file.name, "whole: those before the last publication, which was cut short")
    return Finding(file.name, f"its sha256 is {found[:12]}, not {digest[:12]}", damaged=True)


def _form(folder: ModelFolder) -> Iterator[Finding]:
    """Open the tokenizer and all weights."""
    pieces = folder.tokenizer.vocabulary
    count = len(folder.weights())
    yield Finding("model", f"opens: {count} tensors, {folder.shape.parameters:,} weights, {pieces:,} pieces")


def _calibration(folder: ModelFolder) -> Iterator[Finding]:
    """Tell whether the calibration, if there is one, is of these weights, and the memory is its own."""
    if (folder.path / CALIBRATION).exists():
        found, note = read_calibration(folder.path)
        if found.recall is not None:
            whole = memory_digests(folder.path) == found.recall.digests
            verdict = "as it was written" if whole else f"not the memory that {CALIBRATION} was fitted for"
            yield Finding(ROWS, verdict, damaged=not whole)
        yield Finding(CALIBRATION, "of these weights" if not note else "of other weights: it is not used")


def _checkpoints(training: Path, steps: list[int]) -> Iterator[Finding]:
    try:
        run_id: str | None = read_record(training).run_id
    except GencliError as error:
        yield Finding("run.json", error.message, damaged=True)
        run_id = None
    for step in reversed(steps):
        folder = checkpoint.folder_of(training, step)
        found = checkpoint.opened(folder, run_id)
        place = f"{TRAINING}/{folder.name}"
        if isinstance(found, str):
            yield Finding(place, found, damaged=True)
        else:
            tensors = len(found.weights) + len(found.optimizer)
            yield Finding(place, f"as it was written: {tensors} tensors, all finite")
