"""Preferences: a prompt with a better and a worse answer, in any common format, each with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import PairsError, UsageError
from gencli.text.chat import Turn
from gencli.text.encoding import counted
from gencli.text.fields import Fields, detected_fields, first_known, missing_key
from gencli.text.json_lines import near_name
from gencli.text.labelled import Labelled, check_conversation, open_labelled
from gencli.text.pairs import Pair, asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gencli.text.rows import Row

CHOSEN = ("chosen", "preferred", "better", "accepted", "winner", "선택", "좋은답변")
REJECTED = ("rejected", "dispreferred", "worse", "declined", "loser", "거절", "나쁜답변")


@dataclass(frozen=True, slots=True)
class Preference:
    """Turns that ask, the better answer, the worse one, and where they stand in the file."""

    turns: tuple[Turn, ...]
    chosen: str
    rejected: str
    file: str
    line: int

    def pair(self, answer: str) -> Pair:
        """Return the prompt with one of the answers."""
        return Pair((*self.turns, Turn("assistant", answer)), self.file, self.line)


@dataclass(frozen=True)
class PreferencesFile:
    """All preferences of a file, with what was detected in words, and what a user should know about them."""

    path: Path
    preferences: tuple[Preference, ...]
    format: str
    fields: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Keys:
    """Where a row keeps its two answers, and its prompt if it has one apart from them."""

    chosen: str
    rejected: str
    prompt: Fields | None

    @property
    def all(self) -> tuple[str, ...]:
        prompt = (self.prompt.prompt, self.prompt.extra_input) if self.prompt else ()
        return tuple(key for key in (*prompt, self.chosen, self.rejected) if key)


def read_preferences(
    path: str | Path,
    *,
    encoding: str | None = None,
    prompt_key: str | None = None,
    chosen_key: str | None = None,
    rejected_key: str | None = None,
) -> PreferencesFile:
    """Read a file of preferences ("-": standard input), telling format and fields by themselves.

    An answer is a text, or a list of messages that ends with it; rows whose two answers are the same say
    nothing and are left out with a note. Raises PairsError with "path:line" for the first row that can't be
    used, UsageError for an unknown encoding or keys that can't be meant.
    """
    given = [key for key in (prompt_key, chosen_key, rejected_key) if key is not None]
    if len(set(given)) < len(given):
        raise UsageError("prompt, chosen and rejected need keys of their own")
    with open_labelled(path, encoding=encoding, prompt_key=prompt_key, completion_key=chosen_key) as labelled:
        keys = _found_keys(labelled, prompt_key, chosen_key, rejected_key)
        read = [_preference(labelled, keys, row, where) for row, where in labelled.rows()]
        different = tuple(row for row in read if row.chosen != row.rejected)
        if not different:
            raise PairsError(
                "the two answers are the same in every row: there is nothing to prefer", where=labelled.name
            )
        words = f"{keys.prompt.prompt if keys.prompt else 'messages'} → {keys.chosen} over {keys.rejected}"
        notes = (*labelled.notes(), *_remarks(read))
        return PreferencesFile(Path(path), different, labelled.opened.format, words, notes)


def _found_keys(labelled: Labelled, prompt: str | None, chosen: str | None, rejected: str | None) -> _Keys:
    """Return the keys of the first row, those that were given first."""
    names = list(labelled.first.values)
    where = f"{labelled.name}:{labelled.first.line}"
    for key in (prompt, chosen, rejected):
        if key is not None and key not in names:
            raise missing_key(key, names, where=where)
    better, worse = chosen or first_known(CHOSEN, names), rejected or first_known(REJECTED, names)
    if not better or not worse:
        missing, known = ("rejected", REJECTED) if better else ("chosen", CHOSEN)
        near = [f"{name!r}" for name in names if near_name(name, known)]
        hint = f"name them with --chosen-key and --rejected-key{': ' + near[0] + '?' if near else ''}"
        found = ", ".join(map(repr, names)) or "no key"
        raise PairsError(f"expected a key {missing!r}, found {found}", where=where, hint=hint)
    others = [name for name in names if name != worse]
    return _Keys(better, worse, detected_fields(others, prompt_key=prompt, completion_key=better))


def _preference(labelled: Labelled, keys: _Keys, row: Row, where: str) -> Preference:
    labelled.pass_over(key for key in row.values if key not in keys.all)
    before = _before(labelled, keys, row, where)
    chosen, rejected = (_said(labelled, row, key, before, where) for key in (keys.chosen, keys.rejected))
    if chosen[:-1] != rejected[:-1]:
        raise PairsError(f"{keys.chosen!r} and {keys.rejected!r} answer different prompts", where=where)
    check_conversation(chosen, where)
    if not chosen[-1].text.strip():
        raise PairsError(f"the answer under {keys.chosen!r} is empty", where=where, hint="delete the row")
    return Preference(chosen[:-1], chosen[-1].text, rejected[-1].text, labelled.name, row.line)


def _before(labelled: Labelled, keys: _Keys, row: Row, where: str) -> tuple[Turn, ...]:
    """Return the turns of the prompt, none if the answers bring it along."""
    fields = keys.prompt
    if fields is None or fields.prompt not in row.values:
        return ()
    if isinstance(row.values[fields.prompt], list):
        return labelled.turns(row.values, fields.prompt, where)
    return (asked(labelled, fields, row, where),)


def _said(labelled: Labelled, row: Row, key: str, before: tuple[Turn, ...], where: str) -> tuple[Turn, ...]:
    """Return the whole conversation up to an answer: its own list of messages, or the prompt and the answer."""
    if not isinstance(row.values.get(key), list):
        text = labelled.text(row.values, key, where)
        if not before:
            raise PairsError(
                f"there is no prompt: found {', '.join(map(repr, row.values))}",
                where=where,
                hint="name its key with --prompt-key, or give the answers as lists of messages",
            )
        return (*before, Turn("assistant", text))
    turns = labelled.turns(row.values, key, where)
    if not turns or turns[-1].role != "assistant":
        raise PairsError(f"the messages under {key!r} must end with one of the assistant's", where=where)
    if len(turns) == 1:
        return (*before, *turns)
    if not {turn.text for turn in before} <= {turn.text for turn in turns}:
        raise PairsError(f"the messages under {key!r} do not hold the prompt", where=where)
    return turns


def _remarks(read: Sequence[Preference]) -> list[str]:
    """Count what no single row shows."""
    notes = []
    same = [row for row in read if row.chosen == row.rejected]
    if same:
        notes.append(
            f"{counted(len(same), 'row')} with two equal answers left out, the first in line {same[0].line}"
        )
    seen = {(row.turns, row.chosen, row.rejected) for row in read if row.chosen != row.rejected}
    repeated = len(read) - len(same) - len(seen)
    if repeated:
        notes.append(f"{counted(repeated, 'row')} repeat an earlier one")
    both = sum((turns, rejected, chosen) in seen for turns, chosen, rejected in seen) // 2
    if both:
        notes.append(f"{counted(both, 'prompt')} with the same two answers preferred both ways")
    return notes
