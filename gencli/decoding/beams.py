"""Beam search: of several texts kept side by side, the likeliest for its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.decoder import Engine, log_softmax, recent
from gencli.decoding.filters import places_of_highest
from gencli.decoding.history import History
from gencli.decoding.rules import EXCLUDED, Progress, Rules
from gencli.decoding.sampler import Sampling, check_finite, reshaped
from gencli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gencli.decoding.grammar import Grammar

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """The text that a search ends with.

    `score` is the sum of its tokens' log-probabilities, divided by their number to the power of the length
    penalty; `logprobs` are those of its tokens. `finish` is "stop" or "length", and `complete` tells whether the
    text is what the grammar wants, as for a drawn text.
    """

    ids: list[int]
    text: str
    score: float
    finish: str
    logprobs: list[float]
    complete: bool = True


@dataclass(frozen=True)
class _Task:
    """What holds for all beams of a prompt."""

    tokenizer: Tokenizer
    rules: Rules
    sampling: Sampling
    stop: Sequence[str]
    budget: int
    length_penalty: float

    def is_last(self, beam: _Beam) -> bool:
        """Tell whether nothing can follow the beam's last id."""
        return len(beam.ids) == self.budget or beam.progress.is_over()


@dataclass
class _Beam:
    """One of the texts in the making; `row` is its place in the engine."""

    row: int
    history: History
    progress: Progress
    ids: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)  # the sum of log-probabilities after each id
    stopped: str | None = None  # the text before a stop string

    def total(self) -> float:
        """Return the sum of the log-probabilities of all ids."""
        return self.totals[-1] if self.totals else 0.0


@dataclass
class _Search:
    """The beams of one prompt."""

    task: _Task
    beams: int
    running: list[_Beam]
    ended: list[tuple[float, _Beam]] = field(default_factory=list)

    def goes_on(self, logits: FloatArray) -> bool:
        """Take the next ids of all beams in, from the logits of the engine's rows; tell whether better may come."""
        self.running, just_ended = _stepped(self.running, logits, self.task, self.beams)
        self.ended = sorted([*self.ended, *just_ended], key=lambda one: -one[0])[: self.beams]
        if not self.running:
            return False
        return len(self.ended) < self.beams or _score(self.running[0], self.task) > self.ended[-1][0]


def search(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    sampling: Sampling,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    length_penalty: float = 1.0,
    stop: Sequence[str] = (),
    bans: Sequence[str] = (),
    grammar: Grammar | None = None,
    keep: int = 1,
    cut: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Found]]:
    """Yield the number of each prompt, when its search ends, and the best of `beams` texts that follow it.

    The best is that of the highest sum of log-probabilities / tokens ** `length_penalty`. At each step the
    2 * `beams` likeliest continuations of all texts of a prompt are looked at: those among the first `beams` that
    end are set aside, the likeliest of the others go on. The search ends when as many texts are set aside, and
    none that goes on scores better than the worst of them. The filters from the penalties to the bans apply, to
    log-probabilities; the others and the temperature do not. Wu et al. 2016 (length normalisation). A text ends
    where the context is full; of a prompt that fills it the first `keep` tokens and the most recent half are
    read, and `cut` is told how many are not.
    """
    rules = Rules(tokenizer, bans=bans, min_new_tokens=min_new_tokens, grammar=grammar)
    texts, searches = [], {}
    for number, prompt in enumerate(prompts):
        ids, dropped = recent(prompt, engine.context, keep)
        if dropped and cut is not None:
            cut(dropped)
        budget = min(max_new_tokens, engine.context - len(ids))
        task = _Task(tokenizer, rules, sampling, stop, budget, length_penalty)
        first = _Beam(number * beams, sampling.history(prompt), rules.start(budget))
        searches[number] = _Search(task, beams, [first])
        texts.append(ids)
    slots = max(len(ids) + one.task.budget for ids, one in zip(texts, searches.values(), strict=True))
    logits = engine.start(texts, copies=beams, slots=slots)
    while searches:
        check_finite(logits)
        over = [number for number, one in searches.items() if not one.goes_on(logits)]
        for number in over:
            one = searches.pop(number)
            yield number, _found(*one.ended[0], one.task)
        running = [beam for one in searches.values() for beam in one.running]
        if running:
            engine.keep([beam.row for beam in running])
            logits = engine.step(np.array([beam.ids[-1] for beam in running], dtype=np.int64))
        for row, beam in enumerate(running):
            beam.row = row


