"""Prompts to answer, each with the answer that is expected, if the file has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.errors import PairsError, UsageError
from gencli.text.chat import Turn
from gencli.text.fields import PROMPTS, Fields, detected_fields, first_known, unknown_fields
from gencli.text.labelled import Labelled, check_conversation, open_labelled
from gencli.text.pairs import asked
from gencli.text.rows import Row


@dataclass(frozen=True, slots=True)
class Prompt:
    """Turns that end with the user's, the expected answer or "", and where they stand in the file."""

    turns: tuple[Turn, ...]
    expected: str
    file: str
    line: int

    @property
    def text(self) -> str:
        """The text of the last turn."""
        return self.turns[-1].text


@dataclass(frozen=True)
class PromptsFile:
    """All prompts of a file, with what was detected in words, and what a user should know about them."""

    path: Path
    prompts: tuple[Prompt, ...]
    format: str
    fields: str
    notes: tuple[str, ...]


def read_prompts(
    path: str | Path,
    *,
    encoding: str | None = None,
    prompt_key: str | None = None,
    completion_key: str | None = None,
    answered: bool,
) -> PromptsFile:
    """Read prompts ("-": standard input) from pairs, or, unless they must be `answered`, from rows without answers.

    Raises PairsError with "path:line" for the first row that can't be used, UsageError for an unknown
    encoding or keys that can't be meant.
    """
    if prompt_key is not None and prompt_key == completion_key:
        raise UsageError(f"{prompt_key!r} can't be both the prompt and the completion")
    keys = {"prompt_key": prompt_key, "completion_key": completion_key}
    with open_labelled(path, encoding=encoding, **keys) as labelled:
        names, where = list(labelled.first.values), f"{labelled.name}:{labelled.first.line}"
        fields = labelled.opened.fields or detected_fields(names, **keys)
        if fields is None and not answered and completion_key is None:
            fields = _without_answers(names, prompt_key)
        if fields is None:
            raise unknown_fields(names, where=where, **keys)
        prompts = tuple(
            _prompt(labelled, fields, row, place, answered=answered) for row, place in labelled.rows()
        )
        return PromptsFile(Path(path), prompts, labelled.opened.format, fields.words, labelled.notes())


def _without_answers(names: list[str], prompt_key: str | None) -> Fields | None:
    found = prompt_key or first_known(PROMPTS, names)
    return Fields(f"{found}, no answers", prompt=found) if found in names else None


def _prompt(labelled: Labelled, fields: Fields, row: Row, where: str, *, answered: bool) -> Prompt:
    labelled.pass_over(key for key in row.values if key not in fields.keys)
    expected = ""
    if fields.turns:
        turns = labelled.turns(row.values, fields.turns, where)
        if answered or (turns and turns[-1].role == "assistant"):
            check_conversation(turns, where)
            turns, expected = turns[:-1], turns[-1].text
        else:
            check_conversation((*turns, Turn("assistant", "")), where)
    else:
        turns = (asked(labelled, fields, row, where),)
        if fields.completion and (answered or fields.completion in row.values):
            expected = labelled.text(row.values, fields.completion, where)
    if answered and not expected.strip():
        raise PairsError(
            "the completion is empty: no answer can match it", where=where, hint="delete the row"
        )
    return Prompt(turns, expected, labelled.name, row.line)
