"""Models of any shape to measure decoding with: random weights, a padded tokenizer, and the peers' files."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencli.model.folder import ModelFolder, open_model, publish
from gencli.model.gguf_file import GgufPrecision, write_gguf
from gencli.model.shape import Shape, hidden_for
from gencli.text.corpus import open_corpus
from gencli.text.tokenizer import EOS, Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from tests.benchmarks.growth import write_corpus

CONTEXT = 1024
HEAD_WIDTH = 64
_SHORT_TEXT, _FEW_PIECES = 300_000, 500
GGUF_PRECISIONS: tuple[GgufPrecision, ...] = ("float32", "q8_0")


def shape_of(layers: int, width: int, vocabulary: int) -> Shape:
    """Return a shape with heads of width 64 (32 where the model is narrow), none shared."""
    heads = width // (HEAD_WIDTH if width >= 384 else HEAD_WIDTH // 2)
    return Shape(
        vocabulary=vocabulary, layers=layers, width=width, heads=heads, kv_heads=heads, head_width=width // heads,
        hidden=hidden_for(width), context=CONTEXT,
    )  # fmt: skip


def model_in(folder: Path, shape: Shape) -> ModelFolder:
    """Return the model of this shape in `folder`, made with its GGUF files if it is not there yet."""
    path = folder / f"{shape.layers}x{shape.width}-{shape.vocabulary}"
    if not all(gguf_of(path, precision).exists() for precision in GGUF_PRECISIONS):
        publish(
            path, _weights(shape), shape=shape, tokenizer=_tokenizer(shape.vocabulary),
            lineage={"kind": "pretrained"}, card="# random\n",
        )  # fmt: skip
        for precision in GGUF_PRECISIONS:
            write_gguf(open_model(path), gguf_of(path, precision), precision=precision, overwrite=True)
    return open_model(path)


def bytes_per_token(shape: Shape, precision: str, seen: int) -> int:
    """Return the bytes of weights and of `seen` cached tokens that one token is computed from."""
    matrices = [
        size for name, size in shape.tensors().items() if size[0] > 1 and name != "model.embed_tokens.weight"
    ]
    weights = sum(rows * columns for rows, columns in matrices)
    vectors = 2 * shape.layers * shape.kv_heads * seen  # keys and values
    if precision == "float32":
        return 4 * (weights + vectors * shape.head_width)
    scales = sum(rows for rows, _ in matrices) + vectors
    return weights + vectors * shape.head_width + 4 * scales


def gguf_of(path: Path, precision: str) -> Path:
    """Return where the GGUF file of the model in `path` is."""
    return path.with_name(f"{path.name}-{precision}.gguf")


def _weights(shape: Shape) -> dict[str, NDArray[np.float32]]:
    """Return random weights that keep every vector near length sqrt(width), and hardly ever end a text."""
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, (rows, columns) in shape.tensors().items():
        if rows == 1:
            weights[name] = np.ones(columns, np.float32)
        else:
            weights[name] = random.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
    weights["lm_head.weight"][EOS] = 0
    return weights


def _tokenizer(vocabulary: int) -> Tokenizer:
    """Return a tokenizer of few trained pieces and as many more as the vocabulary needs.

    A protocol buffer is read as the sum of its parts, so pieces can be appended to a model file.
    """
    with tempfile.TemporaryDirectory() as name:
        text, path = Path(name, "text.txt"), Path(name, "tokenizer.model")
        write_corpus(text, _SHORT_TEXT)
        trained = train_tokenizer(
            open_corpus([text]), path, vocabulary=min(_FEW_PIECES, vocabulary)
        ).tokenizer
    data = trained.model_bytes
    for number in range(trained.vocabulary, vocabulary):
        piece = f"w{number}".encode()
        entry = b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", -1e6 - number)
        data += b"\x0a" + bytes([len(entry)]) + entry
    return Tokenizer.from_bytes(data, "the padded tokenizer")
