"""Choices: how likely a model finds each of some given texts as what comes after a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gencli.decoding.decoder import log_softmax
from gencli.decoding.sampler import check_finite
from gencli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gencli.decoding.decoder import Engine
    from gencli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """One of the texts; `logprob` is a natural logarithm, `probability` is its share among the choices."""

    text: str
    logprob: float
    probability: float


def rank_choices(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    texts: Sequence[str],
    *,
    ends: bool,
    cut: Callable[[int], None] | None = None,
) -> list[Choice]:
    """Return the choices after the ids of a prompt, the likeliest first; equals stay in their order.

    A choice's logprob is the sum of the log-probabilities of its tokens, under the model's own distribution,
    before any filter; where `ends`, as after a question to a fine-tuned model, that of the end of text is
    one of them, so that no choice wins by being the beginning of a longer answer. The probabilities are
    those sums, exponentiated, and divided by their total. Errors and `cut` as in `score_choices`.
    """
    encoded = [[*tokenizer.encode(text), *[tokenizer.eos] * ends] for text in texts]
    sums = score_choices(engine, prompt, encoded, cut=cut)
    weights = [math.exp(value - max(sums)) for value in sums]
    choices = [
        Choice(text, value, weight / sum(weights))
        for text, value, weight in zip(texts, sums, weights, strict=True)
    ]
    return sorted(choices, key=lambda choice: -choice.logprob)


def score_choices(
    engine: Engine,
    prompt: Sequence[int],
    choices: Sequence[Sequence[int]],
    *,
    cut: Callable[[int], None] | None = None,
) -> list[float]:
    """Return for each choice the sum of the log-probabilities of its ids after the prompt.

    The prompt is read once for all choices; of one that leaves them no room the first token and the most
    recent ones are read, and `cut` is told how many are not. Raises UsageError when a choice does not fit
    into the context.
    """
    longest = max(len(choice) for choice in choices)
    room = engine.context - longest
    if room < 2:
        raise UsageError(
            f"a choice of {longest:,} tokens does not fit into the model's context of {engine.context:,}",
            hint="give shorter choices",
        )
    ids = list(prompt) if len(prompt) <= room else [prompt[0], *prompt[-(room - 1) :]]
    if cut is not None and len(ids) < len(prompt):
        cut(len(prompt) - len(ids))
    logits = engine.start([ids], copies=len(choices), slots=len(ids) + longest)
    sums = [0.0] * len(choices)
    numbers = list(range(len(choices)))  # which choice each row of the engine is
    for place in range(longest):
        check_finite(logits)
        for row, number in enumerate(numbers):
            sums[number] += float(log_softmax(logits[row])[choices[number][place]])
        going_on = [row for row, number in enumerate(numbers) if len(choices[number]) > place + 1]
        if not going_on:
            break
        if len(going_on) < len(numbers):
            numbers = [numbers[row] for row in going_on]
            engine.keep(going_on)
        logits = engine.step(np.array([choices[number][place] for number in numbers], dtype=np.int64))
    return sums


def split_choices(text: str, *, strip: bool) -> list[str]:
    """Return the texts between the commas; `strip` drops the spaces around each.

    Raises UsageError for fewer than two, for an empty one, and for one that comes twice.
    """
    texts = [part.strip() if strip else part for part in text.split(",")]
    problem = (
        "there must be two choices or more" if len(texts) < 2
        else "a choice is empty" if not all(texts)
        else "a choice comes twice" if len(set(texts)) < len(texts)
        else ""
    )  # fmt: skip
    if problem:
        raise UsageError(
            f"--choices {text!r}: {problem}", hint="write them with commas between: --choices 'yes,no'"
        )
    return texts
