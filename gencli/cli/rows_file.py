"""A file of JSON lines that a command goes on with: whole rows are kept, a torn last one is made again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from gencli import storage
from gencli.errors import InputError, RunStateError

FAILED = -1  # stands for the sample of a row that holds an error
_BEGINNING = b'{"line": '
_OTHER_FILE = "give --output another name, or move this file away"


class RowsFile:
    """The rows of earlier runs, and a place to append to. `open_rows_file` makes one.

    `job` stands for all that rows depend on beside their prompts and the seed, and is written into each. `seed` is
    that of the samples in the file, None if there are none.
    """

    def __init__(self, path: Path, file: BinaryIO, job: str) -> None:
        self.path, self._file, self._job = path, file, job
        self.seed: int | None = None
        self._done: dict[int, set[int]] = {}
        self._prompts: dict[int, int] = {}  # a hash is enough to tell another prompt
        self._read()

    def missing(self, line: int, prompt: str, samples: int) -> list[int]:
        """Return which of a line's samples are not in the file.

        Raises RunStateError if the file answers another prompt for this line.
        """
        if self._prompts.get(line, hash(prompt)) != hash(prompt):
            raise RunStateError(
                f"the rows here are of another input: line {line} had another prompt",
                where=str(self.path), kept="all rows are as they were", hint=_OTHER_FILE,
            )  # fmt: skip
        done = self._done.get(line, set())
        return [] if FAILED in done else [sample for sample in range(samples) if sample not in done]

    def append(self, records: Sequence[Mapping[str, object]]) -> None:
        """Add rows at the end. Raises MachineError when the disk refuses; the next run drops a torn one."""
        rows = ({**record, "job": self._job} for record in records)
        lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        with storage.told_as_machine_error(self.path):
            storage.watch("write", self.path)
            self._file.write(lines.encode("utf-8", "replace"))
            self._file.flush()

    def _read(self) -> None:
        """Take note of the rows that are there, and cut off a torn last one."""
        end = 0
        for number, data in enumerate(self._file, 1):
            if not data.endswith(b"\n") and _is_torn(data):
                break
            self._note(number, data)
            end += len(data)
        with storage.told_as_machine_error(self.path):
            storage.watch("write", self.path)
            self._file.seek(end)
            self._file.truncate()

    def _note(self, number: int, data: bytes) -> None:
        try:
            record = json.loads(data)
            line, sample = record["line"], FAILED if "error" in record else record.get("sample", 0)
            if not isinstance(line, int) or not isinstance(sample, int) or not data.endswith(b"\n"):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                "this file holds something else than rows of gencli generate",
                where=f"{self.path}, line {number}", kept="it is as it was", hint=_OTHER_FILE,
            ) from None  # fmt: skip
        if record.get("job", self._job) != self._job:
            raise RunStateError(
                "the rows here were written with other settings, or by another model",
                where=f"{self.path}, line {number}", kept="all rows are as they were", hint=_OTHER_FILE,
            )  # fmt: skip
        self._done.setdefault(line, set()).add(sample)
        if isinstance(record.get("prompt"), str):
            self._prompts[line] = hash(record["prompt"])
        if isinstance(record.get("seed"), int):
            self.seed = record["seed"]


@contextlib.contextmanager
def open_rows_file(path: Path, job: str) -> Iterator[RowsFile]:
    """Open a file to go on with, or a new one, for the time of the block; its rows are on the disk after it.

    Raises InputError for a file of something else, RunStateError while another process writes to it and where its
    rows are of another job, and MachineError when the disk or the permissions refuse.
    """
    with storage.told_as_machine_error(path):
        storage.make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(
            "the rows can't go on in what is no regular file",
            where=str(path),
            hint="leave --output out and redirect stdout",
        )
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunStateError(
                "another process is writing to this file", where=str(path), hint="wait for it, or stop it"
            ) from error
        rows = RowsFile(path, file, job)
        try:
            yield rows
        finally:
            with storage.told_as_machine_error(path):
                storage.watch("flush", path)
                os.fsync(descriptor)
                storage.flush_folder(path.parent)


def _is_torn(data: bytes) -> bool:
    """Tell whether a line without an end can be the beginning of a row, cut by a kill or a power loss."""
    data = data.rstrip(b"\0")
    return data.startswith(_BEGINNING) or _BEGINNING.startswith(data)
