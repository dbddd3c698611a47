"""How fast a model gets good: throughput beside a peer, time to a quality, runs of a given time, growth.

    python -m tests.benchmarks.training throughput [ROWS ...]
    python -m tests.benchmarks.training quality CORPUS BITS TIME [TIME ...]
    python -m tests.benchmarks.training budgets CORPUS TIME [TIME ...]
    python -m tests.benchmarks.training growth [LARGEST_BYTES]

Each prints one JSON line a figure. Peers come with the extra `benchmarks`.

throughput  whole training steps (forward, backward, clip, update) of 6 layers of width 384, context 256, a
            vocabulary of 256, in turn with Hugging Face's GPT-2 of that shape (eager, float32, AdamW), and the
            speed of a plain matrix product measured between them; ours eager, then compiled
quality     whole processes of growing --time, each in an empty folder with an empty cache, until the last tenth
            of the text costs at most BITS bits per byte, read in windows of the model's context without overlap
budgets     the same for each --time: how long the process took, and what the held-out tenth costs
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gencli.knobs import seconds_of
from gencli.model.gpt import GPT
from gencli.model.scoring import Batch
from gencli.model.shape import Shape, hidden_for
from gencli.training.gradients import Gradients
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.runtime import Runtime, choose_runtime, undisturbed
from gencli.training.world import World
from tests.benchmarks.everyday import gencli
from tests.benchmarks.growth import LARGEST
from tests.benchmarks.growth import figures as growth_figures

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY = 6, 384, 6, 256, 256
ROUNDS = 7
Figure = dict[str, object]
Step = Callable[[], object]


def seconds_per_call(work: Step) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def product_speed(dtype: torch.dtype, size: int = 2048) -> float:
    """Return the floating-point operations a second of a square matrix product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / min(seconds_per_call(lambda: a @ b) for _ in range(5))


def our_step(rows: int, runtime: Runtime) -> Step:
    """Return a training step of ours on random tokens."""
    shape = Shape(
        vocabulary=VOCABULARY, layers=LAYERS, width=WIDTH, heads=HEADS, kv_heads=HEADS, head_width=WIDTH // HEADS,
        hidden=hidden_for(WIDTH), context=CONTEXT,
    )  # fmt: skip
    model = GPT(shape).initialise(torch.Generator().manual_seed(0)).to(runtime.device)
    optimizer = Optimizer(model, Rates(), dtype=runtime.dtype)
    ids = torch.randint(0, VOCABULARY, (rows, CONTEXT + 1)).numpy()
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), rows * CONTEXT)
    gradients = Gradients(model, runtime, World(), seed=0, rows_at_once=0, example=batch)

    def step() -> None:
        gradients.backward(batch, 0)
        optimizer.clip(1.0)
        optimizer.step(0.01)

    return step


def peer_step(rows: int) -> Step:
    """Return a training step of Hugging Face's GPT-2 of the same shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, VOCABULARY, (rows, CONTEXT))

    def step() -> None:
        model(tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def operations_per_token() -> float:
    """Return the floating-point operations of a token's forward and backward pass: 6 a weight and key."""
    block = 4 * WIDTH**2 + 3 * WIDTH * hidden_for(WIDTH)
    return (
        6.0 * (LAYERS * block + VOCABULARY * WIDTH) + 6.0 * LAYERS * WIDTH * CONTEXT
    )  # half of T keys, twice


def throughput(rows: int, *, compiled: bool) -> Iterator[Figure]:
    """Yield tokens a second of ours and of the peer, their ratio, and the share of the machine's ceiling."""
    runtime = replace(choose_runtime(), compiled=compiled)
    ours, peer = our_step(rows, runtime), peer_step(rows)
    for step in (ours, ours, peer, peer):
        step()
    our_seconds, peer_seconds, ceilings = [], [], []
    with undisturbed():
        for _ in range(ROUNDS):
            our_seconds += [seconds_per_call(ours) for _ in range(3)]
            peer_seconds.append(seconds_per_call(peer))
            ceilings.append(max(product_speed(dtype) for dtype in (torch.float32, torch.bfloat16)))
    tokens = rows * CONTEXT
    our_speed, peer_speed = (tokens / statistics.median(s) for s in (our_seconds, peer_seconds))
    ceiling = statistics.median(ceilings)
    yield {
        "figure": "throughput", "rows": rows, "runtime": runtime.describe(), "gencli_tokens_per_second": round(our_speed),
        "peer": "transformers GPT-2, eager float32, AdamW", "peer_tokens_per_second": round(peer_speed),
        "ratio": round(our_speed / peer_speed, 2), "ceiling_gflops": round(ceiling / 1e9),
        "share_of_ceiling": round(our_speed * operations_per_token() / ceiling, 3),
    }  # fmt: skip


def whole_run(corpus: Path, limit: str) -> Figure:
    """Pretrain in an empty folder with an empty cache; return how long it took and what the last tenth costs."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENCLI_CACHE"] = str(Path(folder) / "cache")
        model = Path(folder) / "model"
        began = time.monotonic()
        lines = gencli("pretrain", corpus, "-m", model, "--time", limit, "--json", "-q").splitlines()
        seconds = time.monotonic() - began
        records = {record["event"]: record for record in map(json.loads, lines)}
        raw = corpus.read_bytes()
        tail = Path(folder) / "tail.txt"
        tail.write_bytes(raw[int(len(raw) * 0.9) :].split(b"\n", 1)[1])
        score = json.loads(gencli("evaluate", tail, "-m", model, "--json", "-q").splitlines()[0])
    plan = records["plan"]
    return {
        "time": limit, "seconds": round(seconds, 2), "over": round(seconds / seconds_of(limit) - 1, 4),
        "bits_per_byte": round(score["bits_per_byte"], 4), "planned": plan["bits_per_byte"],
        "steps": records["done"]["steps"], "planned_steps": plan["steps"],
        "shape": f"{plan['layers']}x{plan['width']}, context {plan['context']}, vocabulary {plan['vocabulary']}",
    }  # fmt: skip


def quality(corpus: Path, bits: float, limits: Sequence[str]) -> Iterator[Figure]:
    """Yield whole runs of growing length, until one reaches the quality."""
    for limit in limits:
        run = whole_run(corpus, limit)
        reached = float(str(run["bits_per_byte"])) <= bits
        yield {"figure": "time to quality", "goal": bits, "reached": reached, **run}
        if reached:
            return


def budgets(corpus: Path, limits: Sequence[str]) -> Iterator[Figure]:
    """Yield a whole run for each time."""
    for limit in limits:
        yield {"figure": "budget", **whole_run(corpus, limit)}


def figures(arguments: Sequence[str]) -> Iterator[Figure]:
    """Yield the figures that the command line asks for."""
    which, *rest = arguments or ["throughput"]
    if which == "throughput":
        for rows in map(int, rest or ["8", "32"]):
            yield from throughput(rows, compiled=False)
            yield from throughput(rows, compiled=True)
    elif which == "quality":
        yield from quality(Path(rest[0]), float(rest[1]), rest[2:])
    elif which == "budgets":
        yield from budgets(Path(rest[0]), rest[1:])
    elif which == "growth":
        yield from growth_figures(int(rest[0]) if rest else LARGEST)
    else:
        raise SystemExit(__doc__)


def machine() -> Figure:
    """Return what the figures were measured on."""
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout.splitlines()
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("Model name")), platform.machine()
    )
    return {
        "figure": "machine",
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    for figure in itertools.chain([machine()], figures(sys.argv[1:])):
        sys.stdout.write(json.dumps(figure) + "\n")
        sys.stdout.flush()
