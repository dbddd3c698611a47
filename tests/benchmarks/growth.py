"""What a corpus costs as it grows from 1 MB on: seconds in proportion, memory not at all.

    python -m tests.benchmarks.growth [LARGEST_BYTES]

The text is generated: words of made-up English and Korean by Zipf's law, in documents of one paragraph. Each
part runs in a process of its own, whose anonymous memory is read while it runs (Linux); pages of mapped files
belong to the system. One tokenizer, trained on the smallest corpus, serves all sizes, so that the model is the
same.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SMALLEST = 1_000_000
LARGEST = 1_000_000_000
VOCABULARY = 2048
STEPS = 40
UNCOUNTED_STEPS = 10
_KINDS_OF_WORDS = 40_000
_DOCUMENTS_AT_ONCE = 64

_ONSETS = "b c d f g h k l m n p r s t v w st th tr ch sh pl".split()
_VOWELS = "a e i o u ea ou ai".split()
_CODAS = ["", *"n r s t d ng ck l".split()]
_PARTICLES = ["", *"은 는 이 가 을 를 에 에서 의 로 도 만 까지".split()]
_BETWEEN = [b" "] * 12 + [b", ", b". ", b".\n", b"? "]

_TOKENIZER = """
from gencli.text.tokenizer_training import train_tokenizer
train_tokenizer(corpus, model / "tokenizer.model", vocabulary={vocabulary})
"""
_TOKENS = """
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokens import tokenize_corpus
tokenize_corpus(corpus, Tokenizer.open(model / "tokenizer.model"), cache)
"""
_TIMED = """
import sys, time
from pathlib import Path
from gencli.text.corpus import open_corpus
text, model, cache = map(Path, sys.argv[1:])
began = time.perf_counter()
corpus = open_corpus([text])
{part}
print(time.perf_counter() - began)
"""

Figure = dict[str, object]


def write_corpus(path: Path, nbytes: int, *, seed: int = 0) -> None:
    """Write a text of at least `nbytes`, in constant memory; a longer one begins with a shorter one."""
    random = np.random.default_rng(seed)
    languages = _english(random), _korean(random)
    shares = np.cumsum(1 / np.arange(1, _KINDS_OF_WORDS + 1))
    written = 0
    with path.open("wb") as file:
        while written < nbytes:
            for _ in range(_DOCUMENTS_AT_ONCE):
                words = languages[int(random.integers(2))]
                count = int(random.integers(20, 300))
                numbers = np.searchsorted(shares, random.random(count) * shares[-1]).tolist()
                between = random.integers(len(_BETWEEN), size=count).tolist()
                parts = [
                    part for n, b in zip(numbers, between, strict=True) for part in (words[n], _BETWEEN[b])
                ]
                written += file.write(b"".join(parts).strip() + b"\n\n")


def figures(largest_bytes: int) -> Iterator[Figure]:
    """Yield the figures of every size, 1 MB, 10 MB, ... up to `largest_bytes`."""
    with tempfile.TemporaryDirectory(prefix="gencli-growth-") as name:
        folder = Path(name)
        size = SMALLEST
        while size <= largest_bytes:
            text = folder / "corpus.txt"
            write_corpus(text, size)
            yield from _of_size(text, folder)
            size *= 10


def _of_size(text: Path, folder: Path) -> Iterator[Figure]:
    megabytes = text.stat().st_size / 1e6
    size = f"{megabytes:.0f} MB"
    cache = folder / "cache"
    model = folder / "tokenizer"

    def figure(name: str, value: float, unit: str) -> Figure:
        return {"figure": f"{name}, {size}", "value": round(value, 3), "unit": unit}

    fresh = model if not model.exists() else folder / "other"
    seconds, memory = _timed(_TOKENIZER.format(vocabulary=VOCABULARY), text, fresh, cache)
    yield figure("train a tokenizer", seconds, "s")
    yield figure("train a tokenizer, anonymous memory", memory, "MB")
    shutil.rmtree(cache, ignore_errors=True)
    seconds, memory = _timed(_TOKENS, text, model, cache)
    yield figure("tokenise, reading and writing included", megabytes / seconds, "MB/s")
    yield figure("tokenise, anonymous memory", memory, "MB")
    shutil.rmtree(cache)
    rate, wait, memory = _trained(text, model, folder)
    yield figure("pretrain nano", rate, "tokens/s")
    yield figure("pretrain nano, until the first step", wait, "s")
    yield figure("pretrain nano, anonymous memory", memory, "MB")


def _timed(part: str, text: Path, model: Path, cache: Path) -> tuple[float, float]:
    """Run a part of the work on the text in another process: return its seconds and peak megabytes."""
    model.mkdir(exist_ok=True)
    code = _TIMED.format(part=part)
    lines, memory = _watched([sys.executable, "-c", code, str(text), str(model), str(cache)], {})
    return float(lines[-1]), memory


def _trained(text: Path, tokenizer: Path, folder: Path) -> tuple[float, float, float]:
    """Run `gencli pretrain`: return tokens per second, seconds until the first step, and peak megabytes."""
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(tokenizer, model)
    arguments = f"--size nano --context 128 --batch-size 8 --steps {STEPS} --evaluations 1 --json -q".split()
    command = [sys.executable, "-m", "gencli", "pretrain", str(text), "-m", str(model), *arguments]
    lines, memory = _watched(command, {"GENCLI_CACHE": str(folder / "cache")})
    steps = [record for record in map(json.loads, lines) if record["event"] == "step"]
    rate = statistics.median(step["tokens_per_second"] for step in steps[UNCOUNTED_STEPS:])
    return rate, float(steps[0]["seconds"]), memory


def _watched(command: list[str], environment: dict[str, str]) -> tuple[list[str], float]:
    """Run a command; return the lines it printed and the most anonymous memory it had, in megabytes."""
    done = threading.Event()
    most = 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as child:

        def watch() -> None:
            nonlocal most
            while not done.wait(0.02):
                most = max(most, anonymous_megabytes(child.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            printed, _ = child.communicate()
        finally:
            done.set()
            watcher.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return printed.splitlines(), most


def anonymous_megabytes(pid: int | str) -> float:
    """Return the memory of a process that no file stands behind; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(sizes[0]) / 1024 if sizes else 0.0


def _english(random: np.random.Generator) -> list[bytes]:
    def syllable() -> str:
        return "".join(part[int(random.integers(len(part)))] for part in (_ONSETS, _VOWELS, _CODAS))

    return _words(lambda: "".join(syllable() for _ in range(int(random.integers(1, 4)))), random)


def _korean(random: np.random.Generator) -> list[bytes]:
    syllables = [chr(0xAC00 + point) for point in random.choice(11172, 700, replace=False).tolist()]

    def word() -> str:
        stem = [syllables[int(700 * random.random() ** 2)] for _ in range(int(random.integers(1, 4)))]
        return "".join(stem) + _PARTICLES[int(random.integers(len(_PARTICLES)))]

    return _words(word, random)


def _words(word: Callable[[], str], random: np.random.Generator) -> list[bytes]:
    """Return different words, the short ones more often among the frequent."""
    found: set[str] = set()
    while len(found) < _KINDS_OF_WORDS:
        found.add(word())
    weights = {text: len(text) + 8 * float(random.random()) for text in sorted(found)}
    return [text.encode() for text in sorted(weights, key=weights.__getitem__)]


def main(argv: list[str]) -> None:
    """Print every figure as a JSON line."""
    for figure in figures(int(float(argv[0])) if argv else LARGEST):
        sys.stdout.write(json.dumps(figure) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
