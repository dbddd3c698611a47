"""Text in blocks to documents: an empty line ends a document, and one that is too long is cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gencli.text.encoding import Mended, counted
from gencli.text.normalization import begins_safely, compose, safe_end

if TYPE_CHECKING:
    from pathlib import Path

MAX_DOCUMENT_CHARACTERS = 1_000_000
_SEPARATOR = 2  # line ends between two documents
_LONGEST_CLUSTER = 64


class Document(NamedTuple):
    """One text in NFC with LF line ends, without the line ends that close it.

    `nbytes` are the UTF-8 bytes of normalised source it stands for: the `text_bytes` of its text plus the
    line ends that close it, at most two. `source` is the index of the argument that it came from.
    """

    text: str
    text_bytes: int
    nbytes: int
    source: int


@dataclass
class Tally(Mended):
    """What one pass over a corpus read, mended and dropped; `nbytes` is the sum over its documents."""

    files: int = 0
    documents: int = 0
    nbytes: int = 0
    characters: int = 0
    split_documents: int = 0
    blank_lines: int = 0
    blank_documents: int = 0
    bad_lines: int = 0
    repeated_files: int = 0
    skipped_files: list[tuple[Path, str]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return one short sentence for each thing that was mended or dropped."""
        limit = f"{MAX_DOCUMENT_CHARACTERS:,}"
        sentences = (
            (self.split_documents, f"cut {{}} longer than {limit} characters", "document"),
            (self.blank_lines, "dropped {} beyond the one between documents", "empty line"),
            (self.blank_documents, "dropped {} of nothing but white space", "document"),
            (self.bad_lines, "found {} that is not JSON", "line"),
            (self.repeated_files, "read {} that had been read before", "file"),
        )
        said = [sentence.format(counted(count, noun)) for count, sentence, noun in sentences if count]
        if self.skipped_files:
            path, why = self.skipped_files[0]
            others = len(self.skipped_files) - 1
            also = f", and {counted(others, 'other file')}" if others else ""
            said.append(f"skipped {path} ({why}){also}")
        return super().notes() + said


class DocumentCutter:
    """Cut the text of one file, arriving in blocks of any size, into documents in constant memory.

    Where the blocks end never changes the documents. Blocks have LF line ends and need not be in NFC.
    """

    def __init__(self, source: int, tally: Tally) -> None:
        self._source = source
        self._tally = tally
        self._held = ""  # the unfinished document, as it was read
        self._ready = ""  # what stands before it in the same document, in NFC, once that is long
        self._line_ends = 0  # read after `_held`
        self._is_split = False
        self._is_composed = False

    def feed(self, block: str) -> list[Document]:
        """Take the next block and return the documents that it completes."""
        documents: list[Document] = []
        body = block.lstrip("\n")
        self._line_ends += len(block) - len(body)
        if not body:
            return documents
        if self._line_ends >= _SEPARATOR or not (self._held or self._ready):
            self._close(documents)
        else:
            self._held += "\n" * self._line_ends
        text = body.rstrip("\n")
        *complete, last = text.split("\n\n")
        for piece in complete:
            if piece and piece[0] != "\n" and not (self._held or self._ready):
                composed = compose(piece)
                if len(composed) <= MAX_DOCUMENT_CHARACTERS:  # what most documents are, and in few steps
                    self._append(composed, _SEPARATOR, documents)
                    self._tally.not_nfc += composed != piece
                    continue
            self._take(piece)
            self._line_ends = _SEPARATOR
            self._close(documents)
        self._take(last)
        self._line_ends = len(body) - len(text)
        if len(self._held) > MAX_DOCUMENT_CHARACTERS:
            self._spill(documents)
        return documents

    def finish(self) -> list[Document]:
        """Return the last document of the file, if there is one, and be ready for the next file."""
        documents: list[Document] = []
        self._close(documents)
        return documents

    def whole(self, text: str) -> list[Document]:
        """Return a text that is one document, empty lines and all; cut only if it is too long."""
        if not text or text.isspace():
            self._tally.blank_documents += 1
            return []
        self._held = text.rstrip("\n")
        self._line_ends = len(text) - len(self._held)
        return self.finish()

    def _take(self, piece: str) -> None:
        """Go on with a piece from between two separators; an odd run of line ends leaves one at its start."""
        if not self._held and not self._ready and piece.startswith("\n"):
            self._tally.blank_lines += 1
            piece = piece[1:]
        self._held += piece

    def _close(self, documents: list[Document]) -> None:
        """End the document at hand with the line ends read after it."""
        text = self._composed(self._held)
        if self._ready or len(text) > MAX_DOCUMENT_CHARACTERS:
            text = self._cut(self._ready + text, documents)
        kept = min(self._line_ends, _SEPARATOR) if text else 0
        self._tally.blank_lines += self._line_ends - kept
        self._append(text, kept, documents)
        self._tally.not_nfc += self._is_composed
        self._tally.split_documents += self._is_split
        self._held = self._ready = ""
        self._line_ends = 0
        self._is_split = self._is_composed = False

    def _append(self, text: str, line_ends: int, documents: list[Document]) -> None:
        """Make a document, unless there is nothing in it to learn from, and count it."""
        tally = self._tally
        if not text:
            return
        if text.isspace():
            tally.blank_documents += 1
            return
        size = len(text)
        if not text.isascii():
            size = len(text.encode())
            tally.lower_blocks += text.count("\u2581")
        tally.nul += text.count("\0")
        tally.documents += 1
        tally.nbytes += size + line_ends
        tally.characters += len(text)
        documents.append(Document(text, size, size + line_ends, self._source))

    def _spill(self, documents: list[Document]) -> None:
        """Cut off documents from the start of one that is still growing."""
        end = safe_end(self._held)
        self._ready = self._cut(self._ready + self._composed(self._held[:end]), documents)
        self._held = self._held[end:]

    def _cut(self, text: str, documents: list[Document]) -> str:
        """Append full-sized documents from the start of `text` and return the rest."""
        start = 0
        while len(text) - start > MAX_DOCUMENT_CHARACTERS:
            stop = _place_to_cut(text, start)
            piece = text[start:stop].rstrip("\n")
            kept = min(stop - start - len(piece), _SEPARATOR)
            self._tally.blank_lines += stop - start - len(piece) - kept
            self._append(piece, kept, documents)
            self._is_split = True
            start = stop
        return text[start:]

    def _composed(self, text: str) -> str:
        composed = compose(text)
        self._is_composed |= composed != text
        return composed


def _place_to_cut(text: str, start: int) -> int:
    """Return where to end a document: after a line, else a space, else before a whole letter.

    Lines and spaces count in the second half only, so that no document becomes much shorter than it may be.
    """
    limit = start + MAX_DOCUMENT_CHARACTERS
    half = start + MAX_DOCUMENT_CHARACTERS // 2
    for border in ("\n", " "):
        place = text.rfind(border, half, limit)
        if place >= 0:
            return place + 1
    for place in range(limit, max(half, limit - _LONGEST_CLUSTER), -1):
        if begins_safely(text[place]):
            return place
    return limit
