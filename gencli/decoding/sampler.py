"""Logits to one token id: filters in one stated order, then a draw from the row's own random generator.

The order is that of FILTER_ORDER:

1. repetition penalty: what occurred becomes less likely
2. presence and frequency penalty: what occurred becomes less likely, and less with each time
3. no-repeat n-gram: what would complete an n-gram for the second time is excluded
4. logit bias: numbers that the user gave are added
5. bans: what may not be written is excluded
6. top-k: the k most likely ids stay
7. typical-p: of those, the ones nearest to the expected information that hold the share p stay
8. top-p: of those, the smallest set that holds the share p of the probability stays
9. min-p: of those, whatever is at least min-p times as likely as the most likely id stays
10. temperature: the differences of what is left are divided by it

At temperature 0 the id with the highest logit after the bans is taken and no random number is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gencli.decoding.draws import RowDraws, draw
from gencli.decoding.filters import (
    COLDEST,
    Bias,
    FloatArray,
    add_bias,
    exclude,
    keep_allowed,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalise_occurrence,
    penalise_repetition,
)
from gencli.decoding.history import History
from gencli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

FILTER_ORDER = (
    "repetition penalty", "presence and frequency penalty", "no-repeat n-gram", "logit bias", "bans",
    "top-k", "typical-p", "top-p", "min-p", "temperature",
)  # fmt: skip

_NOTHING = History()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an id is chosen. Raises UsageError for a number out of range.

    A filter is off at top_k 0, top_p 1, typical_p 1, min_p 0, repetition_penalty 1, presence_penalty 0,
    frequency_penalty 0, no_repeat_ngram 0 and without logit_bias; temperature 0 is greedy. The penalties
    look at the last `penalty_window` tokens of prompt and text, 0 at all; the n-grams always at all.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int = 0
    no_repeat_ngram: int = 0
    logit_bias: tuple[Bias, ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "typical_p": (0 < self.typical_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
            "presence_penalty": (-100 <= self.presence_penalty <= 100, "from -100 to 100"),
            "frequency_penalty": (-100 <= self.frequency_penalty <= 100, "from -100 to 100"),
            "penalty_window": (self.penalty_window >= 0, "0 or more"),
            "no_repeat_ngram": (self.no_repeat_ngram >= 0, "0 or more"),
        }
        for name, (fits, allowed) in ranges.items():
            if not fits:
                raise UsageError(f"{name.replace('_', '-')} must be {allowed}, not {getattr(self, name)}")
        if not all(ids and math.isfinite(number) for ids, number in self.logit_bias):
            raise UsageError("logit-bias must be a finite number for one id or more")

    @property
    def is_plain(self) -> bool:
        """Tell whether nothing comes before top-k, min-p and temperature."""
        return (
            self.typical_p >= 1 and self.top_p >= 1 and self.repetition_penalty == 1 and self.no_repeat_ngram == 0
            and self.presence_penalty == self.frequency_penalty == 0 and not self.logit_bias
        )  # fmt: skip

    def history(self, ids: Iterable[int] = ()) -> History:
        """Return a row's record of its ids as these filters need it."""
        return History(ids, window=self.penalty_window, ngram=self.no_repeat_ngram)


class Sampler:
    """Chooses the ids of one row with a random generator of its own.

    The generator is seeded with (seed, row, prompt): a row's ids are the same in a batch of any size. `row`
    counts the texts of one prompt, `prompt` the prompts of one job.
    """

    def __init__(self, sampling: Sampling, *, seed: int, row: int, prompt: int = 0) -> None:
        self.sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, row, prompt])))

    def uniform(self) -> float:
        """Return the uniform number of the next draw."""
        return self._random.random() if self.sampling.temperature > 0 else 0.0

    def draw(
        self, logits: FloatArray, past: History = _NOTHING, allowed: npt.NDArray[np.bool_] | None = None
    ) -> int:
        """Return an id drawn from `logits` [V], where -inf excludes an id; `past` is what came before.

        Ids that are not `allowed` are banned, unless that would leave nothing. Draws one uniform number, or
        none at temperature 0. Raises ModelError when a logit is not a number or none is finite.
        """
        sampling = self.sampling
        narrows = sampling.typical_p < 1 or sampling.top_p < 1
        if narrows or sampling.temperature == 0:
            check_finite(logits)
        logits = reshaped(logits, sampling, past, allowed)
        if sampling.temperature == 0:
            return int(logits.argmax())
        if narrows:
            logits = keep_top_k(logits, sampling.top_k)
            ids = np.flatnonzero(logits > -np.inf)
            left = keep_top_p(keep_typical(logits[ids], sampling.typical_p), sampling.top_p)
            logits = np.full_like(logits, -np.inf)
            logits[ids] = left
        temperature = max(sampling.temperature, COLDEST)
        drawn = draw(logits, sampling.top_k, sampling.min_p, temperature, self._random.random())
        if drawn < 0:
            raise not_finite()
        return drawn


def check_finite(logits: FloatArray) -> None:
    """Raise ModelError when a logit is not a number or none is finite."""
    if not math.isfinite(logits.max()):
        raise not_finite()


def not_finite() -> ModelError:
    """Return the error for logits of which one is not a number or none is finite."""
    return ModelError(
        "the model's logits are not finite",
        hint="the weights are damaged or training diverged: go back to an earlier checkpoint",
    )


def reshaped(
    logits: FloatArray, sampling: Sampling, past: History, allowed: npt.NDArray[np.bool_] | None
) -> FloatArray:
    """Return the logits [V] after the filters that greedy decoding knows too: from the penalties to the bans."""
    logits = penalise_repetition(logits, past.counts, sampling.repetition_penalty)
    logits = penalise_occurrence(logits, past.counts, sampling.presence_penalty, sampling.frequency_penalty)
    logits = exclude(logits, past.repeats())
    logits = add_bias(logits, past.ids, sampling.logit_bias)
    return keep_allowed(logits, allowed)


def draw_rows(sampling: Sampling, *, threads: int) -> RowDraws:
    """Return what draws for many rows together, if the sampling is plain."""
    temperature = max(sampling.temperature, COLDEST) if sampling.temperature > 0 else 0.0
    return RowDraws(sampling.top_k, sampling.min_p, temperature, threads=threads)