def _found(score: float, best: _Beam, task: _Task) -> Found:
    logprobs = np.diff(best.totals, prepend=0.0).tolist()
    if best.stopped is not None:
        return Found(best.ids, best.stopped, score, "stop", logprobs, task.rules.matches(best.stopped))
    complete = best.progress.is_complete()
    ends = complete and (best.ids[-1] == task.rules.end or best.progress.is_over())
    text = task.tokenizer.decode(best.ids)
    return Found(best.ids, text, score, "stop" if ends else "length", logprobs, complete)


def _stepped(
    running: Sequence[_Beam], logits: FloatArray, task: _Task, beams: int
) -> tuple[list[_Beam], list[tuple[float, _Beam]]]:
    """Return the beams that go on, the likeliest first, and those that end here with their scores."""
    going_on: list[_Beam] = []
    ended: list[tuple[float, _Beam]] = []
    likeliest = _likeliest(running, logits, task, 2 * beams)
    longer_ones = [longer for one in likeliest if (longer := _extended(*one, task)) is not None]
    for rank, longer in enumerate(longer_ones or [_on_the_shortest_way(running[0], logits, task)]):
        if longer.ids[-1] == task.rules.end or task.is_last(longer) or longer.stopped is not None:
            if rank < beams:
                ended.append((_score(longer, task), longer))
        elif len(going_on) < beams:
            going_on.append(longer)
    return going_on, ended


def _score(beam: _Beam, task: _Task) -> float:
    return float(beam.total() / len(beam.ids) ** task.length_penalty)


def _likeliest(
    running: Sequence[_Beam], logits: FloatArray, task: _Task, count: int
) -> list[tuple[_Beam, int, float]]:
    """Return the `count` likeliest continuations as (beam, id, sum of log-probabilities), the best first."""
    scores = np.stack([_sums(beam, logits[beam.row], task) for beam in running]).reshape(-1)
    count = min(count, int((scores > -np.inf).sum()))
    if count == 0:
        return []
    best = places_of_highest(scores, count)
    size = logits.shape[1]
    return [(running[place // size], int(place % size), float(scores[place])) for place in best.tolist()]


def _sums(beam: _Beam, logits: FloatArray, task: _Task) -> FloatArray:
    """Return for each id [V] the sum of log-probabilities with it, -inf where it may not come."""
    own = log_softmax(logits).astype(np.float32)
    possible = task.rules.possible(beam.progress, own, len(beam.ids), task.budget - len(beam.ids))
    if possible is None:
        return np.full_like(own, EXCLUDED)
    return reshaped(possible, task.sampling, beam.history, task.rules.welcome(beam.progress)) + np.float32(
        beam.total()
    )


def _extended(beam: _Beam, chosen: int, total: float, task: _Task) -> _Beam | None:
    """Return the beam with one more id, None if what is left of the budget could not complete its text."""
    progress = task.rules.after(beam.progress, chosen, task.budget - len(beam.ids) - 1)
    return None if progress is None else _longer(beam, chosen, progress, total, task)


def _on_the_shortest_way(beam: _Beam, logits: FloatArray, task: _Task) -> _Beam:
    """Return the beam with the next id of the known end of its text."""
    chosen, progress = task.rules.shortest_way(beam.progress)
    total = beam.total() + float(log_softmax(logits[beam.row])[chosen])
    return _longer(beam, chosen, progress, total, task)


def _longer(beam: _Beam, chosen: int, progress: Progress, total: float, task: _Task) -> _Beam:
    history = beam.history.fork()
    history.add(chosen)
    longer = _Beam(beam.row, history, progress, [*beam.ids, chosen], [*beam.totals, total])
    if task.stop:
        text = task.tokenizer.decode(longer.ids)
        places = [place for string in task.stop if (place := text.find(string)) >= 0]
        longer.stopped = text[: min(places)] if places else None
    return longer
