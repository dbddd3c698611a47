"""gencli generate: text on stdout."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.pipes import is_piped, piped_text, text_of
from gencli.errors import UsageError
from gencli.settings import GenerateSettings

if TYPE_CHECKING:
    from gencli.decoding.decoder import Slide, Token
    from gencli.text.tokenizer import Tokenizer
    from gencli.ui import Screen

MARK = "\ufeff"  # the byte order mark with which some editors begin a file


@command(
    app,
    GenerateSettings,
    example='gencli generate -m models/tale "Once upon a time"\n'
    'echo "옛날 옛적에" | gencli generate -m models/tale -n 300',
)
def generate(settings: GenerateSettings) -> None:
    """Write text, or answer a prompt.

    A pretrained model continues the prompt; a fine-tuned one answers it.

    Filters apply in this order: repetition penalty, presence and frequency penalty, no-repeat n-gram,
    logit bias, bans, top-k, typical-p, top-p, min-p, temperature.
    """
    from gencli.cli.places import cache_folder
    from gencli.cli.sampling import sampling_of
    from gencli.decoding import decoder
    from gencli.decoding.engines import open_engine
    from gencli.decoding.prompts import prompt_ids
    from gencli.model.folder import open_model
    from gencli.ui import Screen

    screen = Screen(quiet=settings.quiet)
    if settings.logprobs is not None and not settings.json:
        raise UsageError("--logprobs are told in JSON", hint="give --json too")
    prompt = _prompt(settings)
    folder = open_model(settings.model, cache_folder())
    tokenizer = folder.tokenizer
    engine = open_engine(folder, engine=settings.engine, device=settings.device)
    chat = folder.is_chat and not settings.raw
    seed = secrets.randbits(31) if settings.seed is None else settings.seed
    if settings.seed is None and settings.temperature > 0:
        screen.note(f"seed {seed}")
    events = decoder.generate(
        engine,
        tokenizer,
        [prompt_ids(tokenizer, prompt, chat=chat)],
        sampling=sampling_of(settings, tokenizer),
        seed=seed,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        bans=settings.ban,
        logprobs=settings.logprobs,
        copies=settings.num_samples,
        stop=[text for text in settings.stop if text],
    )
    lead = _lead(settings, prompt, chat=chat)
    pace = Pace(time.monotonic())
    with screen.patient("compiling the decoding loop for this machine, once"):
        tokens = itertools.chain([next(events)], events)
    pace.first = time.monotonic()
    shown = _told_once(tokens, screen)
    if settings.json:
        _write_json(shown, settings, tokenizer, prompt, seed, pace)
    elif settings.num_samples == 1:
        _write_stream(shown, lead, screen, pace)
    else:
        _write_samples(shown, lead, settings.num_samples)


@dataclass
class Pace:
    """How fast a text is written: the first token, which waits for the model, counts only if it is the only one."""

    began: float
    first: float = 0.0

    def rate(self, tokens: int) -> float:
        """Return tokens per second up to now."""
        if tokens <= 1:
            return tokens / max(self.first - self.began, 1e-9)
        return (tokens - 1) / max(time.monotonic() - self.first, 1e-9)


def _prompt(settings: GenerateSettings) -> str:
    """Return the prompt from the argument, the file, or the pipe."""
    if settings.prompt is not None and settings.prompt_file is not None:
        raise UsageError("a prompt and a prompt file can't both be given")
    if settings.prompt_file is not None:
        return text_of(settings.prompt_file, "the prompt").removeprefix(MARK)
    if settings.prompt is not None and settings.prompt != "-":
        return settings.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not is_piped():
        if settings.prompt == "-":
            raise UsageError("stdin is the terminal", hint="give the prompt as an argument, or pipe it in")
        return ""
    return piped_text("the prompt").removeprefix(MARK).removesuffix("\n")


def _lead(settings: GenerateSettings, prompt: str, *, chat: bool) -> str:
    """Return what stands before the text: the prompt that it continues; that it answers, only if asked for."""
    if settings.echo is False or (chat and not settings.echo):
        return ""
    return f"{prompt}\n" if chat else prompt


def _told_once(events: Iterator[Token | Slide], screen: Screen) -> Iterator[Token]:
    """Pass the tokens on; say once that the text outgrew the context."""
    from gencli.decoding.decoder import Slide

    told = False
    for event in events:
        if not isinstance(event, Slide):
            yield event
        elif not told:
            told = True
            screen.note(
                f"the text outgrew the context: from here on the oldest {event.dropped:,} tokens are forgotten"
            )


def _write_stream(events: Iterator[Token], lead: str, screen: Screen, pace: Pace) -> None:
    """Write one text as it comes."""
    from gencli.ui import write

    write(lead)
    count = 0
    for event in events:
        count += 1
        if event.text:
            write(event.text)
    write("\n")
    screen.note(f"{count:,} tokens, {pace.rate(count):,.0f} a second", "dim")


def _write_samples(events: Iterator[Token], lead: str, count: int) -> None:
    """Write several texts, each when it is whole, in order, with a blank line between."""
    from gencli.ui import write

    texts, ended, shown = [lead] * count, [False] * count, 0
    for event in events:
        texts[event.row] += event.text
        ended[event.row] = event.finish is not None
        while shown < count and ended[shown]:
            write(("\n" if shown else "") + texts[shown] + "\n")
            shown += 1


def _write_json(
    events: Iterator[Token],
    settings: GenerateSettings,
    tokenizer: Tokenizer,
    prompt: str,
    seed: int,
    pace: Pace,
) -> None:
    """Write one object per text."""
    from gencli.ui import emit

    rows: list[list[Token]] = [[] for _ in range(settings.num_samples)]
    for event in events:
        row = rows[event.row]
        row.append(event)
        if event.finish is not None:
            record: dict[str, object] = {
                "event": "sample", "prompt": prompt, "text": "".join(token.text for token in row),
                "tokens": len(row), "finish": event.finish, "seed": seed, "row": event.row,
                "tokens_per_second": round(pace.rate(len(row)), 1),
            }  # fmt: skip
            if settings.logprobs is not None:
                record["logprobs"] = [logprobs_of(token, tokenizer) for token in row]
            emit(record)
            rows[event.row] = []


def logprobs_of(token: Token, tokenizer: Tokenizer) -> dict[str, object]:
    """Return a token's text, its id, its log-probability, and those of its alternatives."""

    def told(identity: int, logprob: float | None) -> dict[str, object]:
        return {"text": _spelled(identity, tokenizer), "id": identity, "logprob": logprob}

    return {**told(token.id, token.logprob), "alternatives": [told(*other) for other in token.alternatives]}


def _spelled(identity: int, tokenizer: Tokenizer) -> str:
    """Return the text of an id, or its piece, such as <0xEA> and </s>, where that is no text by itself."""
    if identity in tokenizer.control_ids or tokenizer.is_byte(identity):
        return tokenizer.piece(identity)
    return tokenizer.decode([identity])
