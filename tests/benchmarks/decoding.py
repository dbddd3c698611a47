"""How fast text comes out: gencli beside llama.cpp and transformers, the same weights given to each.

    python -m tests.benchmarks.decoding [--only PART ...] [--shape SHAPE ...] [--peers PEER ...] [--batch ROWS ...]
                                        [--repeats N] [--folder FOLDER]

Prints one JSON line a figure: medians over the repeats, which go round all engines in turn, and their ratio, above
1 where gencli is faster. Each engine has a process of its own. Peers come with the extra `benchmarks`. `--folder`
keeps the models for the next call.

decode    256 new tokens after a prompt of 16, at batch 1 and 8
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gencli.model.folder import ModelFolder
from tests.benchmarks.decoding_models import gguf_of, model_in, shape_of
from tests.benchmarks.decoding_workers import CORES
from tests.benchmarks.training import Figure, machine

SHAPES = {"4x128": (4, 128, 512), "6x384": (6, 384, 8192), "12x768": (12, 768, 32_000)}
PEERS = ("llama", "transformers")
PROMPT, NEW = 16, 256


@dataclass
class Worker:
    """A process that an engine runs in, and what it took so far by (rows, prompt, new)."""

    name: str
    command: tuple[str, ...]
    seconds: dict[tuple[int, int, int], list[float]] = field(default_factory=dict)

    def __enter__(self) -> Worker:
        program = [sys.executable, "-m", "tests.benchmarks.decoding_workers", *self.command]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(self, request: tuple[int, int, int]) -> float:
        """Return the seconds of one piece of work."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended: {' '.join(self.command)}")
        return float(json.loads(answer))

    def measure(self, request: tuple[int, int, int]) -> None:
        """Do a piece of work and remember its seconds."""
        self.seconds.setdefault(request, []).append(self.ask(request))

    def median(self, request: tuple[int, int, int]) -> float:
        """Return the median seconds of a piece of work."""
        return statistics.median(self.seconds[request])


def workers_for(model: ModelFolder, peers: list[str]) -> dict[str, Worker]:
    """Return the engines to compare, by what the figures call them."""
    path, vocabulary = model.path, str(model.shape.vocabulary)
    commands: dict[str, tuple[str, ...]] = {
        f"gencli {kind}": ("gencli", str(path), kind) for kind in ("int8", "float32")
    }
    if "llama" in peers:
        for name, precision in (("Q8_0", "q8_0"), ("f32", "float32")):
            for threads in sorted({1, CORES}):
                file = str(gguf_of(path, precision))
                commands[f"llama.cpp {name}, threads {threads}"] = ("llama", file, vocabulary, str(threads))
    if "transformers" in peers:
        commands["transformers float32"] = ("transformers", str(path), vocabulary)
    return {name: Worker(name, command) for name, command in commands.items()}


def compared(
    part: str, name: str, workers: dict[str, Worker], request: tuple[int, int, int]
) -> Iterator[Figure]:
    """Yield a line for each engine of ours beside each peer; of llama.cpp's threads, the faster count."""
    rows, prompt, new = request
    tokens = rows * (new if new > 1 else prompt)
    about = {"figure": part, "shape": name, "batch": rows, "prompt": prompt, "new": new}
    pairs = {"gencli int8": ("llama.cpp Q8_0", "transformers"), "gencli float32": ("llama.cpp f32",)}
    for ours, theirs in pairs.items():
        if ours not in workers:
            continue
        seconds = workers[ours].median(request)
        line = {**about, "engine": ours, "tokens_per_second": round(tokens / seconds, 1)}
        found = False
        for kind in theirs:
            peers = [worker for worker in workers.values() if worker.name.startswith(kind)]
            if not peers:
                continue
            found = True
            peer = min(peers, key=lambda worker: worker.median(request))
            yield {
                **line, "peer": peer.name, "peer_tokens_per_second": round(tokens / peer.median(request), 1),
                "ratio": round(peer.median(request) / seconds, 3),
            }  # fmt: skip
        if not found:
            yield line


def decode(name: str, workers: dict[str, Worker], batches: list[int], repeats: int) -> Iterator[Figure]:
    """Yield tokens a second after a short prompt, and what a batch gains."""
    requests = [(rows, PROMPT, NEW) for rows in batches]
    rounds(workers, requests, repeats)
    for request in requests:
        yield from compared("decode", name, workers, request)
    for ours in (worker for worker in workers.values() if worker.name.startswith("gencli") and 1 in batches):
        for rows in batches[1:]:
            gain = rows * ours.median((1, PROMPT, NEW)) / ours.median((rows, PROMPT, NEW))
            yield {
                "figure": "gain of a batch", "shape": name, "batch": rows, "engine": ours.name, "ratio": round(gain, 3),
            }  # fmt: skip


def rounds(workers: dict[str, Worker], requests: list[tuple[int, int, int]], repeats: int) -> None:
    """Measure all work of all engines in turn, after a round that does not count."""
    for worker, request in itertools.product(workers.values(), requests):
        worker.ask(request)
    for _ in range(repeats):
        for request, worker in itertools.product(requests, workers.values()):
            worker.measure(request)


def figures(arguments: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    """Yield all figures that were asked for."""
    for name in arguments.shape:
        model = model_in(folder, shape_of(*SHAPES[name]))
        with ExitStack() as stack:
            workers = workers_for(model, arguments.peers)
            for worker in workers.values():
                stack.enter_context(worker)
            yield from decode(name, workers, arguments.batch, arguments.repeats)


def parsed(words: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--only", nargs="+", choices=("decode",), default=["decode"])
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    return parser.parse_args(words)


def main(words: list[str]) -> None:
    """Print every figure as a JSON line."""
    arguments = parsed(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        for figure in itertools.chain([machine()], figures(arguments, folder)):
            sys.stdout.write(json.dumps(figure) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
