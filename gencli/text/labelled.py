"""A labelled file, opened: its rows, and how texts and turns are taken out of them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from gencli.errors import PairsError
from gencli.text.chat import Turn
from gencli.text.encoding import Mended, decoded_blocks, text_encoding
from gencli.text.fields import missing_key
from gencli.text.json_lines import json_type, near_name
from gencli.text.rows import Row, Rows, open_rows
from gencli.text.sources import SourceFile, open_source, spooled_stdin, text_chunks

ROLES = ("system", "user", "assistant")
_ROLE_NAMES = {**{role: role for role in ROLES}, "human": "user", "gpt": "assistant", "model": "assistant"}


class Told(Protocol):
    """What is told of a file that was read."""

    @property
    def path(self) -> Path: ...
    @property
    def format(self) -> str: ...
    @property
    def fields(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def told(file: Told, count: int, what: str) -> list[str]:
    """Return the lines to say of a file of so many `what`."""
    return [f"{file.path}: {count:,} {what}, {file.format}, {file.fields}", *file.notes]


class Labelled:
    """The rows of a file, the first one looked at already. Raises PairsError where there is none."""

    def __init__(self, source: SourceFile, encoding: str | None, keys: tuple[str | None, str | None]) -> None:
        self.name, self.mended = source.name, Mended()
        codec = text_encoding(encoding)
        blocks = decoded_blocks(text_chunks(source), encoding=codec, name=self.name, mended=self.mended)
        self.opened: Rows = open_rows(
            blocks, name=self.name, ending=source.ending, prompt_key=keys[0], completion_key=keys[1]
        )
        first = next(self.opened.rows, None)
        if first is None:
            raise PairsError("no examples in the file", where=f"{self.name}:1")
        self.first: Row = first
        self._unread: dict[str, None] = {}

    def rows(self) -> Iterator[tuple[Row, str]]:
        """Yield each row with its place, "path:line"."""
        yield self.first, f"{self.name}:{self.first.line}"
        for row in self.opened.rows:
            yield row, f"{self.name}:{row.line}"

    def pass_over(self, keys: Iterator[str]) -> None:
        """Remember keys that are not read."""
        self._unread.update(dict.fromkeys(keys))

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know about the file, once all its rows were read."""
        unread = (f"ignored: {', '.join(self._unread)}",) if self._unread else ()
        return (*self.opened.notes, *unread, *self.mended.notes())

    def text(self, values: Mapping[str, object], key: str, where: str) -> str:
        """Return the text under a key."""
        if key not in values:
            raise missing_key(key, values, where=where)
        value = values[key]
        if not isinstance(value, str):
            found = json_type(value)
            hint = "write a number as text, in quotes" if found == "a number" else ""
            raise PairsError(f"expected a string under {key!r}, found {found}", where=where, hint=hint)
        return self.mended.mend(value)

    def turns(self, values: Mapping[str, object], key: str, where: str) -> tuple[Turn, ...]:
        """Return the messages under a key, in whatever order they stand."""
        if key not in values:
            raise missing_key(key, values, where=where)
        messages = values[key]
        if not isinstance(messages, list):
            raise PairsError(f"expected a list under {key!r}, found {json_type(messages)}", where=where)
        return tuple(self._turn(message, key, index, where) for index, message in enumerate(messages, 1))

    def _turn(self, message: object, key: str, index: int, where: str) -> Turn:
        if not isinstance(message, dict):
            raise PairsError(f"message {index}: expected an object, found {json_type(message)}", where=where)
        role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
        self.pass_over(f"{key}.{name}" for name in message if name not in (role_key, text_key))
        name = self.text(message, role_key, where)
        role = _ROLE_NAMES.get(name)
        if role is None:
            near = near_name(name, _ROLE_NAMES)
            raise PairsError(
                f"message {index}: expected the role system, user or assistant, found {name!r}",
                where=where,
                hint=f"did you mean {near!r}?" if near else "",
            )
        return Turn(role, self.text(message, text_key, where))


def check_conversation(turns: tuple[Turn, ...], where: str) -> None:
    """Raise PairsError unless user and assistant take turns, after a system's word or none, to an answer."""
    speakers = turns[1:] if turns and turns[0].role == "system" else turns
    for index, turn in enumerate(speakers):
        expected = ROLES[1 + index % 2]
        if turn.role != expected:
            number = index + 1 + len(turns) - len(speakers)
            raise PairsError(f"message {number}: expected {expected}, found {turn.role}", where=where)
    if not speakers or len(speakers) % 2:
        raise PairsError("the messages must end with one of the assistant's", where=where)


@contextlib.contextmanager
def open_labelled(
    path: str | Path,
    *,
    encoding: str | None = None,
    prompt_key: str | None = None,
    completion_key: str | None = None,
) -> Iterator[Labelled]:
    """Open a labelled file ("-": standard input) for the block; its format is told by the content.

    Raises PairsError for what can't be opened or told, UsageError for an unknown encoding.
    """
    keys = prompt_key, completion_key
    if str(path) != "-":
        yield Labelled(open_source(Path(path), kind=PairsError, encoding=encoding), encoding, keys)
        return
    with tempfile.TemporaryDirectory(prefix="gencli-") as folder:
        copy = spooled_stdin(Path(folder))
        yield Labelled(open_source(copy, kind=PairsError, encoding=encoding, name="stdin"), encoding, keys)
