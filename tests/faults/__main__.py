"""Run faults and print a JSON line for each."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import company, damage, full, kills, power, stops
from tests.faults.trial import prepare

Figure = dict[str, object]


@dataclass(frozen=True)
class Fault:
    """A fault, and how many trials of it are made in every test run and in the full one."""

    inject: Callable[..., Figure]
    fast: int
    full: int

    @property
    def name(self) -> str:
        """Return what it is called."""
        return self.inject.__name__


FAULTS = (
    Fault(kills.random_kills, 4, 200),
    Fault(kills.every_operation, 8, 10_000),
    Fault(power.power_loss, 150, 20_000),
    Fault(damage.bit_flips, 42, 301),
    Fault(damage.cuts, 4, 4),
    Fault(damage.manifests, 9, 9),
    Fault(damage.junk, 1, 1),
    Fault(damage.all_damaged, 1, 1),
    Fault(damage.torn_caches, 2, 20),
    Fault(full.refused_writes, 2, 20),
    Fault(full.refused_operations, 4, 60),
    Fault(full.full_disk, 3, 20),
    Fault(stops.signals, 3, 30),
    Fault(stops.signals_in_saves, 2, 20),
    Fault(stops.signals_in_phases, 1, 1),
    Fault(stops.not_finite, 2, 20),
    Fault(stops.impatience, 1, 5),
    Fault(company.two_trainers, 1, 5),
    Fault(company.reader_beside_trainer, 50, 500),
    Fault(company.lost_worker, 0, 4),
)


def figures(names: Sequence[str], *, complete: bool) -> Iterator[Figure]:
    """Inject the faults of these names, or all; yield what came of each."""
    prepare()
    for fault in FAULTS:
        trials = fault.full if complete else fault.fast
        if (names and fault.name not in names) or not trials:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            figure = fault.inject(Path(folder), trials=trials)
        yield {"fault": fault.name, **figure, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Print the figures; the exit code is 1 if one of them is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--full", action="store_true")
    asked = parser.parse_args()
    well = True
    for figure in figures(asked.names, complete=asked.full):
        well &= bool(figure["ok"])
        sys.stdout.write(json.dumps(figure) + "\n")
        sys.stdout.flush()
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
