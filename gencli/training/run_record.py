"""What a run was asked for, kept in its folder so that it can be resumed, and only as itself."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gencli.errors import RunStateError
from gencli.storage import replace_file

NAME = "run.json"

# Settings that may change when a run goes on: how long, how often it reports, where it computes.
FREE = frozenset(
    [
        "config",
        "json",
        "quiet",
        "memory",
        "model",
        "output",
        "time",
        "steps",
        "tokens",
        "epochs",
        "device",
        "threads",
        "precision",
        "resume",
        "overwrite",
        "rows_at_once",
        "evaluations",
        "evaluate_every",
        "save_every",
        "patience",
        "sample_prompt",
        "shard",
        "compile",
        "dry_run",
    ]
)

# Settings that may differ between the processes of one run.
OWN = frozenset(["config", "json", "quiet", "model", "output", "device", "threads", "compile"])


@dataclass(frozen=True)
class RunRecord:
    """The command, its settings, the digests of what it learns from, and a name for this run alone."""

    command: str
    settings: dict[str, object]
    digests: dict[str, str]
    launch: str = ""  # torchrun's id of the launch, if it was one
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def write(self, run: Path) -> None:
        """Keep the record in the run's folder."""
        replace_file(run / NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str) + "\n")


def read_record(run: Path) -> RunRecord:
    """Return the record of the run in a folder. Raises RunStateError if there is none."""
    try:
        record = RunRecord(**json.loads((run / NAME).read_text(encoding="utf-8")))
        if not isinstance(record.settings, dict) or not isinstance(record.digests, dict):
            raise TypeError("it lists no settings and digests")
        return record
    except FileNotFoundError:
        raise RunStateError(
            "there is no run to resume", where=str(run), hint="leave out --resume to begin one"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunStateError(f"the run's record can't be read: {error}", where=str(run / NAME)) from error


def check_same(record: RunRecord, settings: Mapping[str, object], digests: Mapping[str, str]) -> None:
    """Raise RunStateError naming what differs, if a resumed run would not be the same run."""
    asked = json.loads(json.dumps(dict(settings), default=str))
    changed = [
        f"{name} {record.settings[name]!r} -> {value!r}"
        for name, value in asked.items()
        if name not in FREE and name in record.settings and record.settings[name] != value
    ]
    if changed:
        raise RunStateError(
            "a resumed run keeps its settings; these differ: " + ", ".join(changed[:6]),
            hint="leave these flags out, or begin a new run in another folder",
        )
    for name, digest in digests.items():
        if record.digests.get(name, digest) != digest:
            raise RunStateError(
                f"the {name} changed since the run began",
                where=f"sha256 was {record.digests[name][:12]}, is {digest[:12]}",
                hint=f"put the old {name} back, or begin a new run in another folder",
            )


def check_alike(ours: RunRecord, first: Mapping[str, dict[str, object]]) -> None:
    """Raise RunStateError naming what differs, if a process was given another run than the first process."""
    record = json.loads(json.dumps(asdict(ours), default=str))
    differing = [
        name
        for part in ("settings", "digests")
        for name, value in record[part].items()
        if name not in OWN and first[part].get(name) != value
    ]
    if differing:
        raise RunStateError(
            f"the processes of this run differ in: {', '.join(differing[:6])}",
            kept="nothing was touched",
            hint="give every machine the same command, and the same files",
        )
