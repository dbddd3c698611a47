"""How fast text comes out: gencli beside llama.cpp and transformers, the same weights given to each.

    python -m tests.benchmarks.decoding [--only PART ...] [--shape SHAPE ...] [--peers PEER ...] [--batch ROWS ...]
                                        [--precision NAME ...] [--repeats N] [--folder FOLDER]
                                        [--model MODEL --text FILE ...]

Prints one JSON line a figure: medians over the repeats, which go round all engines in turn, and their ratio, above
1 where gencli is faster. Each engine has a process of its own; llama.cpp runs with one thread and with all, and the
faster counts. Peers come with the extra `benchmarks`. `--folder` keeps the models, of random weights, for the next
call; one figure of one shape then takes some seconds:

    python -m tests.benchmarks.decoding --only decode --shape 6x384 --peers llama --batch 1 --folder /tmp/models

decode    256 new tokens after a prompt of 16, at batch 1 and 8; and the bytes that a token needs, over what the
          machine's memory gives to all cores before and after
prefill   a prompt of 512, up to the first token
full      from a prompt of 16 to the full context of 1024
process   whole processes with a model of 20 million weights, from the shell to the end, files in memory: one token,
          and 200
quality   what texts cost a trained model with int8 weights, in bits per byte, over what they cost in float32;
          needs --model and --text
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from gencli.model.folder import ModelFolder
from tests.benchmarks.decoding_models import CONTEXT, bytes_per_token, gguf_of, model_in, shape_of
from tests.benchmarks.decoding_workers import CORES, Request, Worker
from tests.benchmarks.everyday import gencli
from tests.benchmarks.training import Figure, machine, seconds_per_call

SHAPES = {"4x128": (4, 128, 512), "6x384": (6, 384, 8192), "12x768": (12, 768, 32_000)}
PEERS = ("llama", "llama-python", "transformers")
PARTS = ("decode", "prefill", "full", "process", "quality")
PROMPT, NEW, LONG_PROMPT = 16, 256, 512
PROCESS_SHAPE = "6x384"
_READINGS = 3  # of a gigabyte each
_NEAR = 1.25  # times the seconds of the fastest count of threads

_LLAMA_SCRIPT = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=1024, n_threads=int(sys.argv[3]), verbose=False)
print(model("once upon", max_tokens=int(sys.argv[2]), top_k=50)["choices"][0]["text"])
"""
_TRANSFORMERS_SCRIPT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
ids = tokenizer("once upon", return_tensors="pt", return_token_type_ids=False)
out = model.generate(**ids, do_sample=True, top_k=50, max_new_tokens=int(sys.argv[2]))
print(tokenizer.decode(out[0]))
"""


def workers_for(model: ModelFolder, peers: Sequence[str], precisions: Sequence[str]) -> dict[str, Worker]:
    """Return the engines to compare, by what the figures call them."""
    path, vocabulary = model.path, str(model.shape.vocabulary)
    kinds = {"int8": ("Q8_0", "q8_0"), "float32": ("f32", "float32")}
    made = []
    for precision in precisions:
        name, stored = kinds[precision]
        file = str(gguf_of(path, stored))
        made.append(Worker(f"gencli {precision}", "gencli", str(path), precision))
        if "llama" in peers:
            made += [
                Worker(f"llama.cpp {name}, threads {threads}", "llama", file, vocabulary, str(threads))
                for threads in sorted({1, CORES})
            ]
        if "llama-python" in peers:
            made.append(Worker(f"llama-cpp-python {name}", "llama-python", file, vocabulary, most_rows=1))
    if "transformers" in peers:
        made.append(Worker("transformers float32", "transformers", str(path), vocabulary))
    return {worker.name: worker for worker in made}


def rounds(workers: Sequence[Worker], requests: Sequence[Request], repeats: int) -> None:
    """Measure the engines in turn at each request in turn, after a round that does not count.

    What is compared is so measured in the same moments. Of one engine's counts of threads, those go on that were
    not far from the fastest in that round.
    """
    going = [(request, worker) for request in requests for worker in near_fastest(workers, request)]
    for _ in range(repeats):
        for request, worker in going:
            worker.measure(request)


def near_fastest(workers: Sequence[Worker], request: Request) -> list[Worker]:
    """Try the engines that can do a piece of work; return those whose count of threads may be their fastest."""
    able = [worker for worker in workers if request.rows <= worker.most_rows]
    tried = {worker: worker.measure(request, counts=False) for worker in able}
    fastest = {worker.engine: tried[worker] for worker in sorted(able, key=lambda worker: -tried[worker])}
    return [worker for worker in able if tried[worker] <= _NEAR * fastest[worker.engine]]


def compared(part: str, name: str, workers: dict[str, Worker], request: Request) -> Iterator[Figure]:
    """Yield a line for each engine of ours beside each peer; of llama.cpp's threads, the faster count."""
    tokens = request.rows * (request.new if request.new > 1 else request.prompt)
    about = {
        "figure": part,
        "shape": name,
        "batch": request.rows,
        "prompt": request.prompt,
        "new": request.new,
    }
    pairs = {
        "gencli int8": ("llama.cpp Q8_0", "llama-cpp-python Q8_0", "transformers"),
        "gencli float32": ("llama.cpp f32", "llama-cpp-python f32", "transformers"),
    }
    for ours, kinds in pairs.items():
        if ours not in workers:
            continue
        seconds = workers[ours].median(request)
        line = {**about, "engine": ours, "tokens_per_second": round(tokens / seconds, 1)}
        groups = [[worker for worker in workers.values() if worker.name.startswith(kind)] for kind in kinds]
        measured = [[worker for worker in group if request in worker.seconds] for group in groups]
        for group in filter(None, measured):
            peer = min(group, key=lambda worker: worker.median(request))
            theirs = peer.median(request)
            yield {
                **line, "peer": peer.name, "peer_tokens_per_second": round(tokens / theirs, 1),
                "ratio": round(theirs / seconds, 3),
            }  # fmt: skip
        if not any(measured):
            yield line


