"""Where text comes from: named files, folders, gzip and standard input, as checked streams of bytes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import gzip
import os
import shutil
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gencli.errors import InputError, MachineError, UsageError
from gencli.storage import staged_file
from gencli.text.encoding import SAMPLE_BYTES, check_is_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

CHUNK_BYTES = 1 << 18
ENDINGS = (".txt", ".md", ".jsonl")
BOMB_BYTES = 64 << 20
BOMB_RATIO = 200


@dataclass(frozen=True)
class SourceFile:
    """A regular file that can be read; `size` bytes of it count, however it grows later.

    `name` is what messages call it, `argument` the index of the argument that led to it.
    """

    path: Path
    name: str
    argument: int
    size: int
    is_gzip: bool
    kind: type[InputError]

    @property
    def ending(self) -> str:
        """The ending of the name in lower case, without a closing ".gz"."""
        return Path(self.name.lower().removesuffix(".gz")).suffix


def open_source(
    path: Path, *, kind: type[InputError], encoding: str | None, argument: int = 0, name: str = ""
) -> SourceFile:
    """Check that `path` is a readable regular file of text and return it.

    Raises `kind` for what isn't there, isn't a file or isn't text, MachineError where reading is refused.
    """
    name = name or str(path)
    with told_as(kind, path, name):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise kind("this is a folder, not a file", where=name)
        if not stat.S_ISREG(status.st_mode):
            raise kind("this is not a regular file", where=name, hint="pipe it in and say - instead")
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
    source = SourceFile(path, name, argument, status.st_size, is_gzip, kind)
    sample = _head(source)
    check_is_text(
        sample[:SAMPLE_BYTES],
        is_whole=len(sample) <= SAMPLE_BYTES,
        encoding=encoding,
        name=name,
        kind=kind,
    )
    return source


def raw_chunks(source: SourceFile) -> Iterator[bytes]:
    """Yield the bytes of the file as they lie on the disk, exactly `source.size` of them."""
    left = source.size
    with told_as(source.kind, source.path, source.name), source.path.open("rb") as file:
        while left:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise source.kind(
                    f"the file became shorter while it was read: {left:,} of {source.size:,} bytes are gone",
                    where=source.name,
                )
            left -= len(chunk)
            yield chunk


def text_chunks(source: SourceFile) -> Generator[bytes]:
    """Yield the bytes of the text: those of the file, unpacked if it is a gzip file."""
    if not source.is_gzip:
        yield from raw_chunks(source)
        return
    with told_as(source.kind, source.path, source.name), source.path.open("rb") as file:
        yield from _unpacked(file, source)


def _unpacked(file: BinaryIO, source: SourceFile) -> Iterator[bytes]:
    unpacked = 0
    with gzip.GzipFile(fileobj=file) as packed:
        while True:
            try:
                chunk = packed.read(CHUNK_BYTES)
            except EOFError as error:
                message = f"the gzip file is cut short: it ends at byte {source.size:,}"
                raise source.kind(message, where=source.name, hint="fetch or pack the file again") from error
            except (gzip.BadGzipFile, zlib.error) as error:
                message = f"the gzip file is damaged before byte {file.tell():,}: {error}"
                raise source.kind(message, where=source.name, hint="fetch or pack the file again") from error
            if not chunk:
                return
            unpacked += len(chunk)
            if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * file.tell():
                raise source.kind(
                    f"the gzip file unpacks to more than {BOMB_RATIO} times its size",
                    where=source.name,
                    hint="unpack it yourself if you trust it",
                )
            yield chunk


def files_in(folder: Path, *, kind: type[InputError]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List the text files below a folder, sorted by their path in it, and what was skipped and why."""
    home = folder.resolve()
    found: list[Path] = []
    skipped: list[tuple[Path, str]] = []

    def refuse(error: OSError) -> None:
        raise error

    with told_as(kind, folder, str(folder)):
        for parent, folders, names in os.walk(folder, onerror=refuse):
            linked = [
                name for name in folders if not name.startswith(".") and Path(parent, name).is_symlink()
            ]
            skipped += [(Path(parent, name), "a link to a folder") for name in linked]
            folders[:] = [name for name in folders if not name.startswith(".") and name not in linked]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                why = _why_skipped(path, home)
                if why:
                    skipped.append((path, why))
                else:
                    found.append(path)
    return sorted(found, key=lambda path: path.parts), sorted(skipped)


def spooled_stdin(folder: Path) -> Path:
    """Copy standard input into `folder` once and return the file; UsageError if it is a terminal."""
    stream = sys.stdin
    if stream is None or stream.closed or stream.isatty():
        raise UsageError(
            "- means standard input, but that is a terminal" if stream else "there is no standard input",
            hint="pipe a file into the command or name a path",
        )
    path = folder / "stdin.txt"
    with staged_file(path) as staging, staging.open("wb") as file:
        shutil.copyfileobj(stream.buffer, file, CHUNK_BYTES)
    return path


@contextlib.contextmanager
def told_as(kind: type[InputError], path: Path, name: str) -> Iterator[None]:
    """Turn an OSError of the block into `kind` (not there) or MachineError (refused)."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise kind("no such file or folder", where=name, hint=_near_names(path)) from error
    except PermissionError as error:
        raise MachineError("no permission to read", where=name, hint="check the owner and mode") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise kind(f"no such file or folder: {(error.strerror or '').lower()}", where=name) from error
        raise MachineError(f"can't read: {(error.strerror or str(error)).lower()}", where=name) from error


def _head(source: SourceFile) -> bytes:
    """Return the first bytes of the text, more than SAMPLE_BYTES if there are more."""
    head = bytearray()
    with contextlib.closing(text_chunks(source)) as chunks:
        for chunk in chunks:
            head += chunk
            if len(head) > SAMPLE_BYTES:
                break
    return bytes(head)


def _why_skipped(path: Path, home: Path) -> str:
    """Say why a file found in a folder isn't read, or return an empty string."""
    if not path.name.lower().removesuffix(".gz").endswith(ENDINGS):
        return "its ending is not that of a text"
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if path.is_symlink() and home not in path.resolve().parents:
        return "a link out of the folder"
    return "" if path.is_file() else "not a regular file"


def _near_names(path: Path) -> str:
    """Name what exists nearest to a path that doesn't."""
    parent = path.parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    if missing:
        return f"there is no folder {missing[-1]}"
    try:
        names = sorted(each.name for each in parent.iterdir())
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(str(parent / name) for name in near)}?" if near else ""
