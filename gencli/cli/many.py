"""gencli generate --input: many prompts to JSON lines, in batches of like length, bad rows told among the good."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.cli.prompt_rows import PromptRow, prompt_rows
from gencli.cli.recalling import look_up, surer
from gencli.cli.rows_file import RowsFile, open_rows_file
from gencli.cli.sureness import piece_records
from gencli.cli.writer import Writer, choices_record, found_record, logprobs_of
from gencli.errors import InputError, RunStateError
from gencli.model.folder import weights_file
from gencli.settings.decoding import GenerateSettings
from gencli.storage import digest_of
from gencli.ui import Screen, clock_text, emit

if TYPE_CHECKING:
    from gencli.decoding.decoder import Token
    from gencli.decoding.recall import Recalled
    from gencli.ui import LiveText

Records = list[dict[str, object]]

# settings that say where things are and how they are shown, or that rows of a file are held against one by one
_DONT_COUNT = {
    "model", "prompt", "prompt_file", "input", "output", "config", "json", "quiet", "echo", "unordered",
    "engine", "device", "batch_size", "num_samples", "seed",
}  # fmt: skip
REDRAW_SECONDS = 0.2
NOTE_SECONDS = 30.0


@dataclass
class Wanted:
    """A row and which of its samples are still to be made."""

    row: PromptRow
    samples: list[int]
    ids: list[int] = field(default_factory=list)

    def record(self, **more: object) -> dict[str, object]:
        """Return a row of the output; its line comes first."""
        name = {} if self.row.id is None else {"id": self.row.id}
        return {"line": self.row.line, **name, **more}


@dataclass
class Tally:
    """How far a job is, and how that is shown on stderr."""

    screen: Screen
    live: LiveText | None = None
    began: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
    prompts: int = 0
    kept: int = 0
    tokens: int = 0
    failed: int = 0
    first_failure: str = ""

    def line(self) -> str:
        """Return the figures as a line to read."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        parts = [f"{self.prompts:,} prompts"]
        parts += [f"{self.kept:,} of them were there already"] if self.kept else []
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.tokens:,} tokens, {self.tokens / seconds:,.0f} a second"] if self.tokens else []
        return f"{', '.join(parts)}, {clock_text(seconds)}"

    def show(self) -> None:
        """Draw the line anew on a terminal; write it now and then elsewhere."""
        now = time.monotonic()
        if now - self.shown > (NOTE_SECONDS if self.live is None else REDRAW_SECONDS):
            self.shown = now
            if self.live is None:
                self.screen.note(self.line(), "dim")
            else:
                self.live.draw([self.line()])


def write_rows(writer: Writer, source: Path, output: Path | None) -> None:
    """Answer each prompt of the source with rows in the output, or on stdout.

    Raises InputError when there is no prompt, or none that can be used; RunStateError when the output was made
    from another input, with another seed or other settings, or by another model.
    """
    with contextlib.ExitStack() as stack:
        file = None
        if output is not None:
            file = stack.enter_context(open_rows_file(output, _job(writer.settings)))
        writer.seed = _seed(writer, file)
        tally = Tally(writer.screen)
        if writer.screen.is_terminal and (file is not None or not sys.stdout.isatty()):
            tally.live = writer.screen.live()
            tally.live.start()
            stack.callback(tally.live.stop)
        try:
            for records in _all_records(writer, _wanted(writer.settings, source, file, tally), tally):
                if file is not None:
                    file.append(records)
                else:
                    for record in records:
                        emit(record)
                tally.show()
        except KeyboardInterrupt:
            if file is not None:
                writer.screen.note("stopped; the rows so far are kept, and the same command goes on")
            raise
    _tell_end(tally, source)


