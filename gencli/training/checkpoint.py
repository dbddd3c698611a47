"""Checkpoints: folders that appear whole, are verified before they are trusted, and are pruned last.

training/step-00000500/
  weights.safetensors  optimizer.safetensors  state.json
  MANIFEST.json        sha256 and size of each file
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gencli.errors import RunStateError
from gencli.storage import digest_of, remove_folder, staged_folder, tensors_refused, told_as_machine_error

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "MANIFEST.json",
)
_FILES = (WEIGHTS, OPTIMIZER, STATE)
_NAME = re.compile(r"^step-(\d{8})$")
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, object]


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of `step` stands inside the run's folder."""
    return run / f"step-{step:08d}"


def save(
    run: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, object],
) -> Path:
    """Write the checkpoint of `step`, verify it, and only then prune older ones; return its folder.

    Raises MachineError if the disk refuses; older checkpoints are then untouched.
    """
    target = folder_of(run, step)
    if target.exists():
        if flaw(target) is None:
            return target
        target.replace(run / f".bad-{target.name}")
    with staged_folder(target) as staging:
        for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
            try:
                save_file({key: t.detach().contiguous() for key, t in tensors.items()}, staging / name)
            except SafetensorError as error:
                raise tensors_refused(target, error) from error
        (staging / STATE).write_text(json.dumps(state), encoding="utf-8")
        files = {
            name: {"bytes": (staging / name).stat().st_size, "sha256": digest_of(staging / name)}
            for name in _FILES
        }
        manifest = {"format": FORMAT, "step": step, "files": files}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    prune(run)
    return target


def prune(run: Path, keep: int = KEPT) -> None:
    """Delete all checkpoints but the newest `keep`."""
    with told_as_machine_error(run):
        for step in steps_in(run)[:-keep]:
            remove_folder(folder_of(run, step))


def steps_in(run: Path) -> list[int]:
    """Return the steps that have a checkpoint folder, oldest first; nothing else in the folder counts."""
    if not run.is_dir():
        return []
    entries = [entry for entry in run.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return sorted(int(match.group(1)) for entry in entries if (match := _NAME.match(entry.name)))


def newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, and for each newer one why it was passed over.

    Raises RunStateError when there are checkpoints and none is whole: never a silent fresh start.
    """
    reasons: list[str] = []
    for step in reversed(steps_in(run)):
        folder = folder_of(run, step)
        reason = flaw(folder)
        if reason is None:
            return _read(folder, step), reasons
        reasons.append(f"{folder.name}: {reason}")
    if reasons:
        raise RunStateError(
            "no checkpoint of this run is whole",
            where="; ".join(reasons),
            kept="nothing was deleted",
            hint="train into another folder, or delete this run's training folder to start over",
        )
    return None, []


def flaw(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if every file is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']} is not {FORMAT}"
        for name in _FILES:
            listed, file = manifest["files"][name], folder / name
            if file.stat().st_size != listed["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {listed['bytes']}"
            if digest_of(file) != listed["sha256"]:
                return f"the sha256 of {name} differs"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} can't be read ({type(error).__name__})"
    return None


def _read(folder: Path, step: int) -> Checkpoint:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Checkpoint(step, load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER), state)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunStateError(f"a verified checkpoint can't be read: {error}", where=str(folder)) from error


def remove(run: Path, step: int) -> None:
    """Delete one checkpoint."""
    with told_as_machine_error(run):
        remove_folder(folder_of(run, step))
