"""Checkpoints: folders that appear whole, are verified before they are trusted, and are pruned last.

training/step-00000500/
  weights.safetensors  optimizer.safetensors  state.json
  MANIFEST.json        the run that wrote it, its step, and size and sha256 of each file
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gencli import storage
from gencli.errors import MachineError, RunStateError

FORMAT = 2
WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "MANIFEST.json",
)
_FILES = (WEIGHTS, OPTIMIZER, STATE)
_NAME = re.compile(r"^step-(\d{8})$")
_LARGEST_MANIFEST = 1 << 16
_ROOM = 1.02  # of what the tensors take, for all else
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
    run_id: str,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, object],
) -> Path:
    """Write the checkpoint of `step`, verify it, and only then prune older ones; return its folder.

    What stands there already under this name is kept if it is this run's and whole, and set aside if not.
    Raises MachineError if the disk refuses; older checkpoints are then untouched.
    """
    target = folder_of(run, step)
    try:
        with storage.told_as_machine_error(target):
            if target.exists() and flaw(target, run_id) is None:
                storage.flush_folder(run)  # a process that was killed may not have come to it
                return target
            if target.exists():
                storage.set_aside(target)
        _write(target, step, run_id, weights, optimizer, state)
    except MachineError as error:
        raise MachineError(
            error.message, where=error.where, kept=_standing(run, run_id), hint=error.hint
        ) from error
    prune(run, run_id)
    return target


def _write(
    target: Path,
    step: int,
    run_id: str,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, object],
) -> None:
    """Let the folder `target` appear with all its files."""
    storage.check_space(target.parent, bytes_of(weights, optimizer))
    with storage.staged_folder(target) as staging:
        for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
            storage.watch("write", staging / name)
            try:
                save_file({key: t.detach().contiguous() for key, t in tensors.items()}, staging / name)
            except SafetensorError as error:
                raise storage.tensors_refused(target, error) from error
        storage.write(staging / STATE, json.dumps(state))
        files = {
            name: {"bytes": (staging / name).stat().st_size, "sha256": storage.digest_of(staging / name)}
            for name in _FILES
        }
        manifest = {"format": FORMAT, "run": run_id, "step": step, "files": files}
        storage.write(staging / MANIFEST, json.dumps(manifest, indent=1))
    reason = flaw(target, run_id, digests=False)
    if reason is not None:
        raise MachineError(
            f"what was just written can't be read back: {reason}", where=str(target), hint="check the disk"
        )


def bytes_of(weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> int:
    """Return about how many bytes a checkpoint of these tensors takes on the disk."""
    return int(_ROOM * sum(t.nbytes for tensors in (weights, optimizer) for t in tensors.values())) + (
        1 << 16
    )


def _standing(run: Path, run_id: str) -> str:
    """Return which checkpoint stands, in words."""
    for step in reversed(steps_in(run)):
        if flaw(folder_of(run, step), run_id, digests=False) is None:
            return f"the checkpoint of step {step:,}"
    return "what was there before; this run has no checkpoint yet"


def prune(run: Path, run_id: str, keep: int = KEPT) -> None:
    """Delete all whole checkpoints of this run but the newest `keep`; whatever else is there stays."""
    with storage.told_as_machine_error(run):
        whole = [step for step in steps_in(run) if flaw(folder_of(run, step), run_id, digests=False) is None]
        for step in whole[:-keep]:
            storage.remove_folder(folder_of(run, step))


def clear(run: Path, run_id: str) -> None:
    """Make room for a new run: delete the checkpoints of the run before it, and set aside what is not its own."""
    with storage.told_as_machine_error(run):
        for step in steps_in(run):
            folder = folder_of(run, step)
            if _manifest_of(folder, run_id)[1] is None:
                storage.remove_folder(folder)
            else:
                storage.set_aside(folder)


def steps_in(run: Path) -> list[int]:
    """Return the steps that have a checkpoint folder, oldest first; nothing else in the folder counts."""
    if not run.is_dir():
        return []
    entries = [entry for entry in run.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return sorted(int(match.group(1)) for entry in entries if (match := _NAME.match(entry.name)))


def newest(run: Path, run_id: str | None = None) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint of this run that is whole, and for each newer one why it was passed over.

    Raises RunStateError when there are checkpoints and none is whole: never a silent fresh start.
    """
    reasons: list[str] = []
    for step in reversed(steps_in(run)):
        found = opened(folder_of(run, step), run_id)
        if isinstance(found, Checkpoint):
            return found, reasons
        reasons.append(f"{folder_of(run, step).name}: {found}")
    if reasons:
        raise RunStateError(
            "no checkpoint of this run is whole",
            where="; ".join(reasons),
            kept="nothing was deleted",
            hint="train into another folder, or delete this run's training folder to start over",
        )
    return None, []


def opened(folder: Path, run_id: str | None = None) -> Checkpoint | str:
    """Return the checkpoint in a folder, or what is wrong with it."""
    reason = flaw(folder, run_id)
    if reason is not None:
        return reason
    try:
        state = state_in(folder)
        weights, optimizer = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        step = int(state["run"]["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        return f"its files can't be read ({error})"
    for name, tensor in [*weights.items(), *optimizer.items()]:
        if not math.isfinite(float(tensor.sum())):
            return f"{name} holds numbers that are not finite"
    return Checkpoint(step, weights, optimizer, state)


def state_in(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint remembers besides tensors. Raises OSError or ValueError if it can't be read."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def flaw(folder: Path, run_id: str | None = None, *, digests: bool = True) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if every file is as its manifest says.

    With `run_id` None it may be of any run. Without `digests` the files are not read, only their sizes compared.
    """
    files, reason = _manifest_of(folder, run_id)
    flaws = (_flaw_of_file(folder / name, files.get(name), digests=digests) for name in _FILES)
    return reason or next((flaw for flaw in flaws if flaw), None)


def _flaw_of_file(file: Path, listed: object, *, digests: bool) -> str | None:
    """Return what is wrong with one file, given what the manifest has of it."""
    if not isinstance(listed, dict):
        return f"{MANIFEST} does not list {file.name}"
    try:
        size = file.lstat().st_size
        if file.is_symlink() or size != listed.get("bytes"):
            return f"{file.name} has {size} bytes, not {listed.get('bytes')}"
        if digests and storage.digest_of(file) != listed.get("sha256"):
            return f"the sha256 of {file.name} differs"
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{file.name} is missing" if missing else f"{file.name} can't be read ({error.strerror})"
    return None


def _manifest_of(folder: Path, run_id: str | None) -> tuple[dict[str, object], str | None]:
    """Return what the manifest lists, and why it can't be trusted if it can't."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            return {}, f"{MANIFEST} is too large to be one"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        listed = {name: manifest[name] for name in ("format", "run", "step", "files")}
    except FileNotFoundError:
        return {}, f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {}, f"{MANIFEST} can't be read ({type(error).__name__})"
    step = int(folder.name.removeprefix("step-"))
    reason = None
    if listed["format"] != FORMAT:
        reason = f"its format {listed['format']} is not {FORMAT}"
    elif run_id is not None and listed["run"] != run_id:
        reason = "it is of another run"
    elif listed["step"] != step:
        reason = f"its manifest is of step {listed['step']}"
    files = listed["files"]
    return files if isinstance(files, dict) else {}, reason
