"""Labelled pairs in any common format as turns of a conversation, each with the line it came from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import PairsError, UsageError
from gencli.text.encoding import Mended, counted, decoded_blocks, text_encoding
from gencli.text.fields import Fields, detected_fields, missing_key, unknown_fields
from gencli.text.json_lines import json_type, near_name
from gencli.text.rows import Row, open_rows
from gencli.text.sources import SourceFile, open_source, spooled_stdin, text_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROLES = ("system", "user", "assistant")
_ROLE_NAMES = {**{role: role for role in ROLES}, "human": "user", "gpt": "assistant", "model": "assistant"}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; `role` is "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One example: turns that end with the assistant's answer, and where they stand in the file."""

    turns: tuple[Turn, ...]
    file: str
    line: int

    @property
    def prompt(self) -> str:
        """The text of the last user turn."""
        return next(turn.text for turn in reversed(self.turns) if turn.role == "user")

    @property
    def completion(self) -> str:
        """The text of the final assistant turn."""
        return self.turns[-1].text


@dataclass(frozen=True)
class PairsFile:
    """All pairs of a file, with what was detected in words, and what a user should know about them.

    `format` is "jsonl", "json", "csv" or "tsv"; `labels` are the sorted distinct answers if they are labels.
    """

    path: Path
    pairs: tuple[Pair, ...]
    format: str
    fields: str
    notes: tuple[str, ...]
    labels: tuple[str, ...]


def read_pairs(
    path: str | Path,
    *,
    encoding: str | None = None,
    prompt_key: str | None = None,
    completion_key: str | None = None,
) -> PairsFile:
    """Read a file of labelled pairs ("-": standard input), telling format and fields by themselves.

    Raises PairsError with "path:line" for the first row that can't be used, UsageError for an unknown
    encoding or keys that can't be meant.
    """
    if prompt_key is not None and prompt_key == completion_key:
        raise UsageError(f"{prompt_key!r} can't be both the prompt and the completion")
    if str(path) != "-":
        source = open_source(Path(path), kind=PairsError, encoding=encoding)
        return _read(source, Path(path), encoding, prompt_key, completion_key)
    with tempfile.TemporaryDirectory(prefix="gencli-") as folder:
        copy = spooled_stdin(Path(folder))
        source = open_source(copy, kind=PairsError, encoding=encoding, name="stdin")
        return _read(source, Path(path), encoding, prompt_key, completion_key)


def _read(
    source: SourceFile, path: Path, encoding: str | None, prompt_key: str | None, completion_key: str | None
) -> PairsFile:
    mended = Mended()
    codec = text_encoding(encoding)
    blocks = decoded_blocks(text_chunks(source), encoding=codec, name=source.name, mended=mended)
    opened = open_rows(
        blocks, name=source.name, ending=source.ending, prompt_key=prompt_key, completion_key=completion_key
    )
    first = next(opened.rows, None)
    if first is None:
        raise PairsError("no examples in the file", where=f"{source.name}:1")
    names = list(first.values)
    fields = opened.fields or detected_fields(names, prompt_key=prompt_key, completion_key=completion_key)
    if fields is None:
        where = f"{source.name}:{first.line}"
        raise unknown_fields(names, where=where, prompt_key=prompt_key, completion_key=completion_key)
    reader = _PairReader(source.name, fields, mended)
    pairs = tuple(reader.pairs(first, opened.rows))
    labels = tuple(sorted({pair.completion for pair in pairs})) if fields.has_labels else ()
    notes = (*opened.notes, *reader.notes(), *mended.notes(), *_remarks(pairs, labels))
    return PairsFile(path, pairs, opened.format, fields.words, notes, labels)


