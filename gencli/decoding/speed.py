"""How fast an engine reads and writes on this machine, measured within a given time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.sampler import Sampling
from gencli.text.tokenizer import LAYOUT, Tokenizer

_LONG_PROMPT, _FIRST_PROMPT, _SHORT_PROMPT = 512, 16, 16
_NEW = 256

Clock = Callable[[], float]


@dataclass(frozen=True)
class Speed:
    """Tokens a second at which `tokens` were read or written at once, the median of some runs."""

    figure: str  # prefill or decode
    batch: int
    tokens: int
    tokens_per_second: float


def speeds(
    engine: Engine, tokenizer: Tokenizer, *, batch: int, seconds: float, clock: Clock = time.perf_counter
) -> Iterator[Speed]:
    """Yield how fast a prompt is read, one text is written, and `batch` texts are written together.

    Takes about `seconds` in all, more only where one step of each alone takes longer. What has to be compiled
    first does not count.
    """
    next(generate(engine, tokenizer, [_prompt(tokenizer, 1)], sampling=Sampling(), seed=0, max_new_tokens=1))
    yield _reading(engine, tokenizer, seconds / 4, clock)
    for rows in dict.fromkeys((1, batch)):
        yield _writing(engine, tokenizer, rows, 3 * seconds / 8, clock)


def _reading(engine: Engine, tokenizer: Tokenizer, seconds: float, clock: Clock) -> Speed:
    """Measure a prompt of 512 tokens; a shorter one where the context or the time is."""
    deadline = clock() + seconds
    length = min(_FIRST_PROMPT, engine.context - 1)
    rate = length / _seconds_to_read(engine, _prompt(tokenizer, length), clock)
    length = max(length, min(_LONG_PROMPT, engine.context - 1, int(rate * seconds / 2)))
    prompt, found = _prompt(tokenizer, length), list[float]()
    while not found or clock() + found[-1] < deadline:
        found.append(_seconds_to_read(engine, prompt, clock))
    return Speed("prefill", 1, length, length / statistics.median(found))


def _seconds_to_read(engine: Engine, prompt: list[int], clock: Clock) -> float:
    began = clock()
    engine.start([prompt], slots=len(prompt))
    return max(clock() - began, 1e-9)


def _writing(engine: Engine, tokenizer: Tokenizer, rows: int, seconds: float, clock: Clock) -> Speed:
    """Measure the tokens after the first of `rows` texts that no end of text cuts short."""
    deadline = clock() + seconds
    length = min(_SHORT_PROMPT, engine.context // 2)
    new = min(_NEW, engine.context - length)
    prompts = [_prompt(tokenizer, length, shift=row) for row in range(rows)]
    rates: list[float] = []
    most = 0
    while not rates or clock() < deadline:
        written, began = 0, clock()
        events = generate(
            engine, tokenizer, prompts, sampling=Sampling(), seed=len(rates), max_new_tokens=new,
            min_new_tokens=new,
        )  # fmt: skip
        for event in events:
            written += isinstance(event, Token)
            if written == rows:
                began = clock()
            if written > rows and written % rows == 0 and clock() >= deadline:
                break
        rates.append((written - rows) / max(clock() - began, 1e-9))
        most = max(most, written // rows)
    return Speed("decode", rows, most, statistics.median(rates))


def _prompt(tokenizer: Tokenizer, length: int, *, shift: int = 0) -> list[int]:
    """Return a start of text and pieces, one after the other in the order of their ids."""
    pieces = range(len(LAYOUT), tokenizer.vocabulary)
    others = [pieces[(shift + number) % len(pieces)] for number in range(length - 1)] if pieces else []
    return ([tokenizer.bos] + (others or [tokenizer.bos] * (length - 1)))[:length]
