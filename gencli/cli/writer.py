"""What `gencli generate` writes with, for one prompt as for many: the opened model and the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gencli.cli.sureness import wants_logprobs
from gencli.decoding.writing import sampling_of, write_texts

if TYPE_CHECKING:
    from gencli.cli.sureness import Sureness
    from gencli.decoding.beams import Found
    from gencli.decoding.choices import Choice
    from gencli.decoding.decoder import Engine, Token
    from gencli.decoding.grammar import Grammar
    from gencli.decoding.recall import Recaller
    from gencli.settings.decoding import GenerateSettings
    from gencli.text.tokenizer import Tokenizer
    from gencli.ui import Screen


@dataclass
class Writer:
    """Writes texts after prompts, or ranks the choices."""

    settings: GenerateSettings
    engine: Engine
    tokenizer: Tokenizer
    chat: bool
    seed: int
    screen: Screen
    sureness: Sureness
    grammar: Grammar | None = None
    recaller: Recaller | None = None
    told: bool = False  # that a text outgrew the context
    incomplete: Counter[str | None] = field(default_factory=Counter)  # texts, by how they ended

    def ids(self, prompt: str) -> list[int]:
        """Return what the model reads: the prompt, in its turn for a fine-tuned model."""
        from gencli.decoding.prompts import prompt_ids

        return prompt_ids(self.tokenizer, prompt, chat=self.chat)

    def tokens(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int] | None = None
    ) -> Iterator[Token]:
        """Yield the tokens of all samples of all prompts; say once that a text outgrew the context."""
        from gencli.decoding.decoder import Slide

        asked = self.settings.logprobs
        for event in write_texts(
            self.engine,
            self.tokenizer,
            prompts,
            self.settings,
            grammar=self.grammar,
            seed=self.seed,
            copies=self.settings.num_samples,
            logprobs=0 if asked is None and wants_logprobs(self.settings) else asked,
            numbers=numbers,
        ):
            if not isinstance(event, Slide):
                if not event.complete:
                    self.incomplete[event.finish] += 1
                yield event
            elif not self.told:
                self.told = True
                self.screen.note(
                    f"the text outgrew the context: from here on {event.dropped:,} tokens "
                    f"{after_kept(self.settings.keep)} are forgotten"
                )

    def ranked(self, prompts: Sequence[Sequence[int]]) -> list[list[Choice]]:
        """Return the choices for each prompt, the likeliest first."""
        from gencli.decoding.choices import rank_choices, split_choices

        texts = split_choices(self.settings.choices or "", strip=self.chat)
        return rank_choices(
            self.engine, self.tokenizer, prompts, texts,
            ends=self.chat, keep=self.settings.keep, cut=self.tell_cut,
        )  # fmt: skip

    def searched(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Found]]:
        """Yield the number of each prompt, when its search with beams ends, and what was found."""
        from gencli.decoding.beams import search

        settings = self.settings
        for number, found in search(
            self.engine,
            self.tokenizer,
            prompts,
            beams=settings.beams,
            sampling=sampling_of(settings, self.tokenizer),
            max_new_tokens=settings.max_new_tokens,
            min_new_tokens=settings.min_new_tokens,
            length_penalty=settings.length_penalty,
            stop=[text for text in settings.stop if text],
            bans=settings.ban,
            grammar=self.grammar,
            keep=settings.keep,
            cut=self.tell_cut,
        ):
            if not found.complete:
                self.incomplete[found.finish] += 1
            yield number, found

    def tell_incomplete(self) -> None:
        """Say how many texts ended before they were what the pattern or the schema wants."""
        if self.grammar is None:
            return
        for finish, count in self.incomplete.items():
            number = "a text" if count == 1 else f"{count:,} texts"
            why = "a stop string" if finish == "stop" else "--max-new-tokens"
            self.screen.note(f"{number} ended at {why} before matching {self.grammar.name}")

    def matches(self, end: Token | Found) -> dict[str, object]:
        """Return, as part of a record, whether a text is what was wanted, if anything was."""
        return {} if self.grammar is None else {"matches": end.complete}

    def tell_cut(self, dropped: int) -> None:
        """Say once that a prompt was too long to be read whole."""
        if not self.told:
            self.told = True
            self.screen.note(
                f"the prompt is too long for the context: {dropped:,} tokens "
                f"{after_kept(self.settings.keep)} are not read"
            )


def after_kept(keep: int) -> str:
    """Say where the tokens stood that go when a text is too long."""
    return (
        "from its beginning" if keep == 0 else f"after its first {keep:,}" if keep > 1 else "after its first"
    )


def found_record(found: Found, sureness: Sureness) -> dict[str, object]:
    """Return the text of a search with its score and its confidence."""
    told = sureness.record(found.text, sureness.calibration.confidence(found.logprobs))
    return {**told, "tokens": len(found.ids), "finish": found.finish, "score": found.score}


def logprobs_of(token: Token, tokenizer: Tokenizer) -> dict[str, object]:
    """Return a token's text, its id, its log-probability, and those of its alternatives."""

    def told(identity: int, logprob: float | None) -> dict[str, object]:
        return {"text": _spelled(identity, tokenizer), "id": identity, "logprob": logprob}

    return {**told(token.id, token.logprob), "alternatives": [told(*other) for other in token.alternatives]}


def choices_record(choices: Sequence[Choice], sureness: Sureness) -> dict[str, object]:
    """Return the likeliest choice, and each with its log-probability and its share among them."""
    told = [
        {"text": choice.text, "logprob": choice.logprob, "probability": choice.probability}
        for choice in choices
    ]
    return {**sureness.record(choices[0].text, choices[0].probability), "choices": told}


def _spelled(identity: int, tokenizer: Tokenizer) -> str:
    """Return the text of an id, or its piece, such as <0xEA> and </s>, where that is no text by itself."""
    if identity in tokenizer.control_ids or tokenizer.is_byte(identity):
        return tokenizer.piece(identity)
    return tokenizer.decode([identity])
