"""A corpus: files, folders, gzip and standard input as a stream of documents, with a count of all mending.

Nothing is dropped or changed silently: `Corpus.tally` says after a pass what was.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import CorpusError, UsageError
from gencli.text.documents import Document, DocumentCutter, Tally
from gencli.text.encoding import counted, decoded_blocks, text_encoding
from gencli.text.json_lines import json_type, near_name, numbered_lines, parsed_line
from gencli.text.sources import (
    ENDINGS,
    SourceFile,
    files_in,
    open_source,
    raw_chunks,
    spooled_stdin,
    text_chunks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Corpus", "Document", "Tally", "open_corpus"]

READING_RULES = 1  # raised whenever the same bytes come to give other documents
LONGEST_JSON_LINE = 64_000_000


class Corpus:
    """Checked files that give the same documents on every pass."""

    def __init__(
        self, files: Sequence[SourceFile], *, arguments: int, encoding: str, text_field: str, found: Tally
    ) -> None:
        self.files = tuple(file.path for file in files)
        self.nbytes = sum(file.size for file in files)  # on the disk
        self.arguments = arguments
        self.tally = found
        self._sources = tuple(files)
        self._encoding = encoding
        self._text_field = text_field
        self._skipped_files = found.skipped_files
        self._repeated_files = found.repeated_files

    def documents(self) -> Iterator[Document]:
        """Yield every document in constant memory and fill a new `tally` on the way.

        Raises CorpusError for what can't be read, and at the end if there was no document at all.
        """
        tally = Tally(skipped_files=self._skipped_files, repeated_files=self._repeated_files)
        self.tally = tally
        for file in self._sources:
            tally.files += 1
            yield from self._documents_of(file, tally)
        if not tally.documents:
            dropped = f" ({'; '.join(tally.notes())})" if tally.notes() else ""
            raise CorpusError(f"there is no text in the corpus{dropped}", where=_listed(self._sources))

    def digest(self) -> str:
        """Return a sha256 over everything that decides the documents: bytes, borders, encoding and rules.

        File names don't matter, but whether a file is read as JSON lines does.
        """
        digest = hashlib.sha256(repr((READING_RULES, self._encoding, self._text_field)).encode())
        for file in self._sources:
            digest.update(repr((file.argument, file.size, _is_json(file))).encode())
            for chunk in raw_chunks(file):
                digest.update(chunk)
        return digest.hexdigest()

    def _documents_of(self, file: SourceFile, tally: Tally) -> Iterator[Document]:
        blocks = decoded_blocks(text_chunks(file), encoding=self._encoding, name=file.name, mended=tally)
        cutter = DocumentCutter(file.argument, tally)
        if _is_json(file):
            for text in self._texts(blocks, file, tally):
                yield from cutter.whole(text)
            return
        for block in blocks:
            yield from cutter.feed(block)
        yield from cutter.finish()

    def _texts(self, blocks: Iterator[str], file: SourceFile, tally: Tally) -> Iterator[str]:
        """Yield the text field of each line of a JSON lines file; CorpusError names a bad line."""
        lines = numbered_lines(blocks, name=file.name, longest=LONGEST_JSON_LINE, kind=CorpusError)
        for number, line in lines:
            if not line.strip(" \t\r"):
                continue
            where = f"{file.name}:{number}"
            try:
                value = parsed_line(line, where=where, kind=CorpusError)
                text = _text_of(value, self._text_field, where=f"{where}:1")
            except CorpusError:
                tally.bad_lines += 1
                raise
            yield tally.mend_escapes(text)


def open_corpus(
    arguments: Sequence[str | Path],
    *,
    encoding: str | None = None,
    text_field: str = "text",
    spool: Path | None = None,
) -> Corpus:
    """List and check all files that the arguments name; "-" is standard input, copied once into `spool`.

    Without `spool` the copy lives in a temporary folder as long as the Corpus does. Raises CorpusError for
    what isn't there or isn't text, UsageError for an unknown encoding or a terminal, MachineError where
    reading is refused.
    """
    if not arguments:
        raise UsageError("no corpus was named", hint="name files or folders, or - for standard input")
    if sum(str(argument) == "-" for argument in arguments) > 1:
        raise UsageError("- (standard input) can be read only once")
    codec = text_encoding(encoding)
    files: list[SourceFile] = []
    found = Tally()
    with contextlib.ExitStack() as temporary:
        for index, argument in enumerate(arguments):
            if str(argument) == "-":
                folder = spool or _temporary_folder(temporary)
                paths, name = [spooled_stdin(folder)], "stdin"
            else:
                paths, name = _files_of(Path(argument), found), ""
            files += [
                open_source(path, kind=CorpusError, encoding=encoding, argument=index, name=name)
                for path in paths
            ]
        found.repeated_files = len(files) - len({file.path.resolve() for file in files})
        corpus = Corpus(files, arguments=len(arguments), encoding=codec, text_field=text_field, found=found)
        weakref.finalize(corpus, temporary.pop_all().close)
    return corpus


def _temporary_folder(temporary: contextlib.ExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gencli-"))
    temporary.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _files_of(path: Path, found: Tally) -> list[Path]:
    """Return the files an argument stands for: itself, or the texts in a folder."""
    if not path.is_dir():
        return [path]
    files, skipped = files_in(path, kind=CorpusError)
    found.skipped_files += skipped
    if not files:
        endings = ", ".join(ENDINGS)
        raise CorpusError(
            "there is no text file in the folder",
            where=str(path),
            hint=f"files that end in {endings} (or these with .gz) are read; name others one by one",
        )
    return files


def _text_of(value: dict[str, object], text_field: str, *, where: str) -> str:
    """Return the text of one JSON object; CorpusError if it isn't there or no string."""
    if text_field not in value:
        near = near_name(text_field, value)
        raise CorpusError(
            f"expected a key {text_field!r} with a string, found {', '.join(map(repr, value)) or 'no key'}",
            where=where,
            hint=f"did you mean {near!r}?" if near else "",
        )
    text = value[text_field]
    if not isinstance(text, str):
        raise CorpusError(f"expected a string under {text_field!r}, found {json_type(text)}", where=where)
    return text


def _is_json(file: SourceFile) -> bool:
    return file.ending == ".jsonl"


def _listed(files: Sequence[SourceFile]) -> str:
    """Name a few of the files."""
    others = f" and {counted(len(files) - 3, 'other file')}" if len(files) > 3 else ""
    return ", ".join(file.name for file in files[:3]) + others
