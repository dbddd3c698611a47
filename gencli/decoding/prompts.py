"""What a model reads before it writes: the start of a text, or turns to answer."""

from __future__ import annotations

from collections.abc import Sequence

from gencli.text.chat import Turn, chat_ids
from gencli.text.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, prompt: str, *, chat: bool) -> list[int]:
    """Return the ids of `prompt` after the start-of-text id; `chat` wraps it in its turn."""
    if chat:
        return turn_ids(tokenizer, [Turn("user", prompt)])
    return [tokenizer.bos, *tokenizer.encode(prompt)]


def turn_ids(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Return the ids of turns up to where the answer begins."""
    return list(chat_ids(tokenizer, turns, answer=False)[0])
