"""python -m tests.fuzz: damaged files by the thousand, with figures as lines of JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.fuzz.targets import targets
from tests.fuzz.trials import FAILURES, Figures, Trials, opened


def main() -> int:
    """Run the inputs; return 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="open the input of this number here, with its traceback")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gencli-fuzz-") as folder:
        workplace = Path(folder)
        trials = Trials(targets(workplace), workplace, options.seed, options.jobs)
        if options.only is not None:
            return again(trials, options.only, workplace)
        return counted(trials, options.inputs)


def counted(trials: Trials, inputs: int) -> int:
    """Run the inputs and print each failure and the figures of each kind and of all."""
    began = time.monotonic()
    figures: dict[str, Figures] = defaultdict(Figures)
    for result in trials.results(range(inputs)):
        for name in (result.kind, "all"):
            each = figures[name]
            each.outcomes[result.outcome] += 1
            each.peak_bytes = max(each.peak_bytes, result.peak_bytes)
            each.slowest = max(each.slowest, result.seconds)
        if result.outcome in FAILURES:
            tell({
                "event": "failure", "seed": trials.seed, "number": result.number, "kind": result.kind,
                "outcome": result.outcome, "words": result.words[-1500:],
            })  # fmt: skip
    everything = figures.pop("all", Figures())
    for kind, each in sorted(figures.items()):
        tell(each.record(kind))
    seconds = round(time.monotonic() - began, 1)
    tell({**everything.record("all"), "seed": trials.seed, "seconds": seconds})
    return int(any(everything.outcomes[name] for name in FAILURES))


def again(trials: Trials, number: int, workplace: Path) -> int:
    """Open one input in this process."""
    target, data = trials.input(number)
    room = workplace / "again"
    room.mkdir()
    for part in target.room.iterdir() if target.room else ():
        (room / part.name).write_bytes(part.read_bytes())
    (room / target.name).write_bytes(data)
    code = opened(target, room / target.name)
    tell(
        {
            "event": "again",
            "kind": target.kind,
            "outcome": "refused" if code else "accepted",
            "start": repr(data[:200]),
        }
    )
    return 0


def tell(record: dict[str, object]) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