def _job(settings: GenerateSettings) -> str:
    """Return a word that stands for the model's weights and the settings that what is written depends on."""
    counts = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _DONT_COUNT}
    words = json.dumps([digest_of(weights_file(settings.model)), counts], sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _seed(writer: Writer, file: RowsFile | None) -> int:
    """Return the seed of the rows that are there, the one that was given, or a new one, which is told."""
    given = writer.settings.seed
    if file is not None and file.seed is not None:
        if given not in (None, file.seed):
            raise RunStateError(
                f"the rows here were drawn with seed {file.seed}, not {given}",
                where=str(file.path), kept="all rows are as they were",
                hint=f"go on with --seed {file.seed}, or give another --output",
            )  # fmt: skip
        return file.seed
    if given is not None:
        return given
    drawn = secrets.randbits(31)
    if writer.settings.temperature > 0 and not writer.settings.choices and writer.settings.beams == 1:
        writer.screen.note(f"seed {drawn}")
    return drawn


def _wanted(
    settings: GenerateSettings, source: Path, file: RowsFile | None, tally: Tally
) -> Iterator[Wanted]:
    """Yield the rows of the input of which something is still to be made, counting all."""
    every = list(range(settings.num_samples))
    for row in prompt_rows(source):
        tally.prompts += 1
        if row.error:
            tally.failed += 1
            tally.first_failure = tally.first_failure or f"line {row.line}: {row.error}"
        missing = every if file is None else file.missing(row.line, row.prompt, len(every))
        if missing:
            yield Wanted(row, missing)
        else:
            tally.kept += 1


def _all_records(writer: Writer, rows: Iterator[Wanted], tally: Tally) -> Iterator[Records]:
    """Yield the records of each row: in the order of the input, or each as soon as it is ready."""
    from gencli.decoding.many import BATCHES_AHEAD, in_order, windows

    settings = writer.settings
    for window in windows(rows, BATCHES_AHEAD * settings.batch_size):
        ready = _records(writer, window, tally)
        if settings.unordered:
            yield from (records for _, records in ready)
        else:
            yield from in_order(ready, [wanted.row.line for wanted in window])


def _records(writer: Writer, window: Sequence[Wanted], tally: Tally) -> Iterator[tuple[int, Records]]:
    """Yield (line, records) as they get ready: bad rows first, then batch after batch."""
    from gencli.decoding.many import batches_by_length

    good = []
    for wanted in window:
        if wanted.row.error:
            yield wanted.row.line, [wanted.record(error=wanted.row.error)]
        else:
            wanted.ids = writer.ids(wanted.row.prompt)
            good.append(wanted)
    settings = writer.settings
    rows = max(1, settings.batch_size // max(settings.num_samples, settings.beams))
    for batch in batches_by_length(good, lambda wanted: len(wanted.ids), rows):
        if settings.choices:
            yield from _chosen(writer, batch)
        elif settings.beams > 1:
            yield from _found(writer, batch)
        else:
            yield from _written(writer, batch, tally)


def _chosen(writer: Writer, batch: Sequence[Wanted]) -> Iterator[tuple[int, Records]]:
    """Yield the likeliest choices for a batch."""
    ranked = writer.ranked([wanted.ids for wanted in batch])
    for wanted, choices in zip(batch, ranked, strict=True):
        said = choices_record(choices, writer.sureness)
        yield wanted.row.line, [wanted.record(prompt=wanted.row.prompt, **said)]


def _found(writer: Writer, batch: Sequence[Wanted]) -> Iterator[tuple[int, Records]]:
    """Yield what a search with beams finds for a batch."""
    for number, found in writer.searched([wanted.ids for wanted in batch]):
        wanted = batch[number]
        said = {**found_record(found, writer.sureness), **writer.matches(found)}
        yield wanted.row.line, [wanted.record(prompt=wanted.row.prompt, **said)]


def _written(writer: Writer, batch: Sequence[Wanted], tally: Tally) -> Iterator[tuple[int, Records]]:
    """Write a batch; yield a prompt's records when all of its samples have ended."""
    copies = writer.settings.num_samples
    texts: list[list[Token]] = [[] for _ in range(len(batch) * copies)]
    going_on = [copies] * len(batch)
    numbers = [wanted.row.line - 1 for wanted in batch]
    prompts = [wanted.ids for wanted in batch]
    found: Sequence[Recalled | None] = [None] * len(batch)
    if writer.recaller is not None:
        found = look_up(writer, [wanted.row.prompt for wanted in batch], prompts)
    for token in writer.tokens(prompts, numbers):
        texts[token.row].append(token)
        tally.tokens += 1
        if token.finish is None:
            continue
        place = token.row // copies
        going_on[place] -= 1
        if not going_on[place]:
            samples = texts[place * copies : (place + 1) * copies]
            wanted = batch[place]
            yield (
                wanted.row.line,
                [_sample(writer, wanted, copy, samples[copy], found[place]) for copy in wanted.samples],
            )


def _sample(
    writer: Writer, wanted: Wanted, copy: int, tokens: Sequence[Token], found: Recalled | None
) -> dict[str, object]:
    said, recalled = surer(writer.sureness, tokens, found)
    record = wanted.record(
        sample=copy, prompt=wanted.row.prompt, **said, seed=writer.seed, **writer.matches(tokens[-1])
    )
    if writer.settings.show_confidence and recalled is None:
        record["pieces"] = piece_records(tokens)
    if writer.settings.logprobs is not None:
        record["logprobs"] = [logprobs_of(token, writer.tokenizer) for token in tokens]
    return record


def _tell_end(tally: Tally, source: Path) -> None:
    if tally.prompts == 0:
        raise InputError("there is no prompt here", where=str(source), hint="write one a line")
    if tally.failed == tally.prompts:
        raise InputError(
            f"none of {tally.prompts:,} rows could be used",
            where=f"{source}, {tally.first_failure}",
            hint='a line of a .jsonl is an object such as {"prompt": "..."}',
        )
    tally.screen.note(tally.line(), "dim")
    if tally.failed:
        tally.screen.note(f"failed first: {source}, {tally.first_failure}")
