"""From settings to text: the filters and rules that a user asked for, given to the decoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gencli.decoding.decoder import generate
from gencli.decoding.sampler import Sampling
from gencli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gencli.decoding.decoder import Engine, Slide, Token
    from gencli.decoding.filters import Bias
    from gencli.settings import SamplingChoice, WritingChoice
    from gencli.text.tokenizer import Tokenizer

LARGEST_BIAS = 100.0


def write_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: WritingChoice,
    *,
    seed: int,
    copies: int = 1,
    logprobs: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Token | Slide]:
    """Yield what `generate` yields with the filters and rules of the settings.

    Raises UsageError for settings that make no sense together, a bias that is none, and more tokens to keep
    than leave room.
    """
    settings.check()
    yield from generate(
        engine,
        tokenizer,
        prompts,
        sampling=sampling_of(settings, tokenizer),
        seed=seed,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        copies=copies,
        stop=[text for text in settings.stop if text],
        bans=settings.ban,
        logprobs=logprobs,
        numbers=numbers,
        keep=settings.keep,
    )


def sampling_of(settings: SamplingChoice, tokenizer: Tokenizer) -> Sampling:
    """Return the filters that the settings ask for. Raises UsageError for a bias that is none."""
    names = {field.name for field in dataclasses.fields(Sampling)} - {"logit_bias"}
    biases = tuple(_bias(text, tokenizer) for text in settings.logit_bias)
    return Sampling(**{name: getattr(settings, name) for name in names}, logit_bias=biases)


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
