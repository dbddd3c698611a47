"""Damage on the disk: flipped bits, cut and missing files, and things that look like checkpoints."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from gencli.errors import GencliError, RunStateError
from gencli.training import checkpoint
from gencli.verification import verify
from tests.faults.trial import STEPS, Place

Figure = dict[str, object]


def bit_flips(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Flip one bit in a file of the newest checkpoint or of the published model: found, and never loaded."""
    place = Place(root / "flipped")
    place.finished()
    draw, found, loaded = random.Random(seed), 0, 0
    checkpoint_files = sorted(checkpoint.folder_of(place.training, STEPS).iterdir())
    published = [place.model / name for name in ("model.safetensors", "config.json", "tokenizer.model")]
    files = [*checkpoint_files, *published]
    for trial in range(trials):
        file = files[trial % len(files)]
        data = file.read_bytes()
        place_of_bit = draw.randrange(len(data) * 8)
        changed = bytearray(data)
        changed[place_of_bit // 8] ^= 1 << place_of_bit % 8
        file.write_bytes(changed)
        damaged = [f"{finding.place} {finding.verdict}" for finding in verify(place.model) if finding.damaged]
        found += any(file.name in line or file.parent.name in line for line in damaged)
        loaded += file in checkpoint_files and place.newest() == STEPS
        file.write_bytes(data)
    whole = not any(finding.damaged for finding in verify(place.model))
    return {"flips": trials, "found": found, "loaded": loaded, "ok": found == trials and not loaded and whole}


def cuts(root: Path, *, trials: int) -> Figure:
    """Cut or remove each file of the newest checkpoint: the one before is taken, and nothing is deleted."""
    place = Place(root / "cut")
    place.finished()
    newest = checkpoint.folder_of(place.training, STEPS)
    made = passed_over = 0
    for file in sorted(newest.iterdir())[:trials]:
        data = file.read_bytes()
        for length in (None, 0, 1, len(data) // 2, len(data) - 1):
            file.unlink()
            if length is not None:
                file.write_bytes(data[:length])
            made += 1
            passed_over += place.newest() == STEPS - 2 and newest.exists()
            file.write_bytes(data)
    return {"cuts": made, "passed_over": passed_over, "ok": made == passed_over and place.newest() == STEPS}


MANIFESTS: dict[str, object] = {
    "no JSON": "{",
    "empty": "",
    "a list": [],
    "another run": {"run": "0123456789abcdef"},
    "a newer format": {"format": 99},
    "another step": {"step": 1},
    "a path outside": {"files": {"../../../corpus.txt": {"bytes": 1, "sha256": ""}}},
    "deep": "[" * 50_000,
    "large": " " * (1 << 17),
}


def manifests(root: Path, *, trials: int) -> Figure:
    """Put strange manifests into the newest checkpoint: passed over, with the reason."""
    place = Place(root / "manifests")
    place.finished()
    file = checkpoint.folder_of(place.training, STEPS) / checkpoint.MANIFEST
    good = json.loads(file.read_text("utf-8"))
    passed_over = 0
    for strange in list(MANIFESTS.values())[:trials]:
        content = {**good, **strange} if isinstance(strange, dict) else strange
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        passed_over += place.newest() == STEPS - 2
    file.write_text(json.dumps(good), encoding="utf-8")
    made = min(trials, len(MANIFESTS))
    return {
        "manifests": made,
        "passed_over": passed_over,
        "ok": passed_over == made and place.newest() == STEPS,
    }


def junk(root: Path, *, trials: int) -> Figure:
    """Put what only looks like a checkpoint beside the real ones, and go on: it neither counts nor goes."""
    place = Place(root / "junk")
    place.finished(steps=STEPS // 2)
    training = place.training
    empty, other = training / "step-99999999", training / "step-00000099"
    kept = [empty, training / "step-12.bak", training / "xstep-00000003", training / ".tmp-x-1"]
    for folder in kept:
        folder.mkdir()
    shutil.copytree(checkpoint.folder_of(training, STEPS // 2), other)
    manifest = json.loads((other / checkpoint.MANIFEST).read_text("utf-8"))
    (other / checkpoint.MANIFEST).write_text(json.dumps({**manifest, "run": "ffff", "step": 99}), "utf-8")
    link = training / "step-00000500"
    link.symlink_to(checkpoint.folder_of(training, STEPS // 2))
    ahead = checkpoint.folder_of(training, STEPS // 2 + 2)
    ahead.mkdir()  # a broken one where the run is going to save
    place.finished()
    stand = [*kept, other, link]
    ours = [step for step in checkpoint.steps_in(training) if step <= STEPS]
    aside = list(training.glob(f".bad-{ahead.name}-*"))
    still = sum(os.path.lexists(folder) for folder in stand)
    return {
        "planted": len(stand) + 1, "still_there": still, "set_aside": len(aside), "own_steps": ours,
        "ok": still == len(stand) and len(aside) == 1 and ours == [STEPS - 2, STEPS] and trials > 0,
    }  # fmt: skip


def all_damaged(root: Path, *, trials: int) -> Figure:
    """Damage every checkpoint: resuming is refused with a reason for each, and nothing is deleted."""
    place = Place(root / "all")
    place.finished()
    for step in checkpoint.steps_in(place.training):
        file = checkpoint.folder_of(place.training, step) / checkpoint.WEIGHTS
        file.write_bytes(file.read_bytes()[:-1])
    before = sorted(place.model.rglob("*"))
    ended = place.ran(place.arguments("--resume", steps=2 * STEPS))
    named = sum(f"step-{step:08d}" in ended.err for step in checkpoint.steps_in(place.training))
    refused = ended.code == RunStateError.exit_code and named == 2
    return {
        "exit": ended.code,
        "reasons": named,
        "ok": refused and before == sorted(place.model.rglob("*")) and trials > 0,
    }


def torn_caches(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Cut or flip the cached tokens: they are made again, and the run ends with the same weights."""
    place = Place(root / "torn")
    expected, draw, same = place.finished(), random.Random(seed), 0
    for trial in range(trials):
        tokens = next((place.root / "cache").glob("*/tokens.json" if trial % 2 else "*/tokens.bin"))
        data = bytearray(tokens.read_bytes())
        if draw.random() < 0.5:
            data = data[: draw.randrange(len(data))]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        tokens.write_bytes(data)
        shutil.rmtree(place.model)
        try:
            same += place.finished() == expected
        except (GencliError, AssertionError):
            continue
    return {"torn": trials, "same_weights": same, "ok": same == trials}
