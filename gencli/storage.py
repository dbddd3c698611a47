"""The one module through which gencli writes: nothing half-written is ever seen under its final name.

A file or a folder is staged beside its destination (same disk), flushed to the disk, and renamed; the
parent folder is flushed last. A crash at any instruction, and a power loss at any moment, leave either the old
content or the new.

Every operation that changes the disk passes `watch` first, where a test can count it, record it, or make it fail.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from gencli.errors import GencliError, MachineError, RunStateError

STAGING = ".tmp-"
_STAGED = re.compile(r"^\.tmp-.*-(\d+)$")
_CHUNK = 1 << 20


def _unwatched(operation: str, path: Path, target: Path | None = None) -> None:
    """Do nothing: nobody watches but in a test."""


watch: Callable[..., None] = _unwatched


def digest_of(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits, reading in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def replace_file(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write `content` (text as UTF-8) under `path` so that a reader sees the old file or the whole new one.

    Nobody but the owner may read a `private` file. Raises MachineError when the disk or the permissions
    refuse; the old file is then untouched.
    """
    with staged_file(path, private=private) as staging:
        write(staging, content)


def append_private(path: Path, text: str) -> None:
    """Add text to a file that only its owner may read, and make it if it isn't there; follow no link.

    Raises MachineError when the disk or the permissions refuse.
    """
    with told_as_machine_error(path):
        make_folder(path.parent)
        watch("write", path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text.encode("utf-8", "backslashreplace"))


def write(staging: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) into a staged file, which is not flushed yet."""
    watch("write", staging)
    staging.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def staged_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Give a staging path to write; on a clean exit it is flushed and renamed to `path`."""
    with told_as_machine_error(path):
        make_folder(path.parent)
        staging = path.with_name(f"{STAGING}{path.name}-{os.getpid()}")
        staging.unlink(missing_ok=True)  # a link that someone left there would be written through
        if private:
            os.close(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            yield staging
            _settle(staging, 0o600 if private else 0o666)
            rename(staging, path)
            flush_folder(path.parent)
        finally:
            staging.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give an empty staging folder; on a clean exit its files are flushed and it is renamed to `path`.

    `path` must not exist as a non-empty folder.
    """
    with told_as_machine_error(path):
        make_folder(path.parent)
        staging = path.with_name(f"{STAGING}{path.name}-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        watch("make folder", staging)
        staging.mkdir()
        try:
            yield staging
            for file in sorted(staging.iterdir()):
                _settle(file)
            flush_folder(staging)
            rename(staging, path)
            flush_folder(path.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there, so that none is lost in a power loss."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        watch("make folder", folder)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder so that a crash half-way never leaves a damaged one under its name."""
    dying = path.with_name(f"{STAGING}{path.name}-{os.getpid()}")
    rename(path, dying)
    flush_folder(path.parent)
    for file in sorted(dying.iterdir()):
        watch("remove", file)
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink()
    watch("remove", dying)
    dying.rmdir()


def remove_file(path: Path) -> None:
    """Delete a file if it is there, for good: it does not come back after a power loss."""
    if path.exists():
        watch("remove", path)
        path.unlink(missing_ok=True)
        flush_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Give what stands under this name another one, and return that; nothing is lost."""
    aside = next(
        name
        for number in range(1, 1 << 20)
        if not (name := path.with_name(f".bad-{path.name}-{number}")).exists()
    )
    rename(path, aside)
    flush_folder(path.parent)
    return aside


def rename(path: Path, target: Path) -> None:
    """Give a file or folder another name in the same folder, in one step."""
    watch("rename", path, target)
    path.replace(target)


def check_space(folder: Path, nbytes: int) -> None:
    """Raise MachineError, before anything is written, if fewer than `nbytes` are free on the folder's disk."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    with told_as_machine_error(there):
        free = shutil.disk_usage(there).free
    if free < nbytes:
        raise MachineError(
            f"the disk is too full: {nbytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free",
            where=str(folder),
            kept="what was there before is untouched",
            hint="free some space on this disk and run the same command again",
        )


def sweep_staging(folder: Path) -> int:
    """Delete what dead processes left in staging inside `folder`; return how many entries went."""
    swept = 0
    for entry in folder.glob(f"{STAGING}*") if folder.is_dir() else ():
        match = _STAGED.match(entry.name)
        if match is None or _is_alive(int(match.group(1))):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        swept += 1
    return swept


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the time of the block; the kernel frees it if the process dies.

    Raises RunStateError when another process holds it.
    """
    with told_as_machine_error(path):
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 64, 0).decode("utf-8", "replace").strip() or "unknown"
            raise RunStateError(
                "another process is writing to this model",
                where=f"{path.parent} (process {holder})",
                hint="wait for it, stop it, or train into another folder",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told_as_machine_error(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a MachineError that names `path` and the next step."""
    try:
        yield
    except GencliError:
        raise
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space on this disk and run the same command again",
            errno.EDQUOT: "free some of your quota and run the same command again",
            errno.EACCES: "choose a folder that you may write to",
            errno.EROFS: "choose a folder that you may write to",
        }
        raise MachineError(
            f"can't write: {(error.strerror or str(error)).lower()}",
            where=str(path),
            kept="what was there before is untouched",
            hint=hints.get(error.errno or 0, "check the disk and the path, and run the same command again"),
        ) from error


def tensors_refused(path: Path, error: Exception) -> MachineError:
    """Return the error to raise when the tensor library could not write a file."""
    return MachineError(
        f"can't write: {error}",
        where=str(path),
        kept="what was there before is untouched",
        hint="free some space on this disk and run the same command again",
    )


def flush_folder(folder: Path) -> None:
    """Make the names inside `folder` survive a power loss."""
    watch("flush folder", folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(path: Path, mode: int = 0o666) -> None:
    """Flush a staged file to the disk and give it the mode that the umask allows."""
    watch("flush", path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, mode & ~_umask())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
