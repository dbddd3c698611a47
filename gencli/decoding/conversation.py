"""A conversation in the making: what was said, and what of it a model reads before its next answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.decoding.prompts import prompt_ids, turn_ids
from gencli.errors import UsageError
from gencli.text.chat import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gencli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Exchange:
    """What the user said, and what the model said to it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What a model reads, and how many more of the oldest exchanges had to be left out for it."""

    ids: list[int]
    dropped: int


class Conversation:
    """Exchanges, the oldest first, with a system text before them.

    A fine-tuned model (`chat`) reads them as its turns, as fine-tuning had them; any other model reads them
    as one text, an exchange a line, that it goes on with. `room` tokens of the context are left to an answer.
    `remember` is the most exchanges that are read before a question, None for all that fit.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, context: int, room: int, chat: bool, remember: int | None = None
    ) -> None:
        self.exchanges: list[Exchange] = []
        self.chat, self.remember = chat, remember
        self._tokenizer, self._context = tokenizer, context
        self._most = context - min(room, context // 4)
        self._first = 0  # the oldest exchange that is still read
        self._system = ""

    @property
    def system(self) -> str:
        """What the model is told before all else."""
        return self._system

    @system.setter
    def system(self, text: str) -> None:
        """Set the system text. Raises UsageError if the model knows none, or it leaves no room."""
        if text and not self.chat:
            raise UsageError(
                "a model that was not fine-tuned knows no system text",
                hint="type it as the beginning instead",
            )
        size, most = len(self._head(text)), self._context - self._context // 2 - 1
        if size > most:
            raise UsageError(
                f"a system text of {size:,} tokens leaves no room: the model's context has {self._context:,}",
                hint="give a shorter one",
            )
        self._system = text

    @property
    def head(self) -> int:
        """The number of tokens before the first exchange."""
        return len(self._head(self._system))

    @property
    def turns(self) -> list[Turn]:
        """All that was said, as turns."""
        system = [Turn("system", self._system)] if self._system else []
        return system + _turns(self.exchanges)

    def forget(self) -> None:
        """Leave out of the next prompts all that was said up to now."""
        self._first = len(self.exchanges)

    def clear(self, exchanges: Sequence[Exchange] = ()) -> None:
        """Put other exchanges, or none, in the place of those that were there."""
        self.exchanges, self._first = list(exchanges), 0

    def prompt(self, question: str) -> Prompt:
        """Return what the model reads before it answers: the newest exchanges that fit, and the question.

        When they no longer fit, the oldest go until a quarter of the room is free again, so that not every
        question has to be read with all that came before it.
        """
        if self.remember is not None:
            self._first = max(self._first, len(self.exchanges) - self.remember)
        first = self._first
        ids = self._ids(question)
        if len(ids) > self._most:
            while len(ids) > self._most * 3 // 4 and self._first < len(self.exchanges):
                self._first += 1
                ids = self._ids(question)
        return Prompt(ids, self._first - first)

    def _ids(self, question: str) -> list[int]:
        read = self.exchanges[self._first :]
        if not self.chat:
            text = "".join(_line(exchange) for exchange in read) + question
            return prompt_ids(self._tokenizer, text, chat=False)
        system = [Turn("system", self._system)] if self._system else []
        return turn_ids(self._tokenizer, [*system, *_turns(read), Turn("user", question)])

    def _head(self, system: str) -> list[int]:
        return turn_ids(self._tokenizer, [Turn("system", system)])[:-1] if system else [self._tokenizer.bos]


def exchanges_of(turns: Sequence[Turn]) -> tuple[str, list[Exchange]]:
    """Return the system text, empty if there is none, and the exchanges of turns that alternate."""
    system = turns[0].text if turns and turns[0].role == "system" else ""
    said = [turn.text for turn in turns if turn.role != "system"]
    return system, [Exchange(*pair) for pair in zip(said[::2], said[1::2], strict=True)]


def _turns(exchanges: Sequence[Exchange]) -> list[Turn]:
    return [
        turn
        for exchange in exchanges
        for turn in (Turn("user", exchange.question), Turn("assistant", exchange.answer))
    ]


def _line(exchange: Exchange) -> str:
    text = exchange.question + exchange.answer
    return text if text.endswith("\n") else text + "\n"
