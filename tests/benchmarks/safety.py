"""What safety costs: seconds of a save, its share of a run, and seconds to verify a gigabyte.

    python -m tests.benchmarks.safety [FOLDER]

Prints one JSON line a figure. Checkpoints are written into FOLDER (by default the system's temporary one): the
disk decides much.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gencli.model.gpt import GPT
from gencli.model.scoring import total_loss
from gencli.model.shape import preset
from gencli.training import checkpoint
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.runtime import choose_runtime
from tests.benchmarks.training import Figure, machine, seconds_per_call

SIZES = (("small", 16_000), ("base", 50_000))  # about 20 and 160 million weights
SAVES = 5
RUN_SECONDS, SAVES_IN_A_RUN = 600.0, 10  # a run without any limit in time, and its evaluations
ROWS = 4


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the cost of saving and of verifying for models of each size."""
    runtime = choose_runtime()
    for size, vocabulary in SIZES:
        shape = preset(size, vocabulary)
        model = GPT(shape).initialise(torch.Generator().manual_seed(0))
        optimizer = Optimizer(model, Rates(), dtype=runtime.dtype)
        tokens = torch.from_numpy(np.arange(ROWS * 256).reshape(ROWS, -1) % vocabulary)

        def step(model: GPT = model, optimizer: Optimizer = optimizer, tokens: torch.Tensor = tokens) -> None:
            with runtime.precision():
                loss = total_loss(model, tokens, tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.clip(1.0)
            optimizer.step(0.001)

        step()
        step_seconds = statistics.median(seconds_per_call(step) for _ in range(3))
        weights, state = dict(model.named_parameters()), optimizer.state()
        counter = itertools.count(1)
        run = folder / size

        def save(run: Path = run, weights: dict[str, torch.nn.Parameter] = weights,
                 state: dict[str, torch.Tensor] = state, counter: Iterator[int] = counter) -> None:  # fmt: skip
            number = next(counter)
            checkpoint.save(
                run,
                number,
                run_id="benchmark",
                weights=weights,
                optimizer=state,
                state={"run": {"step": number}},
            )

        save_seconds = statistics.median(seconds_per_call(save) for _ in range(SAVES))
        newest = checkpoint.folder_of(run, SAVES)
        nbytes = sum(file.stat().st_size for file in newest.iterdir())
        verify_seconds = statistics.median(
            seconds_per_call(partial(checkpoint.flaw, newest)) for _ in range(3)
        )
        yield {
            "figure": "safety", "parameters": shape.parameters, "checkpoint_bytes": nbytes,
            "save_seconds": round(save_seconds, 3), "save_mb_per_second": round(nbytes / save_seconds / 1e6),
            "step_seconds": round(step_seconds, 3), "share_of_a_run": round(save_seconds * SAVES_IN_A_RUN / RUN_SECONDS, 5),
            "verify_seconds_per_gb": round(verify_seconds / nbytes * 1e9, 3),
            "written_at": time.strftime("%Y-%m-%d"),
        }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        for figure in itertools.chain([machine()], figures(Path(place))):
            sys.stdout.write(json.dumps(figure) + "\n")
            sys.stdout.flush()
