"""Bytes to text: what is no text is refused with the next step, what can be mended is mended and counted."""

from __future__ import annotations

import codecs
import difflib
import encodings.aliases
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gencli.errors import InputError, UsageError
from gencli.text.magic import foreign_kind
from gencli.text.normalization import compose

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAMPLE_BYTES = 1 << 20
MOST_NULS = 0.01
MOST_BAD = 0.05
OFFSETS_KEPT = 3

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_FOR_TEXT = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Mended:
    """What was put right on the way from bytes to text; `replaced_at` holds (name, byte offset)."""

    byte_order_marks: int = 0
    carriage_returns: int = 0
    not_nfc: int = 0
    replaced: int = 0
    replaced_at: list[tuple[str, int]] = field(default_factory=list)
    nul: int = 0
    lower_blocks: int = 0

    def notes(self) -> list[str]:
        """Return one short sentence for each kind of mending that happened."""
        places = ", ".join(f"{name} at byte {offset:,}" for name, offset in self.replaced_at)
        sentences = (
            (self.byte_order_marks, "removed {} at the start of a file", "byte order mark"),
            (self.carriage_returns, "made {} (CR LF) into plain ones", "Windows line end"),
            (self.not_nfc, "composed {} into Unicode NFC", "text"),
            (self.replaced, f"replaced {{}} by U+FFFD{f' ({places})' if places else ''}", "invalid sequence"),
            (self.nul, "kept {}", "NUL character"),
            (self.lower_blocks, "found {}, which the tokenizer turns into spaces", "character U+2581"),
        )
        return [sentence.format(counted(count, noun)) for count, sentence, noun in sentences if count]

    def mend(self, value: str) -> str:
        """Return a string from JSON or a table as NFC with LF line ends and no lone surrogates."""
        value = self.mend_escapes(value)
        self.nul += value.count("\0")
        if value.isascii():
            return value
        self.lower_blocks += value.count("\u2581")
        composed = compose(value)
        self.not_nfc += composed != value
        return composed

    def mend_escapes(self, value: str) -> str:
        """Mend what only an escape can bring into a string: CR LF and lone surrogates."""
        if "\r" in value:
            self.carriage_returns += value.count("\r\n")
            value = value.replace("\r\n", "\n")
        if not value.isascii():
            value, surrogates = _SURROGATE.subn("\ufffd", value)
            self.replaced += surrogates
        return value


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in the right number: "1 line", "2,000 lines"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def text_encoding(name: str | None) -> str:
    """Return Python's name of an encoding, "utf-8" for None; UsageError with a near name if unknown."""
    if name is None:
        return "utf-8"
    try:
        canonical = codecs.lookup(name).name
        b"x".decode(name, "ignore")  # refuses codecs that don't give text
        if canonical in _NOT_FOR_TEXT:
            raise LookupError(name)
    except (LookupError, ValueError) as error:
        known = [
            alias.replace("_", "-")
            for alias, codec in encodings.aliases.aliases.items()
            if not codec.endswith(("_codec", "rot_13"))
        ]
        near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
        raise UsageError(
            f"unknown encoding {name!r}",
            hint=f"did you mean {near[0]}?" if near else "for example --encoding cp949, utf-16 or latin-1",
        ) from error
    return canonical


def decoded_blocks(chunks: Iterable[bytes], *, encoding: str, name: str, mended: Mended) -> Iterator[str]:
    """Yield the text of one file in blocks: no byte order mark, LF for CR LF, invalid bytes as U+FFFD."""
    decoder = _Decoder(encoding, name, mended)
    held = ""
    is_start = True
    for chunk, is_last in _with_last(chunks):
        block = held + decoder.decode(chunk, is_last)
        if is_start and block:
            is_start = False
            if block[0] == "\ufeff":
                mended.byte_order_marks += 1
                block = block[1:]
        held = "\r" if block.endswith("\r") and not is_last else ""
        if "\r" in block:
            block = block[: len(block) - len(held)]
            mended.carriage_returns += block.count("\r\n")
            block = block.replace("\r\n", "\n")
        if block:
            yield block