def decode(
    name: str, model: ModelFolder, workers: dict[str, Worker], arguments: argparse.Namespace
) -> Iterator[Figure]:
    """Yield tokens a second after a short prompt, what a batch gains, and the share of the memory's speed."""
    requests = [Request(rows, PROMPT, NEW) for rows in arguments.batch]
    everyone = list(workers.values())
    single, reading = Request(1, PROMPT, NEW), Request(1, 0, _READINGS)
    with Worker("memory", "memory") as memory:
        rounds([memory], [reading], 1)
        rounds(everyone, requests, arguments.repeats)
        rounds([memory], [reading], 1)
        bandwidth = 1e9 / memory.median(reading)
    for request in requests:
        yield from compared("decode", name, workers, request)
    for ours in (worker for worker in workers.values() if worker.kind == "gencli" and single in requests):
        rate = NEW / ours.median(single)
        for request in requests[1:]:
            gain = request.rows * NEW / ours.median(request) / rate
            yield {
                "figure": "gain of a batch", "shape": name, "batch": request.rows, "engine": ours.name,
                "ratio": round(gain, 3),
            }  # fmt: skip
        nbytes = bytes_per_token(model.shape, ours.name.split()[1], PROMPT + NEW // 2)
        yield {
            "figure": "memory", "shape": name, "engine": ours.name, "bytes_per_token": nbytes,
            "bytes_per_second": round(nbytes * rate), "memory_bytes_per_second": round(bandwidth),
            "ratio": round(nbytes * rate / bandwidth, 3),
        }  # fmt: skip


def process(model: ModelFolder, peers: Sequence[str], repeats: int) -> Iterator[Figure]:
    """Yield the seconds of whole processes that write a text, each with its modules compiled, as pip leaves them."""
    python, generate = sys.executable, ("-m", "gencli", "generate", "once upon", "-m", str(model.path), "-q")
    for new in (1, 200):
        commands = {
            "gencli": (python, *generate, "-n", str(new)),
            "gencli int8": (python, *generate, "-n", str(new), "--precision", "int8"),
        }
        if {"llama", "llama-python"} & set(peers):
            for name, stored in (("Q8_0", "q8_0"), ("f32", "float32")):
                file = str(gguf_of(model.path, stored))
                commands[f"llama-cpp-python {name}"] = (
                    python,
                    "-c",
                    _LLAMA_SCRIPT,
                    file,
                    str(new),
                    str(CORES),
                )
        if "transformers" in peers:
            path = str(model.path)
            commands["transformers"] = (python, "-c", _TRANSFORMERS_SCRIPT, path, str(new))
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(model.path.parent / "pycache")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        call = partial(subprocess.run, check=True, capture_output=True, env=environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(repeats + 1):
            for name, command in commands.items():
                seconds = seconds_per_call(partial(call, command))
                times[name] += [seconds] * (number > 0)
        for name, found in times.items():
            yield {
                "figure": "process", "parameters": model.shape.parameters, "new": new, "engine": name,
                "seconds": round(statistics.median(found), 3), "least": round(min(found), 3),
            }  # fmt: skip


def quality(model: Path, texts: Sequence[Path]) -> Iterator[Figure]:
    """Yield what each text costs with int8 weights, beside float32."""
    costs = {
        precision: [
            json.loads(line)["bits_per_byte"]
            for line in gencli(
                "evaluate", *texts, "-m", model, "--precision", precision, "--no-pairs", "--json", "-q"
            ).splitlines()
        ]
        for precision in ("int8", "float32")
    }
    for text, rounded, exact in zip(texts, costs["int8"], costs["float32"], strict=True):
        yield {
            "figure": "quality of int8", "text": text.name, "bits_per_byte": round(rounded, 5),
            "float32_bits_per_byte": round(exact, 5), "ratio": round(rounded / exact, 5),
        }  # fmt: skip


def figures(arguments: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    """Yield all figures that were asked for."""
    timed = {
        "prefill": Request(1, LONG_PROMPT, 1),
        "full": Request(1, PROMPT, CONTEXT - PROMPT),
    }  # fmt: skip
    for name in arguments.shape if {"decode", *timed} & set(arguments.only) else ():
        model = model_in(folder, shape_of(*SHAPES[name]))
        with ExitStack() as stack:
            workers = workers_for(model, arguments.peers, arguments.precision)
            for worker in workers.values():
                stack.enter_context(worker)
            if "decode" in arguments.only:
                yield from decode(name, model, workers, arguments)
            for part, request in timed.items():
                if part in arguments.only:
                    rounds(list(workers.values()), [request], arguments.repeats)
                    yield from compared(part, name, workers, request)
    if "process" in arguments.only:
        model = model_in(folder, shape_of(*SHAPES[PROCESS_SHAPE]))
        yield from process(model, arguments.peers, arguments.repeats)
    if "quality" in arguments.only and arguments.model:
        yield from quality(arguments.model, arguments.text)


def parsed(words: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--precision", nargs="+", choices=("int8", "float32"), default=["int8", "float32"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", nargs="+", type=Path, default=[])
    arguments = parser.parse_args(words)
    if arguments.only == ["quality"] and not (arguments.model and arguments.text):
        parser.error("quality needs --model and --text")
    return arguments


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
