"""Labelled pairs in any common format as turns of a conversation, each with the line it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import PairsError, UsageError
from gencli.text.chat import Turn
from gencli.text.encoding import counted
from gencli.text.fields import Fields, detected_fields, unknown_fields
from gencli.text.labelled import Labelled, check_conversation, open_labelled
from gencli.text.rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Pair", "PairsFile", "Turn", "asked", "read_pairs"]


NAMED_LINES = 8  # in a message about several rows


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
    _check_answers(pairs)
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
    return Pair(turns, labelled.name, row.line)


def _check_answers(pairs: Sequence[Pair]) -> None:
    """Raise PairsError naming all rows without an answer, so that they can be mended at once."""
    empty = [
        pair
        for pair in pairs
        if any(turn.role == "assistant" and not turn.text.strip() for turn in pair.turns)
    ]
    if not empty:
        return
    where = f"{empty[0].file}:{empty[0].line}"
    if len(empty) == 1:
        message, hint = "the completion is empty: there is nothing to learn", "fill it in or delete the row"
    else:
        lines = ", ".join(str(pair.line) for pair in empty[:NAMED_LINES])
        more = f" and {len(empty) - NAMED_LINES:,} more" if len(empty) > NAMED_LINES else ""
        message = f"{len(empty):,} completions are empty: there is nothing to learn from them"
        hint = f"fill them in or delete the rows: lines {lines}{more}"
    raise PairsError(message, where=where, hint=hint)


def asked(labelled: Labelled, fields: Fields, row: Row, where: str) -> Turn:
    """Return the user's turn of a row, with its further input if it has one."""
    prompt = labelled.text(row.values, fields.prompt, where)
    extra = labelled.text(row.values, fields.extra_input, where) if fields.extra_input in row.values else ""
    return Turn("user", f"{prompt}\n\n{extra}" if extra else prompt)


def _remarks(pairs: Sequence[Pair], labels: Sequence[str]) -> list[str]:
    """Count what no single row shows: repeated and contradicting examples, and a single label."""
    answers: dict[tuple[Turn, ...], dict[str, int]] = {}  # with the line where each came first
    repeats = []
    for pair in pairs:
        before = answers.setdefault(pair.turns[:-1], {})
        if pair.completion in before:
            repeats.append(pair.line)
        before.setdefault(pair.completion, pair.line)
    contradictions = [list(lines.values()) for lines in answers.values() if len(lines) > 1]
    notes = []
    if repeats:
        notes.append(
            f"{counted(len(repeats), 'example')} repeat an earlier one, the first in line {repeats[0]:,}"
        )
    if contradictions:
        first, second = contradictions[0][:2]
        notes.append(
            f"{counted(len(contradictions), 'prompt')} with more than one completion, "
            f"the first in lines {first:,} and {second:,}"
        )
    if len(labels) == 1:
        notes.append(f"all examples have the same label, {labels[0]!r}")
    return notes
