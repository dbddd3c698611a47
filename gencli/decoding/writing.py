"""From settings to text: the filters and rules that a user asked for, given to the decoder."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.decoding.decoder import generate
from gencli.decoding.sampler import Sampling
from gencli.errors import InputError, MachineError, UsageError
from gencli.text.json_lines import parsed_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gencli.decoding.decoder import Engine, Slide, Token
    from gencli.decoding.filters import Bias
    from gencli.decoding.grammar import Grammar
    from gencli.settings.decoding import SamplingChoice, WritingChoice
    from gencli.text.tokenizer import Tokenizer

LARGEST_BIAS = 100.0
_LARGEST_SCHEMA = 1 << 20


def write_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: WritingChoice,
    *,
    seed: int,
    grammar: Grammar | None = None,
    copies: int = 1,
    logprobs: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Token | Slide]:
    """Yield what `generate` yields with the filters and rules of the settings; `grammar` is `grammar_of` them.

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
        grammar=grammar,
        logprobs=logprobs,
        numbers=numbers,
        keep=settings.keep,
    )


def grammar_of(settings: WritingChoice) -> Grammar | None:
    """Return what the text has to be, None if it may be anything; no model is needed to know.

    Raises UsageError for a pattern, and InputError for a schema, that is none or can't be followed.
    """
    settings.check()
    if settings.regex is None and settings.json_schema is None:
        return None
    from gencli.decoding.grammar import regex_grammar, schema_grammar

    if settings.regex is not None:
        return regex_grammar(settings.regex)
    given = settings.json_schema or ""
    if given.lstrip().startswith("{"):
        name, data = "--json-schema", given.encode("utf-8", "surrogateescape")
    else:
        name, data = given, _schema_data(Path(given))
    return schema_grammar(parsed_file(data, name=name, kind=InputError), name)


def _schema_data(path: Path) -> bytes:
    """Return the bytes of a small file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError("the schema is not in a regular file", where=str(path))
        if found.st_size > _LARGEST_SCHEMA:
            raise InputError("this is too large for a schema (over 1 MB)", where=str(path))
        return path.read_bytes()
    except PermissionError as error:
        raise MachineError("no permission to read the schema", where=str(path)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"the schema can't be read: {reason}", where=str(path),
            hint='give a file, or the schema itself: \'{"type": "integer"}\'',
        ) from error  # fmt: skip


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
