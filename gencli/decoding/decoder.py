"""Generation: prefill the prompts once, then one step per token, until a stop rule holds.

A generator of tokens that knows no file and no screen. An engine turns ids into logits; which one, and on
which device, makes no difference here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.filters import exclude, places_of_highest
from gencli.decoding.history import History
from gencli.decoding.rules import Progress, Rules
from gencli.decoding.sampler import Sampler, Sampling, draw_rows, not_finite
from gencli.errors import UsageError
from gencli.text.tokenizer import TextStream, Tokenizer

if TYPE_CHECKING:
    from gencli.decoding.draws import RowDraws
    from gencli.decoding.grammar import Grammar

FloatArray = NDArray[np.float32]

_DRAWS = 4  # of a token after which the text could not be completed


class Engine(Protocol):
    """Runs a model over rows of ids and keeps their keys and values."""

    name: str
    context: int
    vocabulary: int
    threads: int  # that what is done beside it may use

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> FloatArray:
        """Forget all rows, read each prompt once, keep it `copies` times; return the next logits [B, V].

        Room is made for `slots` tokens a row, at most `context`. A prompt's copies are neighbours.
        """

    def step(self, tokens: NDArray[np.int64]) -> FloatArray:
        """Add one token to every row; return the next logits [B, V], which hold until the next call."""

    def extend(self, tokens: Sequence[int], *, after: int) -> FloatArray:
        """Forget all but the first `after` tokens of the only row, read more; return the logits [1, V] then."""

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""

    def vectors(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Forget all rows, read the prompts; return what the head would turn into the next logits [B, W]."""


class Token(NamedTuple):
    """One token of one row, with the text that it makes certain.

    `finish` is None until the row ends: "stop" (end of text, or a stop string) or "length". `logprob` and
    `alternatives`, the likeliest ids with theirs, are natural logarithms under the model's own distribution,
    before any filter; both are given only where they were asked for. `complete` tells, where the row ends,
    whether its text is what the grammar wants.
    """

    row: int
    id: int
    text: str
    finish: str | None = None
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Slide:
    """A row outgrew the context: its `dropped` oldest tokens are forgotten."""

    row: int
    dropped: int


@dataclass
class _Row:
    """One text in the making."""

    number: int
    ids: list[int]  # what the engine holds of it
    sampler: Sampler
    stream: TextStream
    stops: _StopStrings
    history: History
    progress: Progress
    remaining: int
    text: str = ""
    written: int = 0


def generate(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    copies: int = 1,
    stop: Sequence[str] = (),
    bans: Sequence[str] = (),
    grammar: Grammar | None = None,
    logprobs: int | None = None,
    numbers: Sequence[int] | None = None,
    keep: int = 1,
) -> Iterator[Token | Slide]:
    """Yield the tokens of `copies` texts per prompt as they come; row = prompt number * copies + copy.

    The text of a row is valid UTF-8 always. A row is the same whatever rows stand beside it. A text that
    reaches the engine's context goes on with its first `keep` tokens and its most recent half; UsageError
    is raised for more than leave room.

    The end of text does not come before `min_new_tokens`; no text of `bans` is written. A text is one that
    `grammar` wants, and short enough for `max_new_tokens`; the other rules give way to that, but not a stop
    string. `logprobs` asks for log-probabilities with so many alternatives. `numbers` are the prompts' numbers
    in a job that is done in parts: a random stream belongs to a number and a copy, so that the parts make
    no difference.
    """
    rules = Rules(tokenizer, bans=bans, min_new_tokens=min_new_tokens, grammar=grammar)
    progress = rules.start(max_new_tokens)
    rows: list[_Row] = []
    texts: list[list[int]] = []
    for number, prompt in enumerate(prompts):
        ids, dropped = recent(prompt, engine.context, keep)
        if dropped:
            yield Slide(number * copies, dropped)
        texts.append(ids)
        for copy in range(copies):
            sampler = Sampler(sampling, seed=seed, row=copy, prompt=numbers[number] if numbers else number)
            parts = sampler, TextStream(tokenizer), _StopStrings(stop), sampling.history(prompt), progress
            rows.append(_Row(number * copies + copy, list(ids), *parts, remaining=max_new_tokens))
    slots = _slots(engine, rows)
    logits = engine.start(texts, copies=copies, slots=slots)
    draws = draw_rows(sampling, threads=engine.threads) if sampling.is_plain and rules.is_plain else None
    while rows:
        active = []
        chosen = _chosen_together(rows, logits, rules, draws) if draws else [None] * len(rows)
        for place, row in enumerate(rows):
            token = _next(row, logits[place], rules, logprobs, chosen[place])
            yield token
            if token.finish is None:
                active.append(place)
        if len(active) < len(rows):
            rows = [rows[place] for place in active]
            if rows:
                engine.keep(active)
        full = [row for row in rows if len(row.ids) > slots]
        if full:
            for row in full:
                row.ids, dropped = recent(row.ids, engine.context, keep)
                yield Slide(row.number, dropped)
            slots = _slots(engine, rows)
            logits = engine.start([row.ids for row in rows], slots=slots)
        elif rows:
            logits = engine.step(np.array([row.ids[-1] for row in rows], dtype=np.int64))


