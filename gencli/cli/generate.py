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
from gencli.cli.recalling import check_recall, write_surer
from gencli.cli.sureness import UNKNOWN, coloured, open_sureness, piece_records
from gencli.errors import UsageError
from gencli.settings.decoding import GenerateSettings

if TYPE_CHECKING:
    from gencli.cli.writer import Writer
    from gencli.decoding.decoder import Token

MARK = "\ufeff"  # the byte order mark with which some editors begin a file


@command(
    app,
    GenerateSettings,
    example='gencli generate -m models/tale "Once upon a time"\n'
    'echo "옛날 옛적에" | gencli generate -m models/tale -n 300\n'
    "gencli generate -m models/qa --choices 'yes,no' --input questions.txt --output answers.jsonl",
)
def generate(settings: GenerateSettings) -> None:
    """Write text, or answer a prompt.

    A pretrained model continues the prompt; a fine-tuned one answers it.

    With --regex or --json-schema only tokens come with which the text can still match, within its length. Of
    those, filters apply in this order: repetition penalty, presence and frequency penalty, no-repeat n-gram,
    logit bias, bans, top-k, typical-p, top-p, min-p, temperature.
    """
    from gencli.cli.places import cache_folder
    from gencli.cli.writer import Writer
    from gencli.decoding.engines import open_engine
    from gencli.decoding.writing import grammar_of
    from gencli.model.folder import open_model
    from gencli.ui import Screen

    _check(settings)
    grammar = grammar_of(settings)
    screen = Screen(quiet=settings.quiet)
    prompt = _prompt(settings) if settings.input is None else ""
    folder = open_model(settings.model, cache_folder())
    engine = open_engine(folder, engine=settings.engine, device=settings.device, precision=settings.precision)
    chat = folder.is_chat and not settings.raw
    sureness = open_sureness(settings, folder.path, screen)
    recaller = None
    if settings.recall:
        from gencli.decoding.recall import open_recaller

        recaller = open_recaller(folder, engine, sureness.calibration, sureness.note)
    writer = Writer(
        settings, engine, folder.tokenizer, chat, settings.seed or 0, screen, sureness, grammar, recaller
    )
    if settings.input is not None:
        from gencli.cli.many import write_rows

        write_rows(writer, settings.input, settings.output)
    elif settings.choices is not None:
        _write_choice(writer, prompt)
    elif settings.beams > 1:
        _write_found(writer, prompt)
    else:
        _write_texts(writer, prompt)
    writer.tell_incomplete()


def _check(settings: GenerateSettings) -> None:
    """Raise UsageError for options that make no sense together."""
    settings.check()
    check_recall(settings)
    many = settings.input is not None
    problems = {
        "many prompts come from --input alone": many
        and (settings.prompt or settings.prompt_file) is not None,
        "--output and --unordered are for many prompts": not many and (settings.output or settings.unordered),
        "--logprobs are told in JSON": settings.logprobs is not None and not (settings.json or many),
        "--choices give one answer, without --num-samples and --logprobs": settings.choices is not None
        and (settings.num_samples > 1 or settings.logprobs is not None),
        "--beams give one text, without --choices, --num-samples and --logprobs": settings.beams > 1
        and (settings.choices is not None or settings.num_samples > 1 or settings.logprobs is not None),
        "--choices say all that may be written, without --regex and --json-schema": settings.choices
        is not None
        and (settings.regex or settings.json_schema) is not None,
    }
    hints = (
        "give the prompts as --input FILE", "give them as --input FILE", "give --json too",
        "leave those out", "leave those out", "give the one or the other",
    )  # fmt: skip
    for (problem, holds), hint in zip(problems.items(), hints, strict=True):
        if holds:
            raise UsageError(problem, hint=hint)


def _write_texts(writer: Writer, prompt: str) -> None:
    """Write what comes after one prompt, with a seed that is told if it was drawn."""
    settings, screen = writer.settings, writer.screen
    if settings.seed is None:
        writer.seed = secrets.randbits(31)
        if settings.temperature > 0:
            screen.note(f"seed {writer.seed}")
    events = writer.tokens([writer.ids(prompt)])
    lead = _lead(settings, prompt, chat=writer.chat)
    pace = Pace(time.monotonic())
    with screen.patient("compiling the decoding loop for this machine, once"):
        tokens = itertools.chain([next(events)], events)
    pace.first = time.monotonic()
    if settings.recall:
        write_surer(writer, prompt, list(tokens), lead)
    elif settings.json:
        _write_json(tokens, writer, prompt, pace)
    elif settings.num_samples == 1:
        _write_stream(tokens, lead, writer, pace)
    else:
        _write_samples(tokens, lead, writer)


