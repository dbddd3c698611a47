"""--recall: the model's own answer, or that to the most similar prompt it learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.cli.sureness import coloured, piece_records
from gencli.errors import UsageError

if TYPE_CHECKING:
    from gencli.cli.sureness import Sureness
    from gencli.cli.writer import Writer
    from gencli.decoding.decoder import Engine, Token
    from gencli.decoding.recall import Recalled, Recaller
    from gencli.model.folder import ModelFolder
    from gencli.settings.decoding import GenerateSettings
    from gencli.text.tokenizer import Tokenizer
    from gencli.ui import Screen


def check_recall(settings: GenerateSettings) -> None:
    """Raise UsageError for options that make no sense with --recall."""
    others = {
        "--choices": settings.choices is not None, "--beams": settings.beams > 1,
        "--num-samples": settings.num_samples > 1, "--logprobs": settings.logprobs is not None,
        "--regex": settings.regex is not None, "--json-schema": settings.json_schema is not None,
        "--raw": settings.raw,
    }  # fmt: skip
    given = [flag for flag, holds in others.items() if holds]
    if settings.recall and given:
        raise UsageError(
            f"--recall says one answer, written or looked up, without {given[0]}",
            hint="leave one of them out",
        )


@dataclass(frozen=True)
class Recalling:
    """Looks up what is asked in a chat; a model that was taught single questions is asked each by itself."""

    recaller: Recaller
    sureness: Sureness
    tokenizer: Tokenizer
    single: bool

    def surer(
        self, tokens: Sequence[Token], question: str, prompt: Sequence[int]
    ) -> tuple[dict[str, object], Recalled | None]:
        """Return as part of a record what is said, and what was recalled if that is it."""
        from gencli.decoding.prompts import prompt_ids

        ids = prompt_ids(self.tokenizer, question, chat=True) if self.single else prompt
        return surer(self.sureness, tokens, self.recaller.nearest([question], [ids])[0])


def open_recalling(folder: ModelFolder, engine: Engine) -> Recalling:
    """Return what looks up answers for a chat. Raises ModelError if the model has no memory of its own."""
    from gencli.cli.sureness import Sureness
    from gencli.decoding.recall import open_recaller
    from gencli.model.confidence import read_calibration

    calibration, note = read_calibration(folder.path)
    recaller = open_recaller(folder, engine, calibration, note)
    single = folder.lineage.get("turns") == 1
    return Recalling(recaller, Sureness(calibration), folder.tokenizer, single)


def look_up(writer: Writer, texts: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[Recalled]:
    """Return the nearest pair for each prompt; no text may be under way in the engine."""
    assert writer.recaller is not None
    return writer.recaller.nearest(texts, prompts)


def surer(
    sureness: Sureness, tokens: Sequence[Token], found: Recalled | None
) -> tuple[dict[str, object], Recalled | None]:
    """Return as part of a record what is said, and what was recalled if that is it.

    It is the text of the tokens, unless something was found that is surer.
    """
    own, confidence = "".join(token.text for token in tokens), sureness.of(tokens)
    if found is None or found.confidence <= confidence:
        said = sureness.record(own, confidence)
        return {**said, "tokens": len(tokens), "finish": tokens[-1].finish}, None
    said = sureness.record(found.pair.answer, found.confidence)
    return {**said, "recalled": found.pair.source}, found


def tell_source(screen: Screen, found: Recalled) -> None:
    """Say where an answer is from."""
    screen.note(f'from {found.pair.file}:{found.pair.line}: "{found.pair.prompt}"')


def write_surer(writer: Writer, prompt: str, tokens: Sequence[Token], lead: str) -> None:
    """Write one answer when it is whole, and on stderr where it is from."""
    from gencli.ui import Tinted, emit, write

    settings, screen = writer.settings, writer.screen
    record, found = surer(writer.sureness, tokens, look_up(writer, [prompt], [writer.ids(prompt)])[0])
    if settings.json:
        pieces = {"pieces": piece_records(tokens)} if settings.show_confidence and found is None else {}
        emit({"event": "sample", "prompt": prompt, **record, "seed": writer.seed, **pieces})
        return
    write(lead)
    if settings.show_confidence and found is None and "withheld" not in record:
        tinted = Tinted()
        for text, colour in coloured(tokens):
            tinted.write(text, colour)
    else:
        write(str(record["text"]))
    write("\n")
    if found is not None and "withheld" not in record:
        tell_source(screen, found)
    if settings.show_confidence:
        screen.note(writer.sureness.describe(float(str(record["confidence"]))), "dim")