def _next(row: _Row, logits: FloatArray, rules: Rules, logprobs: int | None, known: int | None) -> Token:
    """Choose the row's next id, if it is not known, and take it in."""
    if known is None:
        chosen, row.progress = _chosen(row, logits, rules)
        row.history.add(chosen)
    else:
        chosen, row.progress = known, rules.advanced(row.progress, known)
    row.remaining -= 1
    row.written += 1
    row.ids.append(chosen)
    text, finish = _text_of(row, chosen, rules)
    row.text += text
    token = Token(row.number, chosen, text, finish, complete=_is_complete(row, rules) if finish else True)
    if logprobs is None:
        return token
    if logprobs == 0:
        return token._replace(logprob=logprob_of(logits, chosen))
    own = log_softmax(logits)
    likeliest = places_of_highest(own, logprobs)
    alternatives = tuple((int(identity), float(own[identity])) for identity in likeliest)
    return token._replace(logprob=float(own[chosen]), alternatives=alternatives)


def _chosen_together(
    rows: Sequence[_Row], logits: FloatArray, rules: Rules, draws: RowDraws
) -> list[int | None]:
    """Return the next id of each row, where the sampling and the rules are plain."""
    added = [rules.excluded(row.progress, row.remaining) for row in rows]
    chosen = draws.draw(logits, added, [row.sampler.uniform() for row in rows])
    if min(chosen) < 0:
        raise not_finite()
    return [*chosen]


def _chosen(row: _Row, logits: FloatArray, rules: Rules) -> tuple[int, Progress]:
    """Return the next id, and where the text is after it: an id that every rule allows."""
    possible = rules.possible(row.progress, logits, row.written, row.remaining)
    if possible is None:  # no token is left that goes on
        return rules.end, row.progress
    welcome = rules.welcome(row.progress)
    for _ in range(_DRAWS):
        chosen = row.sampler.draw(possible, row.history, welcome)
        progress = rules.after(row.progress, chosen, row.remaining - 1)
        if progress is not None:
            return chosen, progress
        others = exclude(possible, (chosen,))
        if others is possible:
            break
        possible = others
    return rules.shortest_way(row.progress)


def _text_of(row: _Row, chosen: int, rules: Rules) -> tuple[str, str | None]:
    """Return the text that an id makes certain, and how the row ends with it, if it does."""
    if chosen == rules.end:
        return row.stops.flush(), "stop" if row.progress.is_complete() else "length"
    text = row.stops.add(row.stream.add(chosen))
    if row.stops.hit:
        return text, "stop"
    over = row.progress.is_over()
    if over or row.remaining == 0:
        rest = row.stops.add(row.stream.flush()) + row.stops.flush()
        return text + rest, "stop" if over else "length"
    return text, None


def _is_complete(row: _Row, rules: Rules) -> bool:
    return rules.matches(row.text) if row.stops.hit else row.progress.is_complete()


def log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Return the natural logarithms of the probabilities that logits [V] stand for."""
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def logprob_of(logits: FloatArray, identity: int) -> float:
    """Return the natural logarithm of the probability of one id, from the logits [V] of all."""
    most = logits.max()
    total = np.exp(logits - most).sum(dtype=np.float64)
    return float(np.float64(logits[identity]) - most - np.log(total))


def recent(ids: Sequence[int], context: int, keep: int) -> tuple[list[int], int]:
    """Return ids that leave room in the context, and how many were dropped between the kept and the last half.

    Raises UsageError if the first `keep` of them and half the context would fill it.
    """
    half = context // 2
    most = context - half - 1
    if not 0 <= keep <= most:
        raise UsageError(
            f"--keep {keep:,} leaves no room in a context of {context:,} tokens",
            hint=f"keep {most:,} or fewer",
        )
    if len(ids) < context:
        return list(ids), 0
    return [*ids[:keep], *ids[-half:]], len(ids) - half - keep


def _slots(engine: Engine, rows: Sequence[_Row]) -> int:
    return min(engine.context, max(len(row.ids) + row.remaining for row in rows))


@dataclass
class _StopStrings:
    """Holds back text that may turn out to be the beginning of a stop string."""

    stops: Sequence[str]
    hit: bool = False
    held: str = field(default="")

    def add(self, text: str) -> str:
        """Return the text that is certain to stand before any stop string."""
        if not self.stops:
            return text
        self.held += text
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            self.hit = True
            certain, self.held = self.held[: min(found)], ""
            return certain
        keep = max(_overlap(self.held, stop) for stop in self.stops)
        certain, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return certain

    def flush(self) -> str:
        """Return what was held back: the text ends here."""
        text, self.held = self.held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
