"""What a user waits for: help, tokenising, a training step, the first token, the next ones.

    python -m tests.benchmarks.everyday CORPUS

Whole processes are run several times and the median is printed; peers are not part of this script.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 5


def show(name: str, value: float, unit: str) -> None:
    """Print one figure as a JSON line."""
    sys.stdout.write(json.dumps({"figure": name, "value": round(value, 3), "unit": unit}) + "\n")
    sys.stdout.flush()


def median_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """Return the median time of `work` over several runs, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def gencli(*arguments: object) -> bytes:
    """Run the program; return what it printed."""
    command = [sys.executable, "-m", "gencli", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def main(corpus: Path) -> None:
    """Measure everything on one text."""
    bare = median_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    show("help, beyond a bare interpreter", median_seconds(lambda: gencli("-h")) - bare, "s")
    size = corpus.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        tokenize = median_seconds(
            lambda: gencli("tokenize", corpus, "-m", model, "--overwrite", "-q"), runs=3
        )
        show("tokenize, whole process with report", size / tokenize, "MB/s")
        lines = gencli(
            "pretrain", corpus, "-m", model, "--steps", 60, "--size", "nano", "--json", "-q"
        ).splitlines()
        steps = [record for record in map(json.loads, lines) if record["event"] == "step"][10:]
        rate = statistics.median(step["tokens_per_second"] for step in steps)
        show("pretrain nano, one step", rate, "tokens/s")
        first = median_seconds(lambda: gencli("generate", "", "-m", model, "-n", 1, "-q", "-s", 1))
        show("generate -n 1, whole process", first, "s")
        sample = json.loads(gencli("generate", "", "-m", model, "-n", 400, "-s", 1, "--json", "-q"))
        show("generate, batch 1", float(sample["tokens_per_second"]), "tokens/s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
