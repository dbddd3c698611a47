"""Beam search: of several texts kept side by side, the likeliest for its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.bans import Bans
from gencli.decoding.decoder import EXCLUDED, Engine, log_softmax, mask_of, recent
from gencli.decoding.filters import exclude
from gencli.decoding.history import History
from gencli.decoding.sampler import Sampling, check_finite, reshaped
from gencli.decoding.utf8 import State, Utf8Mask
from gencli.text.tokenizer import Tokenizer, normalised

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """The text that a search ends with.

    `score` is the sum of its tokens' log-probabilities, divided by their number to the power of the length
    penalty; `logprobs` are those of its tokens. `finish` is "stop" or "length", as for a drawn text.
    """

    ids: list[int]
    text: str
    score: float
    finish: str
    logprobs: list[float]


@dataclass(frozen=True)
class _Rules:
    """What holds for all beams."""

    tokenizer: Tokenizer
    mask: Utf8Mask
    sampling: Sampling
    bans: Bans
    stop: Sequence[str]
    budget: int
    min_new_tokens: int
    length_penalty: float


@dataclass
class _Beam:
    """One of the texts in the making; `row` is its place in the engine."""

    row: int
    history: History
    ids: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)  # the sum of log-probabilities after each id
    state: State = State.WHOLE
    tail: bytes = b""  # what may be the beginning of a banned text
    stopped: str | None = None  # the text before a stop string


def search(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    *,
    beams: int,
    sampling: Sampling,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    length_penalty: float = 1.0,
    stop: Sequence[str] = (),
    bans: Sequence[str] = (),
    keep: int = 1,
    cut: Callable[[int], None] | None = None,
) -> Found:
    """Return the best of `beams` texts, by the sum of log-probabilities / tokens ** `length_penalty`.

    At each step the 2 * `beams` likeliest continuations of all texts are looked at: those among the first
    `beams` that end are set aside, the likeliest of the others go on. The search ends when as many texts are
    set aside, and none that goes on scores better than the worst of them. The filters from the penalties to
    the bans apply, to log-probabilities; the others and the temperature do not. Wu et al. 2016 (length
    normalisation). A text ends where the context is full; of a prompt that fills it the first `keep` tokens
    and the most recent half are read, and `cut` is told how many are not.
    """
    ids, dropped = recent(prompt, engine.context, keep)
    if dropped and cut is not None:
        cut(dropped)
    budget = min(max_new_tokens, engine.context - len(ids))
    banned = Bans([normalised(text) for text in bans], tokenizer.piece_bytes)
    rules = _Rules(
        tokenizer, mask_of(tokenizer), sampling, banned, stop, budget, min_new_tokens, length_penalty
    )
    logits = engine.start([ids], copies=beams, slots=len(ids) + budget)
    running = [_Beam(0, sampling.history(prompt))]
    ended: list[tuple[float, _Beam]] = []
    while True:
        check_finite(logits)
        running, just_ended = _stepped(running, logits, rules, beams)
        ended = sorted([*ended, *just_ended], key=lambda one: -one[0])[:beams]
        if not running or (len(ended) == beams and _score(running[0], rules) <= ended[-1][0]):
            break
        engine.keep([beam.row for beam in running])
        logits = engine.step(np.array([beam.ids[-1] for beam in running], dtype=np.int64))
        for row, beam in enumerate(running):
            beam.row = row
    score, best = ended[0]
    ends = best.stopped is not None or best.ids[-1] == tokenizer.eos
    text = tokenizer.decode(best.ids) if best.stopped is None else best.stopped
    logprobs = np.diff(best.totals, prepend=0.0).tolist()
    return Found(best.ids, text, score, "stop" if ends else "length", logprobs)


def _stepped(
    running: Sequence[_Beam], logits: FloatArray, rules: _Rules, beams: int
) -> tuple[list[_Beam], list[tuple[float, _Beam]]]:
    """Return the beams that go on, the likeliest first, and those that end here with their scores."""
    going_on: list[_Beam] = []
    ended: list[tuple[float, _Beam]] = []
    for rank, (beam, chosen, total) in enumerate(_likeliest(running, logits, rules, 2 * beams)):
        longer = _extended(beam, chosen, total, rules)
        is_last = chosen == rules.tokenizer.eos or len(longer.ids) == rules.budget
        if is_last or longer.stopped is not None:
            if rank < beams:
                ended.append((_score(longer, rules), longer))
        elif len(going_on) < beams:
            going_on.append(longer)
    return going_on, ended


def _score(beam: _Beam, rules: _Rules) -> float:
    return float(beam.totals[-1] / len(beam.ids) ** rules.length_penalty)


def _likeliest(
    running: Sequence[_Beam], logits: FloatArray, rules: _Rules, count: int
) -> list[tuple[_Beam, int, float]]:
    """Return the `count` likeliest continuations as (beam, id, sum of log-probabilities), the best first."""
    scores = np.stack([_sums(beam, logits[beam.row], rules) for beam in running]).reshape(-1)
    count = min(count, int((scores > -np.inf).sum()))
    best = np.argpartition(-scores, count - 1)[:count]
    best = best[np.argsort(-scores[best], kind="stable")]
    size = logits.shape[1]
    return [(running[place // size], int(place % size), float(scores[place])) for place in best.tolist()]


def _sums(beam: _Beam, logits: FloatArray, rules: _Rules) -> FloatArray:
    """Return for each id [V] the sum of log-probabilities with it, -inf where it may not come."""
    own = log_softmax(logits).astype(np.float32)
    own = np.where(rules.mask.allowed(beam.state, rules.budget - len(beam.ids)), own, EXCLUDED)
    if len(beam.ids) < rules.min_new_tokens:
        own = exclude(own, (rules.tokenizer.eos,))
    allowed = rules.bans.allowed(beam.tail) if rules.bans else None
    return reshaped(own, rules.sampling, beam.history, allowed) + np.float32(
        beam.totals[-1] if beam.totals else 0.0
    )


def _extended(beam: _Beam, chosen: int, total: float, rules: _Rules) -> _Beam:
    """Return the beam with one more id."""
    history = beam.history.fork()
    history.add(chosen)
    longer = _Beam(beam.row, history, [*beam.ids, chosen], [*beam.totals, total], beam.state, beam.tail)
    if chosen != rules.tokenizer.eos:
        longer.state = rules.mask.advance(beam.state, chosen)
    if rules.bans:
        longer.tail = rules.bans.advance(beam.tail, chosen)
    if rules.stop:
        text = rules.tokenizer.decode(longer.ids)
        places = [place for string in rules.stop if (place := text.find(string)) >= 0]
        longer.stopped = text[: min(places)] if places else None
    return longer
