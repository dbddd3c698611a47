"""A conversation as ids: markers are control pieces and every text is encoded alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gencli.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says; `role` is "system", "user" or "assistant"."""

    role: str
    text: str


def chat_ids(tokenizer: Tokenizer, turns: Sequence[Turn], *, answer: bool) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation, and for each id whether a model learns to write it.

    `<s>`, then for each turn its role's marker and its text, and `</s>` after what the assistant says: that
    text and its `</s>` are learned. Without an `answer` the assistant's marker follows, so that the model
    speaks next. Raises TokenizerError for a role that there is no marker for.
    """
    ids, learned = [tokenizer.bos], [False]
    for turn in turns:
        if turn.role not in tokenizer.roles:
            raise TokenizerError(
                f"no role is called {turn.role!r}", hint=f"use: {', '.join(tokenizer.roles)}"
            )
        speaks = turn.role == "assistant"
        said = tokenizer.encode(turn.text) + [tokenizer.eos] * speaks
        ids += [tokenizer.roles[turn.role], *said]
        learned += [False, *[speaks] * len(said)]
    if not answer:
        ids.append(tokenizer.roles["assistant"])
        learned.append(False)
    return ids, learned
