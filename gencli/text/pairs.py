"""Labelled pairs in any common format as turns of a conversation, each with the line it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import PairsError, UsageError
from gencli.text.encoding import counted
from gencli.text.fields import Fields, detected_fields, unknown_fields
from gencli.text.labelled import Labelled, Turn, check_conversation, open_labelled
from gencli.text.rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Pair", "PairsFile", "Turn", "asked", "read_pairs"]


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
    with open_labelled(
        path, encoding=encoding, prompt_key=prompt_key, completion_key=completion_key
    ) as labelled:
        return _read(labelled, Path(path), prompt_key, completion_key)


def _read(labelled: Labelled, path: Path, prompt_key: str | None, completion_key: str | None) -> PairsFile:
    opened, first = labelled.opened, labelled.first
    names = list(first.values)
    fields = opened.fields or detected_fields(names, prompt_key=prompt_key, completion_key=completion_key)
    if fields is None:
        where = f"{labelled.name}:{first.line}"
        raise unknown_fields(names, where=where, prompt_key=prompt_key, completion_key=completion_key)
    pairs = tuple(_pair(labelled, fields, row, where) for row, where in labelled.rows())
    labels = tuple(sorted({pair.completion for pair in pairs})) if fields.has_labels else ()
    notes = (*labelled.notes(), *_remarks(pairs, labels))
    return PairsFile(path, pairs, opened.format, fields.words, notes, labels)


def _pair(labelled: Labelled, fields: Fields, row: Row, where: str) -> Pair:
    """Return a row's pair. Raises PairsError with its line if it can't be used."""
    labelled.pass_over(key for key in row.values if key not in fields.keys)
    if fields.turns:
        turns = labelled.turns(row.values, fields.turns, where)
        check_conversation(turns, where)
    else:
        question = asked(labelled, fields, row, where)
        turns = (question, Turn("assistant", labelled.text(row.values, fields.completion, where)))
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip():
            raise PairsError(
                "the completion is empty: there is nothing to learn",
                where=where,
                hint="fill it in or delete the row",
            )
    return Pair(turns, labelled.name, row.line)


def asked(labelled: Labelled, fields: Fields, row: Row, where: str) -> Turn:
    """Return the user's turn of a row, with its further input if it has one."""
    prompt = labelled.text(row.values, fields.prompt, where)
    extra = labelled.text(row.values, fields.extra_input, where) if fields.extra_input in row.values else ""
    return Turn("user", f"{prompt}\n\n{extra}" if extra else prompt)


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
