"""A disk that refuses: no room before a save, no room in the middle of one, and errors of every operation."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gencli.errors import MachineError
from tests.faults.trial import Ended, Place, at_operation

Figure = dict[str, object]
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


def refused_writes(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Let files grow to a random size at most from some write on: the last good step is kept, exit 4."""
    draw = random.Random(seed)

    def refusal() -> Callable[[], None]:
        limit = draw.randrange(1, 200_000)
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return _refused(root / "write", trials, "write", 60, refusal, seed)


def refused_operations(root: Path, *, trials: int, seed: int = 1) -> Figure:
    """Let one operation on the disk fail with an error of the system: the last good step is kept, exit 4."""
    draw = random.Random(seed)

    def refusal() -> Callable[[], None]:
        number = draw.choice(ERRORS)

        def fail() -> None:
            raise OSError(number, os.strerror(number))

        return fail

    return _refused(root / "operation", trials, "", 300, refusal, seed)


def _refused(
    root: Path, trials: int, only: str, most: int, refusal: Callable[[], Callable[[], None]], seed: int
) -> Figure:
    """Run with a refusal at a random operation, then without it; return what came of all trials."""
    straight = Place(root / "straight")
    expected, draw = straight.finished(), random.Random(seed)
    told = lost = wrong = left = 0
    for trial in range(trials):
        place = straight.beside(f"trial-{trial}")
        ended = place.watched(place.arguments(), at_operation(draw.randrange(most), refusal(), only=only))
        told += _is_told(ended)
        lost += place.newest() < ended.announced()
        wrong += place.finished() != expected
        left += any(place.model.rglob(".tmp-*"))
    return {
        "refusals": trials, "exit_4_with_a_next_step": told, "checkpoints_lost": lost, "staging_left": left,
        "runs_not_recovered": wrong, "ok": told == trials and lost == left == wrong == 0,
    }  # fmt: skip


def _is_told(ended: Ended) -> bool:
    lines = ended.err.strip().splitlines()
    return (
        ended.code == MachineError.exit_code
        and 2 <= len(lines) <= 6
        and any("try:" in line for line in lines)
    )


def full_disk(root: Path, *, trials: int) -> Figure:
    """Train on small real disks that are full sooner or later: exit 4, and the newest step announced stands."""
    command = [sys.executable, "-m", "tests.faults.full", str(root), str(trials)]
    done = subprocess.run(
        ["unshare", "-rm", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        return {"disks": 0, "skipped": "this system lets no user mount a small disk", "ok": True}
    assert done.returncode == 0, done.stderr
    full, lost, wrong = map(int, done.stdout.split())
    return {"disks": trials, "ended_full": full, "checkpoints_lost": lost, "not_told": wrong,
            "ok": full >= trials // 2 and lost == wrong == 0}  # fmt: skip


def _on_small_disks(root: Path, trials: int) -> int:
    """Make the trials of `full_disk`, inside a name space of its own; print what came of them."""
    from tests.faults.trial import prepare

    prepare()
    full = lost = wrong = 0
    for trial in range(trials):
        place = Place(root / f"disk-{trial}")
        place.model.mkdir(exist_ok=True)
        size = f"size={250 + trial * 120}k"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place.model], check=False).returncode:
            return 77
        ended = place.ran(place.arguments())
        full += ended.code == MachineError.exit_code
        wrong += ended.code != 0 and not _is_told(ended)
        lost += place.newest() < ended.announced()
    sys.stdout.write(f"{full} {lost} {wrong}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(_on_small_disks(Path(sys.argv[1]), int(sys.argv[2])))