def _write_choice(writer: Writer, prompt: str) -> None:
    """Write the likeliest of the choices."""
    from gencli.cli.writer import choices_record
    from gencli.ui import emit, write

    with writer.screen.patient("compiling the decoding loop for this machine, once"):
        (choices,) = writer.ranked([writer.ids(prompt)])
    if writer.settings.json:
        emit({"event": "choice", "prompt": prompt, **choices_record(choices, writer.sureness)})
        return
    lead = _lead(writer.settings, prompt, chat=writer.chat) if writer.settings.echo else ""
    write(f"{lead}{writer.sureness.told(choices[0].text, choices[0].probability)}\n")
    if writer.settings.show_confidence:
        writer.screen.note(f"probability {choices[0].probability:.2f}", "dim")


def _write_found(writer: Writer, prompt: str) -> None:
    """Write the text that the search with beams ends with."""
    from gencli.cli.writer import found_record
    from gencli.ui import emit, write

    with writer.screen.patient("compiling the decoding loop for this machine, once"):
        _, found = next(writer.searched([writer.ids(prompt)]))
    if writer.settings.json:
        record = {**found_record(found, writer.sureness), **writer.matches(found)}
        emit({"event": "sample", "prompt": prompt, **record})
        return
    confidence = writer.sureness.calibration.confidence(found.logprobs)
    lead = _lead(writer.settings, prompt, chat=writer.chat)
    write(f"{lead}{writer.sureness.told(found.text, confidence)}\n")
    if writer.settings.show_confidence:
        writer.screen.note(writer.sureness.describe(confidence), "dim")


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


def _write_stream(events: Iterator[Token], lead: str, writer: Writer, pace: Pace) -> None:
    """Write one text as it comes; where it may be withheld, when it is whole."""
    from gencli.ui import Tinted, write

    settings, screen, sureness = writer.settings, writer.screen, writer.sureness
    tokens: list[Token] = []
    tinted = Tinted() if settings.show_confidence else None
    write(lead)
    if settings.abstain is not None:
        tokens += events
        if sureness.withholds(sureness.of(tokens)):
            events, tinted = iter(()), None
            write(UNKNOWN)
        else:
            events, tokens = iter(tokens), []
    for text, colour in coloured(_kept(events, tokens)):
        if tinted:
            tinted.write(text, colour)
        else:
            write(text)
    write("\n")
    screen.note(f"{len(tokens):,} tokens, {pace.rate(len(tokens)):,.0f} a second", "dim")
    if settings.show_confidence:
        screen.note(sureness.describe(sureness.of(tokens)), "dim")


def _kept(events: Iterator[Token], tokens: list[Token]) -> Iterator[Token]:
    """Yield the tokens, adding each to a list."""
    for event in events:
        tokens.append(event)
        yield event


def _write_samples(events: Iterator[Token], lead: str, writer: Writer) -> None:
    """Write several texts, each when it is whole, in order, with a blank line between."""
    from gencli.ui import Tinted, write

    settings, sureness = writer.settings, writer.sureness
    rows: list[list[Token]] = [[] for _ in range(settings.num_samples)]
    shown = 0
    tinted = Tinted() if settings.show_confidence else None
    for event in events:
        rows[event.row].append(event)
        while shown < len(rows) and rows[shown] and rows[shown][-1].finish is not None:
            tokens = rows[shown]
            write(("\n" if shown else "") + lead)
            if settings.abstain is not None and sureness.withholds(sureness.of(tokens)):
                write(UNKNOWN)
            elif tinted:
                for text, colour in coloured(tokens):
                    tinted.write(text, colour)
            else:
                write("".join(token.text for token in tokens))
            write("\n")
            if settings.show_confidence:
                writer.screen.note(sureness.describe(sureness.of(tokens)), "dim")
            shown += 1


def _write_json(events: Iterator[Token], writer: Writer, prompt: str, pace: Pace) -> None:
    """Write one object per text."""
    from gencli.cli.writer import logprobs_of
    from gencli.ui import emit

    rows: list[list[Token]] = [[] for _ in range(writer.settings.num_samples)]
    for event in events:
        row = rows[event.row]
        row.append(event)
        if event.finish is not None:
            text = "".join(token.text for token in row)
            record: dict[str, object] = {
                "event": "sample", "prompt": prompt, **writer.sureness.record(text, writer.sureness.of(row)),
                "tokens": len(row), "finish": event.finish, "seed": writer.seed, "row": event.row,
                "tokens_per_second": round(pace.rate(len(row)), 1), **writer.matches(event),
            }  # fmt: skip
            if writer.settings.show_confidence:
                record["pieces"] = piece_records(row)
            if writer.settings.logprobs is not None:
                record["logprobs"] = [logprobs_of(token, writer.tokenizer) for token in row]
            emit(record)
            rows[event.row] = []
