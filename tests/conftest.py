"""What many tests need: a tiny corpus, a tiny trained model, and the command line without a process."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gencli.__main__ import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # before torch is imported, as the program does

import numpy as np
import pytest
import torch

from gencli.cli.app import run
from gencli.model import compiled_norms
from gencli.model.folder import Arrays, publish
from gencli.model.gpt import GPT
from gencli.model.shape import Shape
from gencli.text.corpus import open_corpus
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from gencli.text.trial import remember

WORDS = [
    "강",
    "산",
    "바다",
    "하늘",
    "나무",
    "새",
    "꽃",
    "별",
    "달",
    "river",
    "hill",
    "sea",
    "sky",
    "tree",
    "bird",
    "flower",
    "star",
    "moon",
]


TRAINED_HERE: list[bytes] = []  # tokenizers that each test's own cache remembers


def tiny_text(documents: int = 60) -> str:
    """Return documents of a few lines, Korean and English, separated by blank lines."""
    draw = random.Random(7)
    lines = [
        f"{draw.choice(WORDS)} {draw.choice(WORDS)} 그리고 {draw.choice(WORDS)}.\nThe {draw.choice(WORDS)} is here."
        for _ in range(documents)
    ]
    return "\n\n".join(lines) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, object]]:
        """Return the JSON objects that the command printed."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def quiet_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Keep caches inside the test's folder and torch on one thread."""
    monkeypatch.setenv("GENCLI_CACHE", str(tmp_path / "cache"))
    if {"model_folder", "hostile_model"} & set(request.fixturenames):
        for data in TRAINED_HERE:
            remember(data, tmp_path / "cache")
    for name in ("GENCLI_MODEL", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fail a test that connects to anything but this machine, which processes of one run may do."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _only_here(getattr(socket.socket, name)))
        yield


def _only_here(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        host = str(address[0]) if self.family in (socket.AF_INET, socket.AF_INET6) else "localhost"
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            pytest.fail(f"a connection to {address!r}")
        return connect(self, address)

    return guarded


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Return a function that runs a command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Outcome(code, captured.out.decode("utf-8"), captured.err.decode("utf-8"))

    return call


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the tiny corpus."""
    path = tmp_path_factory.mktemp("corpus") / "tiny.txt"
    path.write_text(tiny_text(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return a tokenizer trained on the tiny corpus."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    made = train_tokenizer(open_corpus([corpus_file]), path, vocabulary=400).tokenizer
    TRAINED_HERE.append(made.model_bytes)
    return made


def random_model(shape: Shape, seed: int = 0, scale: float = 0.3) -> GPT:
    """Return a model with all weights drawn, so that no part of it is silent."""
    model = GPT(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            offset = 1.0 if "norm" in name else 0.0
            weight.normal_(offset, scale, generator=generator)
    return model.eval()


def tiny_shape(vocabulary: int = 400, **changes: int) -> Shape:
    """Return a shape that is fast and still has every feature, grouped-query attention too."""
    numbers = {
        "layers": 2,
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 8,
        "hidden": 64,
        "context": 64,
    }
    return Shape(vocabulary=vocabulary, **{**numbers, **changes})


@pytest.fixture(params=["compiled", "torch"])
def norms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with norms of compiled code, and with those that serve other devices."""
    if request.param == "torch":
        monkeypatch.setattr(compiled_norms, "are_made_of", lambda *_: False)


@pytest.fixture(scope="session")
def model_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model of the tiny shape."""
    path = tmp_path_factory.mktemp("model") / "random"
    shape = tiny_shape(tokenizer.vocabulary)
    weights = random_model(shape).weights()
    publish(
        path, weights, shape=shape, tokenizer=tokenizer, lineage={"kind": "pretrained"}, card="# random\n"
    )
    return path


def same(first: Arrays, second: Arrays) -> bool:
    """Tell whether two models are the same bit for bit."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def jsonl(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
