"""A chat in a file: one JSON object with its messages, as fine-tuning reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import PairsError, RunStateError
from gencli.storage import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gencli.text.chat import Turn


class ChatFiles:
    """Saves and loads chats, and replaces no file of another origin unless it is asked twice."""

    def __init__(self) -> None:
        self._own: set[Path] = set()
        self._asked: Path | None = None

    def save(self, path: Path, turns: Sequence[Turn]) -> None:
        """Write the turns. Raises RunStateError, the first time, for a file that this chat did not make."""
        place = path.resolve()
        if path.exists() and place not in self._own and place != self._asked:
            self._asked = place
            raise RunStateError(
                "there is a file of this name already",
                where=str(path),
                kept="it is as it was",
                hint="give another name, or the same command again to replace it",
            )
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        replace_file(path, json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        self._own.add(place)

    def load(self, path: Path) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
        """Return the turns in a file and what is to be told about them. Raises PairsError for no such chat."""
        from gencli.text.pairs import read_pairs

        found = read_pairs(path)
        if len(found.pairs) > 1:
            raise PairsError(
                f"there are {len(found.pairs):,} chats here, and one is wanted",
                where=str(path),
                hint="put the line with the one that you mean in a file of its own",
            )
        self._own.add(path.resolve())
        return found.pairs[0].turns, found.notes