class _PairReader:
    """Rows to pairs, with the keys that were left unread on the way."""

    def __init__(self, name: str, fields: Fields, mended: Mended) -> None:
        self._name = name
        self._fields = fields
        self._mended = mended
        self._unread: dict[str, None] = {}

    def pairs(self, first: Row, others: Iterator[Row]) -> Iterator[Pair]:
        """Yield one pair a row; PairsError with its line if it can't be used."""
        yield self._pair(first)
        for row in others:
            yield self._pair(row)

    def notes(self) -> list[str]:
        """Name the keys that no one asked for."""
        return [f"ignored: {', '.join(self._unread)}"] if self._unread else []

    def _pair(self, row: Row) -> Pair:
        where = f"{self._name}:{row.line}"
        for key in row.values:
            if key not in self._fields.keys:
                self._unread[key] = None
        turns = (
            self._conversation(row, where) if self._fields.turns else self._question_and_answer(row, where)
        )
        for turn in turns:
            if turn.role == "assistant" and not turn.text.strip():
                raise PairsError(
                    "the completion is empty: there is nothing to learn",
                    where=where,
                    hint="fill it in or delete the row",
                )
        return Pair(turns, self._name, row.line)

    def _question_and_answer(self, row: Row, where: str) -> tuple[Turn, ...]:
        fields = self._fields
        prompt = self._text(row.values, fields.prompt, where)
        extra = self._text(row.values, fields.extra_input, where) if fields.extra_input in row.values else ""
        answer = self._text(row.values, fields.completion, where)
        return Turn("user", f"{prompt}\n\n{extra}" if extra else prompt), Turn("assistant", answer)

    def _conversation(self, row: Row, where: str) -> tuple[Turn, ...]:
        key = self._fields.turns
        if key not in row.values:
            raise missing_key(key, row.values, where=where)
        messages = row.values[key]
        if not isinstance(messages, list):
            raise PairsError(f"expected a list under {key!r}, found {json_type(messages)}", where=where)
        turns = [self._turn(message, index, where) for index, message in enumerate(messages, 1)]
        speakers = turns[1:] if turns and turns[0].role == "system" else turns
        for index, turn in enumerate(speakers):
            expected = ROLES[1 + index % 2]
            if turn.role != expected:
                number = index + 1 + len(turns) - len(speakers)
                raise PairsError(f"message {number}: expected {expected}, found {turn.role}", where=where)
        if not speakers or len(speakers) % 2:
            raise PairsError("the messages must end with one of the assistant's", where=where)
        return tuple(turns)

    def _turn(self, message: object, index: int, where: str) -> Turn:
        if not isinstance(message, dict):
            raise PairsError(f"message {index}: expected an object, found {json_type(message)}", where=where)
        role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
        for key in message:
            if key not in (role_key, text_key):
                self._unread[f"{self._fields.turns}.{key}"] = None
        name = self._text(message, role_key, where)
        role = _ROLE_NAMES.get(name)
        if role is None:
            near = near_name(name, _ROLE_NAMES)
            raise PairsError(
                f"message {index}: expected the role system, user or assistant, found {name!r}",
                where=where,
                hint=f"did you mean {near!r}?" if near else "",
            )
        return Turn(role, self._text(message, text_key, where))

    def _text(self, values: dict[str, object], key: str, where: str) -> str:
        if key not in values:
            raise missing_key(key, values, where=where)
        value = values[key]
        if not isinstance(value, str):
            found = json_type(value)
            hint = "write a number as text, in quotes" if found == "a number" else ""
            raise PairsError(f"expected a string under {key!r}, found {found}", where=where, hint=hint)
        return self._mended.mend(value)


def _remarks(pairs: Sequence[Pair], labels: Sequence[str]) -> list[str]:
    """Count what no single row shows: repeated and contradicting examples, and a single label."""
    answers: dict[tuple[Turn, ...], set[str]] = {}
    for pair in pairs:
        answers.setdefault(pair.turns[:-1], set()).add(pair.completion)
    repeated = len(pairs) - sum(len(each) for each in answers.values())
    contradictions = sum(len(each) > 1 for each in answers.values())
    notes = []
    if repeated:
        notes.append(f"{counted(repeated, 'example')} repeat an earlier one")
    if contradictions:
        notes.append(f"{counted(contradictions, 'prompt')} with more than one completion")
    if len(labels) == 1:
        notes.append(f"all examples have the same label, {labels[0]!r}")
    return notes
