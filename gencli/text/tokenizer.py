"""Text to ids and back, losing nothing: `decode(encode(text))` is the NFC form of `text`.

The ids come from SentencePiece; the way back is ours: every id stands for fixed bytes, and text is those
bytes read as UTF-8. Only U+2581, SentencePiece's mark for a space, comes back as another character.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gencli.errors import MachineError, TokenizerError
from gencli.text.normalization import compose
from gencli.text.pieces import (
    BYTE,
    CONTROL,
    LARGEST_FILE,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    ModelFile,
    read_model_file,
)
from gencli.text.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UNK, BOS, EOS, PAD = 0, 1, 2, 3
ROLE_MARKERS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
NEWLINE = "\n"
NEWLINE_ID = 7
KINDS = ("bpe", "unigram", "char")

# id → (piece, role) of what every gencli tokenizer starts with
LAYOUT: tuple[tuple[str, int], ...] = (
    ("<unk>", UNKNOWN),
    ("<s>", CONTROL),
    ("</s>", CONTROL),
    ("<pad>", CONTROL),
    *((marker, CONTROL) for marker in ROLE_MARKERS.values()),
    (NEWLINE, USER_DEFINED),
    *((f"<0x{value:02X}>", BYTE) for value in range(256)),
)

FIRST_BYTE_ID = NEWLINE_ID + 1
_SAFE_VERSION = (0, 2, 3)
_ROLE_NAMES = {UNKNOWN: "an unknown", CONTROL: "a control", USER_DEFINED: "a user-defined", BYTE: "a byte"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE_INSIDE = re.compile(f"[^{SPACE}]{SPACE}")

# No piece holds a space after another character, and a newline is a piece by itself, so a text may be cut
# before either of them without changing an id. Short parts are faster, and keep sums of scores exact.
_BOUNDARY = re.compile(rb"(?=\n)|(?<! )(?<!\xe2\x96\x81)(?= |\xe2\x96\x81)")
_LINES = re.compile(rb"\n|[^\n]+")
_PART_BYTES = 2048

Ids = npt.NDArray[np.int32]


class Tokenizer:
    """A SentencePiece model of gencli's layout. `open` or `from_bytes` make one."""

    def __init__(self, data: bytes, model: ModelFile, processor: Any) -> None:
        self.model_bytes = data
        self.model = model
        self.kind = model.kind
        self.vocabulary = len(model.pieces)
        self.unk, self.bos, self.eos, self.pad = UNK, BOS, EOS, PAD
        self.roles = {role: PAD + 1 + index for index, role in enumerate(ROLE_MARKERS)}
        self.control_ids = frozenset(range(NEWLINE_ID))
        self._processor = processor

    @classmethod
    def open(cls, path: Path, cache: Path | None = None) -> Tokenizer:
        """Return the tokenizer in the file `path`, which is tried in a child process first.

        The folder `cache` remembers which ones passed. Raises TokenizerError when it is missing, is something
        else, or is a SentencePiece model that crashes the library or can't keep text whole and control pieces
        out of reach; MachineError when it may not be read.
        """
        where = str(path)
        hint = "make one with: gencli tokenize CORPUS -m MODEL"
        try:
            if path.is_dir():
                raise TokenizerError("this is a folder, not a tokenizer.model file", where=where, hint=hint)
            if not path.is_file():
                raise TokenizerError("there is no tokenizer here", where=where, hint=hint)
            if path.stat().st_size > LARGEST_FILE:
                raise TokenizerError("this file is too large for a tokenizer (over 64 MB)", where=where)
            data = path.read_bytes()
        except OSError as error:
            raise MachineError(
                f"can't read: {(error.strerror or str(error)).lower()}", where=where
            ) from error
        model = _checked(data, where)
        try_out(data, where, cache)
        return cls._loaded(data, model, where)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Tokenizer:
        """Return the tokenizer whose file holds `data`, made by this process or by one that gencli trusts.

        `where` names it in messages. Errors as in `open`.
        """
        return cls._loaded(data, _checked(data, where), where)

    @classmethod
    def _loaded(cls, data: bytes, model: ModelFile, where: str) -> Tokenizer:
        try:
            processor = load_sentencepiece().SentencePieceProcessor(model_proto=data)
        except RuntimeError as error:
            raise TokenizerError(f"SentencePiece refuses this tokenizer: {error}", where=where) from error
        return cls(data, model, processor)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of the model file, 64 hexadecimal digits."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @cached_property
    def piece_bytes(self) -> tuple[bytes, ...]:
        """Return for every id the bytes of UTF-8 that it stands for; control pieces stand for none."""
        normal = [
            piece.text.replace(SPACE, " ").encode("utf-8") for piece in self.model.pieces[len(LAYOUT) :]
        ]
        special = [b""] * NEWLINE_ID + [NEWLINE.encode()] + [bytes([value]) for value in range(256)]
        return (*special, *normal)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length: never a control id, nothing added in front or behind."""
        ids: list[int] = self.encode_arrays([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Sequence[str], *, threads: int) -> list[list[int]]:
        """Return the ids of each text, computed with `threads` threads."""
        return [ids.tolist() for ids in self.encode_arrays(texts, threads=threads)]

    def encode_arrays(self, texts: Sequence[str], *, threads: int = 1) -> list[Ids]:
        """Return the ids of each text as int32: `encode_batch` without the cost of Python numbers."""
        parts: list[bytes] = []
        borders = [0]
        for text in texts:
            parts += self._parts(text)
            borders.append(len(parts))
        encoded = self.encode_parts(parts, threads=threads)
        return [_joined(encoded[start:end]) for start, end in pairwise(borders)]

    def encode_parts(self, parts: list[bytes], *, threads: int) -> list[Ids]:
        """Return the ids of each part of a text, as UTF-8 in NFC, with nothing cut or normalised."""
        threads = max(1, min(threads, len(parts)))
        if (
            threads == 1
        ):  # the library begins a thread for any list, which takes as long as some 10 short texts
            return [self._processor.encode(part, return_type="numpy") for part in parts]
        encoded: list[Ids] = self._processor.encode(parts, return_type="numpy", num_threads=threads)
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, with U+FFFD for bytes that are no UTF-8.

        Raises TokenizerError when there is no such id.
        """
        return b"".join([self.bytes_of(index) for index in ids]).decode("utf-8", "replace")

    def bytes_of(self, index: int) -> bytes:
        """Return the bytes of UTF-8 that an id stands for. Raises TokenizerError when there is no such id."""
        self._check(index)
        return self.piece_bytes[index]

    def piece(self, index: int) -> str:
        """Return the piece as SentencePiece spells it. Raises TokenizerError when there is no such id."""
        self._check(index)
        return self.model.pieces[index].text

    def is_byte(self, index: int) -> bool:
        """Tell whether the id stands for a single byte of a character that has no piece of its own."""
        return FIRST_BYTE_ID <= index < len(LAYOUT)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.vocabulary:
            raise TokenizerError(f"{index} is no token: this tokenizer has ids 0 to {self.vocabulary - 1}")

    def _parts(self, text: str) -> list[bytes]:
        """Cut the text's NFC form, as UTF-8, where that changes no id."""
        data = normalised(text).encode("utf-8")
        if self.kind == "unigram":
            return [part for line in _LINES.findall(data) for part in _cut(line)]
        return _cut(data)


