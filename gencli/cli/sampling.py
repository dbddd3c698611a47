"""From the settings of `gencli generate` to the filters of a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.errors import UsageError

if TYPE_CHECKING:
    from gencli.decoding.filters import Bias
    from gencli.decoding.sampler import Sampling
    from gencli.settings import GenerateSettings
    from gencli.text.tokenizer import Tokenizer

LARGEST_BIAS = 100.0


def sampling_of(settings: GenerateSettings, tokenizer: Tokenizer) -> Sampling:
    """Return the filters that the settings ask for. Raises UsageError for a bias that is none."""
    from gencli.decoding.sampler import Sampling

    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        typical_p=settings.typical_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        frequency_penalty=settings.frequency_penalty,
        penalty_window=settings.penalty_window,
        no_repeat_ngram=settings.no_repeat_ngram,
        logit_bias=tuple(_bias(text, tokenizer) for text in settings.logit_bias),
    )


def _bias(spelled: str, tokenizer: Tokenizer) -> Bias:
    """Return the ids and the number of TEXT=NUMBER."""
    text, equals, number = spelled.rpartition("=")
    try:
        value = float(number) if equals and text else None
    except ValueError:
        value = None
    if value is None or not abs(value) <= LARGEST_BIAS:
        raise UsageError(
            f"--logit-bias is a text, = and a number from -100 to 100, not {spelled!r}",
            hint="write it like --logit-bias 'sea=-2.5', or exclude a text with --ban",
        )
    return tuple(tokenizer.encode(text)), value
