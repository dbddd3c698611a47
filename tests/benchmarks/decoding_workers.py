"""The processes that decoding is measured in, one for each engine; a request is a line of JSON, and so is the answer.

    python -m tests.benchmarks.decoding_workers gencli FOLDER float32|int8 [THREADS]
    python -m tests.benchmarks.decoding_workers llama FILE.gguf VOCABULARY [THREADS]
    python -m tests.benchmarks.decoding_workers llama-python FILE.gguf VOCABULARY [THREADS]
    python -m tests.benchmarks.decoding_workers transformers FOLDER VOCABULARY [THREADS]
    python -m tests.benchmarks.decoding_workers memory

A request says how many rows, tokens of prompt and new tokens; the answer says how many seconds they took. All
draw with top-k 50 at temperature 0.8. `llama` calls llama.cpp's own functions from one loop, `llama-python` the
generator of llama-cpp-python, which knows one row. `memory` reads an array that fits no cache with all cores and answers how
many bytes that were.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TOP_K, TEMPERATURE = 50, 0.8
FIRST_NORMAL_ID = 264
CORES = len(os.sched_getaffinity(0))
_READ_BYTES = 1 << 30

Work = Callable[[int, int, int], float]  # rows, tokens of prompt, new tokens → seconds


class Request(NamedTuple):
    """A piece of work."""

    rows: int
    prompt: int
    new: int


class Worker:
    """A process that an engine runs in, and the seconds that it took so far for each request."""

    def __init__(self, name: str, kind: str, *arguments: str, most_rows: int = 1 << 20) -> None:
        self.name, self.kind, self.most_rows = name, kind, most_rows
        self.command = [sys.executable, "-m", "tests.benchmarks.decoding_workers", kind, *arguments]
        self.seconds: dict[Request, list[float]] = {}

    def __enter__(self) -> Worker:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    @property
    def engine(self) -> str:
        """Return the name without the count of threads."""
        return self.name.split(",")[0]

    def measure(self, request: Request, *, counts: bool = True) -> float:
        """Do a piece of work and return its seconds, which are remembered if they count."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended: {' '.join(self.command)}")
        seconds = float(json.loads(answer))
        if counts:
            self.seconds.setdefault(request, []).append(seconds)
        return seconds

    def median(self, request: Request) -> float:
        """Return the median seconds of a piece of work."""
        return statistics.median(self.seconds[request])


def prompts(rows: int, length: int, vocabulary: int) -> list[list[int]]:
    """Return different prompts, the same ones at every call."""
    draw = np.random.default_rng(rows)
    ids: list[list[int]] = draw.integers(FIRST_NORMAL_ID, vocabulary, (rows, length)).tolist()
    return ids


def gencli_work(folder: str, precision: str, threads: str = "0") -> Work:
    """Return work for this project's CPU engine, through the generator that `gencli generate` reads."""
    from gencli.decoding.cpu_engine import CpuEngine
    from gencli.decoding.decoder import Token, generate
    from gencli.decoding.sampler import Sampling
    from gencli.model.folder import open_model

    model = open_model(Path(folder))
    engine = CpuEngine(
        model.shape, model.weights(), precision="int8" if precision == "int8" else "float32",
        threads=int(threads) or None, in_place=True,
    )  # fmt: skip
    sampling = Sampling(top_k=TOP_K, temperature=TEMPERATURE)

    def work(rows: int, length: int, new: int) -> float:
        texts = prompts(rows, length, model.shape.vocabulary)
        began = time.perf_counter()
        written = sum(
            isinstance(event, Token)
            for event in generate(
                engine, model.tokenizer, texts, sampling=sampling, seed=0, max_new_tokens=new
            )
        )
        seconds = time.perf_counter() - began
        assert written == rows * new
        return seconds

    return work