class TextStream:
    """Decode ids one by one; the texts given out, joined, are `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, index: int) -> str:
        """Return the text that is certain now; an incomplete character is held back."""
        return self._decoder.decode(self._tokenizer.bytes_of(index))

    def flush(self) -> str:
        """Return what was held back, as U+FFFD, and start afresh."""
        return self._decoder.decode(b"", final=True)


def normalised(text: str) -> str:
    """Return the form in which gencli reads text: NFC, and U+FFFD for halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = _SURROGATE.sub("\ufffd", text)
    return compose(text)


def load_sentencepiece() -> Any:
    """Return the sentencepiece module. Raises MachineError when it is too old to load files safely."""
    import sentencepiece

    version = tuple(int(number) for number in re.findall(r"\d+", sentencepiece.__version__)[:3])
    if version < _SAFE_VERSION:
        raise MachineError(
            f"sentencepiece {sentencepiece.__version__} has known security holes (CVE-2026-1260)",
            hint='pip install "sentencepiece>=0.2.3"',
        )
    return sentencepiece


def _checked(data: bytes, where: str) -> ModelFile:
    """Return what the file says. Raises TokenizerError for a model that gencli doesn't use."""
    load_sentencepiece()
    model = read_model_file(data, where)
    _check_layout(model, where)
    return model


def _cut(data: bytes) -> list[bytes]:
    """Cut at the first boundary after each _PART_BYTES."""
    parts = []
    start = 0
    while len(data) - start > _PART_BYTES:
        boundary = _BOUNDARY.search(data, start + _PART_BYTES)
        if boundary is None:
            break
        parts.append(data[start : boundary.start()])
        start = boundary.start()
    parts.append(data[start:])
    return parts


def _joined(arrays: list[Ids]) -> Ids:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int32)


def _check_layout(model: ModelFile, where: str) -> None:
    """Raise TokenizerError unless the model keeps text whole and its special pieces out of text's reach."""
    hint = "gencli uses tokenizers made by: gencli tokenize"
    for index, (text, role) in enumerate(LAYOUT):
        found = model.pieces[index] if index < len(model.pieces) else None
        if found is None or (found.text, found.role) != (text, role):
            what = "missing" if found is None or found.text != text else "of another type"
            expected = f"piece {index} must be {text!r}, {_ROLE_NAMES[role]} piece, and is {what}"
            raise TokenizerError(f"not a gencli tokenizer: {expected}", where=where, hint=hint)
    if model.kind not in KINDS:
        raise TokenizerError(f"not a gencli tokenizer: its kind is {model.kind}", where=where, hint=hint)
    if not model.lossless:
        raise TokenizerError("this tokenizer changes text or drops some of it", where=where, hint=hint)
    for piece in model.pieces[len(LAYOUT) :]:
        if piece.role != NORMAL or NEWLINE in piece.text or _SPACE_INSIDE.search(piece.text):
            raise TokenizerError(f"not a gencli tokenizer: piece {piece.text!r}", where=where, hint=hint)
