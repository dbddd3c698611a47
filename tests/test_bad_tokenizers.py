"""Files in the place of a tokenizer: each is refused with the plain reason before SentencePiece has seen it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gencli.text import pieces
from gencli.text.tokenizer import LAYOUT
from tests.bad_inputs import Row, met, row
from tests.conftest import Cli

ENCODE = "encode x -m {bad}"
GENERATE = "generate x -m {bad} -n 1 -s 1 -q --json"
CONTROL, USER_DEFINED = 3, 4


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def piece(text: bytes, score: float = 0.0, role: int = 1) -> bytes:
    """Return a piece as it stands in a SentencePiece model."""
    body = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([role])
    return b"\x0a" + varint(len(body)) + body


def layout(**roles: int) -> bytes:
    """Return the pieces that a tokenizer of gencli's begins with; some may have another role."""
    return b"".join(piece(text.encode(), role=roles.get(text.strip("<>|/"), role)) for text, role in LAYOUT)


def tokenizer(
    name: str, content: bytes | Callable[[bytes], bytes], *told: str, command: str = ENCODE, code: int = 3
) -> Row:
    """Return a row with another tokenizer.model, made of the whole one by a function or given."""

    def make(folder: Path) -> None:
        path = folder / "tokenizer.model"
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return row(name, make, command, code, "tokenizer.model", *told, file="copy")


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what puts something else in the place of the tokenizer."""

    def change(folder: Path) -> None:
        (folder / "tokenizer.model").unlink()
        make(folder / "tokenizer.model")

    return change


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(65 << 20)


def without_lineage(folder: Path) -> None:
    (folder / "gencli.json").unlink()
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes() + piece(b"zzzz", -9.0))


def of_hugging_face(folder: Path) -> None:
    shutil.copy(folder / "tokenizer.json", folder / "tokenizer.model")


def elsewhere(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_file": "../../etc/passwd"}))


ROWS = [
    row("T01-missing", instead(lambda path: None), ENCODE, 3, "there is no tokenizer here", file="copy"),
    row("T01-folder", instead(Path.mkdir), ENCODE, 3, "this is a folder", file="copy"),
    row("T01-pipe", instead(os.mkfifo), ENCODE, 3, "there is no tokenizer here", file="copy"),
    row("T01-device", instead(lambda path: path.symlink_to("/dev/zero")), ENCODE, 3, "no tokenizer", file="copy"),
    tokenizer("T01-empty", b"", "is empty"),
    tokenizer("T01-random", os.urandom(500), "tokenizer"),
    tokenizer("T01-cut", lambda data: data[: len(data) // 2], "cut short"),
    tokenizer("T01-page", b"<!DOCTYPE html><html>404</html>", "a web page", "download the file itself"),
    tokenizer("T01-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    tokenizer("T02-long-piece", layout() + piece(b"a" * 100_000), "piece 264", "100000 bytes"),
    row("T02-large-file", instead(large), ENCODE, 3, "over 64 MB", file="copy"),
    tokenizer("T03-nul", layout() + piece(b"a\0b"), "piece 264", "NUL"),
    tokenizer("T04-empty-piece", layout() + piece(b""), "piece 264", "0 bytes"),
    tokenizer("T05-twice", layout() + piece(b"a") * 2, "the same piece twice"),
    tokenizer("T06-no-unknown", layout(unk=1), "'<unk>', an unknown piece"),
    tokenizer("T06-others-first", piece(b"a") + layout(), "not a gencli tokenizer"),
    tokenizer("T07-nan-score", layout() + piece(b"a", float("nan")), "score of piece 264", "not a number"),
    tokenizer("T07-infinite-score", layout() + piece(b"a", float("inf")), "not a number"),
    tokenizer("T08-no-utf-8", layout() + piece(b"\xff\xfe"), "piece 264", "not UTF-8"),
    *(
        tokenizer(f"T09-{name}", layout(**{name: USER_DEFINED}), name, "a control piece, and is of another type")
        for name in ("s", "pad", "user", "assistant", "system")
    ),
    tokenizer("T09-further-symbol", lambda data: data + piece(b"</s>x", role=CONTROL), "'</s>x'"),
    tokenizer("T10-no-pieces", b"\x12\x02\x18\x02", "0 pieces"),
    tokenizer("T11-replacements", lambda data: data + b"\x1a\x09\x12\x01x\x18\x00\x20\x00\x28\x01", "changes text"),
    tokenizer("T11-replacements-back", lambda data: data + b"\x2a\x03\x12\x01x", "changes text"),
    row("T13-more-than-the-model", without_lineage, GENERATE, 3, "401 pieces, the model 400", file="copy"),
    row("T15-of-hugging-face", of_hugging_face, ENCODE, 3, "tokenizer.json?", "gencli tokenize", file="copy"),
    row("T16-path-outside", elsewhere, GENERATE, 0, file="copy"),
    row("T17-id-below", lambda folder: None, "decode -m {bad} -- -1", 3, "-1 is no token", "0 to 399", file="copy"),
    row("T17-id-beyond", lambda folder: None, "decode -m {bad} 1000000", 3, "is no token", file="copy"),
    row("T17-giant-id", lambda folder: None, f"decode -m {{bad}} {'9' * 5000}", 3, "whole numbers", file="copy"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_tokenizer_is_used_only_if_all_of_it_makes_sense(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "copy")
    met(row, cli, tmp_path)


def test_t10_more_pieces_than_any_tokenizer_has(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_MOST_PIECES", 300)
    shutil.copytree(model_folder, tmp_path / "copy")
    met(row("T10-many", lambda folder: None, ENCODE, 3, "400 pieces", file="copy"), cli, tmp_path)


def test_t12_a_tokenizer_of_the_same_size_is_told_from_the_model_s_own(
    cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    data = bytearray((copy / "tokenizer.model").read_bytes())
    last = pieces.read_model_file(bytes(data), "whole").pieces[-1]
    struct.pack_into("<f", data, last.score_at, last.score - 1)
    (copy / "tokenizer.model").write_bytes(bytes(data))
    outcome = cli(*GENERATE.format(bad=copy).split())
    assert outcome.code == 5 and "not the one that the model was trained with" in outcome.err
    assert cli("encode", "강", "-m", copy).code == 0  # by itself it is as good as any


def test_t14_an_old_sentencepiece_is_not_trusted(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentencepiece.__version__", "0.2.1")
    met(
        row("T14", b"", "encode x -m {model}", 4, "CVE-2026-1260", "pip install"),
        cli,
        tmp_path,
        model=model_folder,
    )