def transformers_work(folder: str, vocabulary: str, threads: str = "0") -> Work:
    """Return work for transformers, float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(int(threads) or CORES)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def work(rows: int, length: int, new: int) -> float:
        ids = torch.tensor(prompts(rows, length, int(vocabulary)))
        began = time.perf_counter()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=TOP_K, top_p=1.0,
            temperature=TEMPERATURE, max_new_tokens=new,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        assert out.shape == (rows, length + new)
        return seconds

    return work


def llama_work(file: str, vocabulary: str, threads: str = "0") -> Work:
    """Return work for llama.cpp, its own decoding and sampling functions called with no Python between."""
    import llama_cpp.llama_cpp as llama
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
    sampler = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for part in (
        llama.llama_sampler_init_top_k(TOP_K),
        llama.llama_sampler_init_temp(TEMPERATURE),
        llama.llama_sampler_init_dist(0),
    ):
        llama.llama_sampler_chain_add(sampler, part)
    contexts = {}

    def context(rows: int) -> object:
        if rows not in contexts:
            wanted = llama.llama_context_default_params()
            wanted.n_ctx, wanted.n_seq_max = 1024 * rows, rows
            wanted.n_batch = wanted.n_ubatch = 512 * rows
            wanted.n_threads = wanted.n_threads_batch = int(threads) or CORES
            contexts[rows] = llama.llama_init_from_model(model, wanted)
        return contexts[rows]

    def work(rows: int, length: int, new: int) -> float:
        texts, ready = prompts(rows, length, int(vocabulary)), context(rows)
        batch = llama.llama_batch_init(rows * length, 0, 1)
        began = time.perf_counter()
        llama.llama_memory_clear(llama.llama_get_memory(ready), True)
        at = 0
        for row, text in enumerate(texts):
            for position, token in enumerate(text):
                _put(batch, at, token, position, row, wanted=position == length - 1)
                at += 1
        batch.n_tokens = at
        assert llama.llama_decode(ready, batch) == 0
        places = [(row + 1) * length - 1 for row in range(rows)]
        for step in range(new):
            for row, place in enumerate(places):
                token = llama.llama_sampler_sample(sampler, ready, place)
                _put(batch, row, token, length + step, row, wanted=True)
            if step < new - 1:
                batch.n_tokens = rows
                assert llama.llama_decode(ready, batch) == 0
                places = list(range(rows))
        seconds = time.perf_counter() - began
        llama.llama_batch_free(batch)
        return seconds

    return work


def llama_python_work(file: str, vocabulary: str, threads: str = "0") -> Work:
    """Return work for the generator of llama-cpp-python."""
    from llama_cpp import Llama

    count = int(threads) or CORES
    model = Llama(file, n_ctx=1024, n_threads=count, n_threads_batch=count, verbose=False)

    def work(rows: int, length: int, new: int) -> float:
        (text,) = prompts(rows, length, int(vocabulary))
        began = time.perf_counter()
        model.reset()
        tokens = model.generate(
            text, top_k=TOP_K, top_p=1.0, min_p=0.0, temp=TEMPERATURE, repeat_penalty=1.0, reset=False
        )
        for _ in range(new):
            next(tokens)
        return time.perf_counter() - began

    return work


def _put(batch: ctypes.Structure, at: int, token: int, position: int, row: int, *, wanted: bool) -> None:
    batch.token[at], batch.pos[at] = token, position
    batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
    batch.logits[at] = wanted


def memory_work() -> Work:
    """Return work that reads memory with all cores; `new` says how often."""
    from numba import njit, prange

    @njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator]
    def total(array: NDArray[np.float32]) -> np.float32:
        summed = np.float32(0)
        for i in prange(array.size):
            summed += array[i]
        return summed

    array = np.ones(_READ_BYTES // 4, np.float32)
    total(array)

    def work(_: int, __: int, new: int) -> float:
        began = time.perf_counter()
        for _ in range(new):
            total(array)
        return (time.perf_counter() - began) / new / _READ_BYTES * 1e9

    return work


WORKS: dict[str, Callable[..., Work]] = {
    "gencli": gencli_work, "llama": llama_work, "llama-python": llama_python_work,
    "transformers": transformers_work, "memory": memory_work,
}  # fmt: skip


def main(kind: str, *arguments: str) -> None:
    """Answer requests until there are no more."""
    if kind == "gencli":
        from gencli.__main__ import SPINS

        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    work = WORKS[kind](*arguments)
    for line in sys.stdin:
        seconds = work(*json.loads(line))
        sys.stdout.write(json.dumps(seconds) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
