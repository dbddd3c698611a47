"""What a SentencePiece model file says, read without running SentencePiece on it.

A tokenizer.model is a protocol buffer (ModelProto of sentencepiece_model.proto). Reading the few fields that
gencli depends on takes two dozen lines, shows the kind of the model, which the library's API does not, and
lets a crafted file be refused before any C++ has seen it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gencli.errors import TokenizerError
from gencli.text.magic import misnamed_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
LARGEST_FILE = 64 << 20

_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_LONGEST_PIECE = 512
_MOST_PIECES = 1 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """One entry of the vocabulary; `score_at` is the place of its 4 score bytes in the file, -1 if absent."""

    text: str
    score: float
    role: int
    score_at: int


@dataclass(frozen=True)
class ModelFile:
    """The pieces by id, the kind of model, and whether SentencePiece keeps every character of a text."""

    pieces: tuple[Piece, ...]
    kind: str
    lossless: bool


def read_model_file(data: bytes, where: str) -> ModelFile:
    """Return what a tokenizer.model holds.

    Raises TokenizerError when it is no such file, is cut short, or has pieces that no trainer writes: empty,
    repeated, over-long, not UTF-8, or with a score that is not a finite number.
    """
    _refuse_other_files(data, where)
    pieces: list[Piece] = []
    kind = "unigram"
    spells_bytes = keeps_text = is_rewritten = False
    try:
        for field, start, end in _fields(data, 0, len(data)):
            if field == 1:
                pieces.append(_piece(data, start, end, len(pieces), where))
            elif field == 2:
                settings = _numbers(data, start, end)
                kind = _KINDS.get(settings.get(3, 1), "unknown")
                spells_bytes = (settings.get(35, 0), settings.get(24, 0)) == (1, 0)
            elif field == 3:
                keeps_text = _keeps_text(data, start, end)
                is_rewritten |= not keeps_text
            elif field == 5:
                is_rewritten |= _has_rules(data, start, end)
    except (IndexError, struct.error) as error:
        raise TokenizerError(
            "this is not a SentencePiece model, or it was cut short",
            where=where,
            hint="copy the file again, or make one with: gencli tokenize",
        ) from error
    if not 0 < len(pieces) <= _MOST_PIECES:
        raise TokenizerError(f"a tokenizer of {len(pieces)} pieces can't be used", where=where)
    if len({piece.text for piece in pieces}) != len(pieces):
        raise TokenizerError("this tokenizer has the same piece twice", where=where)
    return ModelFile(tuple(pieces), kind, spells_bytes and keeps_text and not is_rewritten)


def _refuse_other_files(data: bytes, where: str) -> None:
    """Raise TokenizerError with the plain reason for files that are often found under a tokenizer's name."""
    if not data:
        raise TokenizerError("this tokenizer file is empty", where=where, hint="copy the file again")
    if len(data) > LARGEST_FILE:
        raise TokenizerError("this is too large for a tokenizer (over 64 MB)", where=where)
    what, hint = misnamed_kind(data)
    if not what and data.lstrip().startswith((b"{", b"[")):
        what = "JSON (a Hugging Face tokenizer.json?)"
        hint = "give the tokenizer.model file, or make one with: gencli tokenize"
    if what:
        raise TokenizerError(f"this is {what}, not a SentencePiece model", where=where, hint=hint)


def _piece(data: bytes, start: int, end: int, index: int, where: str) -> Piece:
    """Read one piece: text (field 1), score (field 2, float), type (field 3)."""
    raw, score, role, score_at = b"", 0.0, NORMAL, -1
    for field, first, last in _fields(data, start, end):
        if field == 1:
            raw = data[first:last]
        elif field == 2:
            score, score_at = struct.unpack_from("<f", data, first)[0], first
        elif field == 3:
            role = _varint(data, first)[0]
    if not 0 < len(raw) <= _LONGEST_PIECE:
        raise TokenizerError(f"piece {index} of this tokenizer has {len(raw)} bytes", where=where)
    if not math.isfinite(score):
        raise TokenizerError(f"the score of piece {index} of this tokenizer is not a number", where=where)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"piece {index} of this tokenizer is not UTF-8", where=where) from error
    if "\0" in text:
        raise TokenizerError(f"piece {index} of this tokenizer holds a NUL character", where=where)
    return Piece(text, score, role, score_at)


def _keeps_text(data: bytes, start: int, end: int) -> bool:
    """Tell whether a NormalizerSpec leaves text alone: no rules, no added prefix, spaces kept and escaped."""
    flags = _numbers(data, start, end)
    unchanged = (flags.get(3, 1), flags.get(4, 1), flags.get(5, 1)) == (0, 0, 1)
    return unchanged and not _has_rules(data, start, end)


def _has_rules(data: bytes, start: int, end: int) -> bool:
    """Tell whether a NormalizerSpec has a table that replaces characters (fields 2 and 6)."""
    return any(field in {2, 6} and last > first for field, first, last in _fields(data, start, end))


def _numbers(data: bytes, start: int, end: int) -> dict[int, int]:
    """Return the one-byte varint fields of a message (flags and enumerations)."""
    return {field: data[first] for field, first, last in _fields(data, start, end) if last - first == 1}


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) for each field of the message; raise IndexError if it does not fit."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire == _FIXED32:
            size = 4
        elif wire == _FIXED64:
            size = 8
        elif wire == _VARINT:
            size = _varint(data, at)[1] - at
        else:
            raise IndexError(at)
        if at + size > end:
            raise IndexError(at)
        yield key >> 3, at, at + size
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at `at` and the place after it."""
    if data[at] < 128:  # nearly all are one byte
        return data[at], at + 1
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(at)