def check_is_text(
    sample: bytes, *, is_whole: bool, encoding: str | None, name: str, kind: type[InputError]
) -> None:
    """Raise `kind` if the first bytes of a file are no text in `encoding` (None: UTF-8)."""
    foreign, hint = foreign_kind(sample)
    if foreign:
        raise kind(f"this is not text but {foreign}", where=name, hint=hint)
    if encoding is None:
        for mark, wide in _MARKS:
            if sample.startswith(mark):
                raise kind(f"this is {wide.upper()} text, not UTF-8", where=name, hint=f"--encoding {wide}")
    codec = text_encoding(encoding)
    marks = tuple(mark for mark, wide in _MARKS if wide == codec)
    if marks and len(sample) >= len(marks[0]) and not sample.startswith(marks):
        raise kind(
            f"{codec.upper()} text begins with a mark of its byte order, and this does not",
            where=name,
            hint=f"say the order: --encoding {codec}-le, or {codec}-be",
        )
    mended = Mended()
    text = _Decoder(codec, name, mended).decode(sample, is_whole)
    if text.count("\0") > MOST_NULS * len(text):
        raise kind(
            "this looks binary: more than 1 % of it is NUL",
            where=name,
            hint="if it is UTF-16 without a mark: --encoding utf-16-le or utf-16-be",
        )
    if mended.replaced > MOST_BAD * len(sample):
        raise kind(
            f"this is not {(encoding or 'UTF-8')} text: {mended.replaced / len(sample):.0%} of it is invalid",
            where=f"{name} (first at byte {mended.replaced_at[0][1]:,})",
            hint=_likely_encoding(sample, is_whole, encoding),
        )


def _likely_encoding(sample: bytes, is_whole: bool, tried: str | None) -> str:
    candidates = ("cp949",) if tried is None else ("utf-8", "cp949")
    for candidate in candidates:
        if candidate == tried:
            continue
        try:
            codecs.getincrementaldecoder(candidate)("strict").decode(sample, is_whole)
        except UnicodeDecodeError:
            continue
        return "leave --encoding out: it is UTF-8" if candidate == "utf-8" else f"--encoding {candidate}"
    return "--encoding latin-1, if it is a Western European text"


class _Decoder:
    """Decode a file piece by piece; where a piece ends never changes the text or the counts of UTF-8."""

    def __init__(self, encoding: str, name: str, mended: Mended) -> None:
        self._make = codecs.getincrementaldecoder(encoding)
        self._strict = self._make("strict")
        self._is_utf8 = encoding == "utf-8"
        self._name = name
        self._mended = mended
        self._bytes = 0

    def decode(self, chunk: bytes, is_last: bool) -> str:
        state = self._strict.getstate()
        try:
            text = self._strict.decode(chunk, is_last)
        except UnicodeDecodeError:
            text = self._decode_badly(chunk, is_last, state)
        self._bytes += len(chunk)
        return text

    def _decode_badly(self, chunk: bytes, is_last: bool, state: tuple[bytes, int]) -> str:
        lenient = self._make("replace")
        lenient.setstate(state)
        text = lenient.decode(chunk, is_last)
        self._strict.setstate(lenient.getstate())
        data = state[0] + chunk
        genuine = data.count(b"\xef\xbf\xbd") if self._is_utf8 else 0
        self._mended.replaced += text.count("\ufffd") - genuine
        self._note_offsets(data, is_last, state)
        return text

    def _note_offsets(self, data: bytes, is_last: bool, state: tuple[bytes, int]) -> None:
        position, reading = 0, state[1]
        while len(self._mended.replaced_at) < OFFSETS_KEPT:
            strict = self._make("strict")
            strict.setstate((b"", reading))
            try:
                strict.decode(data[position:], is_last)
            except UnicodeDecodeError as error:
                offset = self._bytes - len(state[0]) + position + error.start
                self._mended.replaced_at.append((self._name, offset))
                position += error.end
                reading = self._strict.getstate()[1]  # the byte order, which a mark has told by now
            else:
                return


def _with_last(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield every chunk with False, then an empty one with True."""
    for chunk in chunks:
        yield chunk, False
    yield b"", True
