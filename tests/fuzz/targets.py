"""The files that gencli reads: valid ones to begin with, and how a command opens each."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gencli.cli.app import run
from gencli.knobs import resolve
from gencli.model.folder import open_model, publish
from gencli.model.shape import Shape
from gencli.settings.training import PretrainSettings
from gencli.text.chat import chat_ids
from gencli.text.corpus import open_corpus
from gencli.text.examples import encode_pairs
from gencli.text.exchange import hugging_face_files
from gencli.text.pairs import read_pairs
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from gencli.training.run_record import RunRecord, read_record
from tests.trained import sentences

PROBE = "a 나 </s> \0 😀\n"
REFUSED = (2, 3, 4, 5)

Open = Callable[[Path], None]


class RefusedError(Exception):
    """The command line refused the file, as it should."""


@dataclass(frozen=True)
class Target:
    """A kind of file: its name in the folder `room`, valid contents, and what opens it."""

    kind: str
    name: str
    samples: tuple[bytes, ...]
    open: Open
    room: Path | None = None  # what stands beside the file
    packed: bool = False  # changed before it is packed by gzip, every second time


def targets(workplace: Path) -> list[Target]:
    """Make the valid files in a folder and return all kinds."""
    text = workplace / "text.txt"
    text.write_text(sentences(150), "utf-8")
    tokenizers = [
        train_tokenizer(
            open_corpus([text]), workplace / "tokenizer.model", vocabulary=size, kind=kind
        ).tokenizer
        for kind in ("bpe", "unigram", "char")
        for size in (400, 340)
    ]
    model = _model(workplace / "model", tokenizers[0])
    parts = {
        name: (model / name).read_bytes() for name in ("model.safetensors", "config.json", "gencli.json")
    }
    corpus = text.read_bytes()
    packed = (gzip.compress(corpus, mtime=0), gzip.compress(b"\n\n".join([corpus] * 3), mtime=0))
    lines = "".join(
        json.dumps({"text": line, "id": 7}) + "\n" for line in sentences(40).split("\n") if line
    ).encode()

    def pairs(path: Path) -> None:
        encode_pairs(read_pairs(path).pairs[:200], tokenizers[0], context=64)

    return [
        Target("weights", "model.safetensors", (parts["model.safetensors"],), _open_weights, model),
        Target("tokenizer", "tokenizer.model", tuple(each.model_bytes for each in tokenizers), _open_tokenizer),
        Target("config", "config.json", (parts["config.json"],), _inspect, model),
        Target("lineage", "gencli.json", (parts["gencli.json"],), _inspect, model),
        Target("record", "run.json", (_record(workplace / "run"),), lambda path: _ignore(read_record(path.parent))),
        Target("settings", "config.toml", SETTINGS, _open_settings),
        Target("pairs.jsonl", "pairs.jsonl", _pairs_lines(), pairs),
        Target("pairs.json", "pairs.json", (json.dumps(_rows(), ensure_ascii=False).encode(),), pairs),
        Target("pairs.csv", "pairs.csv", (_table(","), _table(";")), pairs),
        Target("pairs.tsv", "pairs.tsv", (_table("\t"),), pairs),
        Target("text", "text.txt", (corpus,), _reader_of(None)),
        *(
            Target(f"text.{code}", "text.txt", (corpus.decode().encode(code, "ignore"),), _reader_of(code))
            for code in ("utf-16", "cp949")
        ),
        Target("text.gz", "text.txt.gz", packed, _reader_of(None), packed=True),
        Target("text.jsonl", "text.jsonl", (lines,), _reader_of(None)),
    ]  # fmt: skip


SETTINGS = (
    b'# a run\nsize = "small"\nbatch-size = 16\ntime = "10m"\nvalidation = 0.1\nseed = 1\n'
    b'kind = "bpe"\ncompile = "auto"\ndropout = 0.1\nlayers = 4\nwidth = 128\n',
    b'corpus = ["a.txt", "b.txt"]\nsteps = 100\nquiet = true\nsample_prompt = """\nOnce upon\n"""\n',
)


def _ignore(_: object) -> None:
    """Let a value go."""


def _model(path: Path, tokenizer: Tokenizer) -> Path:
    shape = Shape(
        vocabulary=tokenizer.vocabulary,
        layers=1,
        width=16,
        heads=2,
        kv_heads=1,
        head_width=8,
        hidden=32,
        context=32,
    )
    draw = np.random.default_rng(1)
    weights = {
        name: draw.normal(size=(rows, columns) if rows > 1 else (columns,)).astype(np.float32)
        for name, (rows, columns) in shape.tensors().items()
    }
    lineage = {
        "kind": "pretrained", "gencli": "0.1.0", "command": "pretrain", "created": "2026-01-01T00:00:00Z",
        "settings": {"steps": 10}, "digests": {"corpus": "0" * 64}, "scores": {"bits_per_byte": 1.5, "steps": 10},
        "parent": {"path": "models/base", "weights": "0" * 64, "lineage": {"kind": "pretrained"}},
    }  # fmt: skip
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage=lineage, card="# model\n")
    return path


def _record(folder: Path) -> bytes:
    folder.mkdir()
    RunRecord(command="pretrain", settings={"steps": 10, "lr": 0.1}, digests={"corpus": "0" * 64}).write(
        folder
    )
    (file,) = folder.iterdir()
    return file.read_bytes()


def _rows() -> list[dict[str, object]]:
    draw = random.Random(3)
    lines = [line for line in sentences(60, seed=3).split("\n") if line]
    return [
        {"prompt": line, "completion": draw.choice(lines), "note": draw.choice((1, None, "가"))}
        for line in lines
    ]


def _pairs_lines() -> tuple[bytes, ...]:
    rows = _rows()
    turns = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]
    labels = [
        {"text": row["prompt"], "label": "good" if number % 2 else "bad"} for number, row in enumerate(rows)
    ]
    return tuple(
        "".join(json.dumps(each, ensure_ascii=ascii) + "\n" for each in kind).encode()
        for kind in (rows, turns, labels)
        for ascii in (True, False)  # noqa: A001
    )


def _table(separator: str) -> bytes:
    """Return pairs as a table, with quotes around the cells unless a tab parts them."""
    cell = "{}" if separator == "\t" else '"{} ""x"""'
    cells = [[str(row[key]).replace("\t", " ") for key in ("prompt", "completion")] for row in _rows()]
    lines = [["prompt", "completion"], *([cell.format(text) for text in row] for row in cells)]
    return "".join(f"{separator.join(line)}\r\n" for line in lines).encode()


def _open_weights(path: Path) -> None:
    for array in open_model(path.parent).weights().values():
        _ignore(array.sum())


def _open_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer.open(path)
    ids = tokenizer.encode(PROBE * 20)
    _ignore((tokenizer.decode(ids), tokenizer.piece_bytes, chat_ids(tokenizer, (), answer=False)))
    assert tokenizer.control_ids.isdisjoint(ids)
    hugging_face_files(tokenizer, chat=True, context=64)


def _inspect(path: Path) -> None:
    code = run(["inspect", "-m", str(path.parent)])
    if code in REFUSED:
        raise RefusedError
    assert code == 0
    opened = open_model(path.parent)
    _ignore((opened.is_chat, opened.tokenizer, opened.weights()))


def _open_settings(path: Path) -> None:
    dataclasses.asdict(resolve(PretrainSettings, {"config": path, "model": path.parent / "m"}))


def _reader_of(encoding: str | None) -> Open:
    def read(path: Path) -> None:
        corpus = open_corpus([path], encoding=encoding)
        characters = sum(len(document.text) for document in corpus.documents())
        _ignore((corpus.digest(), characters, corpus.tally.notes()))

    return read
