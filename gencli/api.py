"""The public Python API: open a model folder, write text with it, label texts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.decoding.decoder import Token
from gencli.decoding.engines import open_engine
from gencli.decoding.labeller import Labeller
from gencli.decoding.prompts import prompt_ids
from gencli.decoding.recall import Recaller, open_recaller
from gencli.decoding.writing import grammar_of, write_texts
from gencli.errors import UsageError
from gencli.knobs import knobs_of, settings_of
from gencli.model import folder
from gencli.model.confidence import Calibration, read_calibration
from gencli.settings.decoding import WritingChoice

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine


@dataclass(frozen=True)
class Model:
    """An opened model: its folder and the engine that runs it."""

    folder: folder.ModelFolder
    engine: Engine

    @cached_property
    def calibrated(self) -> tuple[Calibration, str]:
        """Return how sure the model may be, and what to know of that, read once."""
        return read_calibration(self.folder.path)

    @cached_property
    def recaller(self) -> Recaller:
        """Return what looks up answers in the model's memory, read once. Raises ModelError if it has none."""
        return open_recaller(self.folder, self.engine, *self.calibrated)


def open_model(
    path: str | Path, *, engine: str = "auto", device: str = "auto", precision: str = "auto"
) -> Model:
    """Open a model folder. Raises ModelError saying what is wrong with it."""
    opened = folder.open_model(Path(path))
    return Model(opened, open_engine(opened, engine=engine, device=device, precision=precision))


def generate(
    model: Model, prompt: str = "", *, raw: bool = False, recall: bool = False, **options: object
) -> str:
    """Return the text that a model writes: the prompt continued, or, if it was fine-tuned, its answer.

    `raw` gives a fine-tuned model the prompt without its turns. `recall` also looks up the pair with the most similar
    prompt, and returns its answer where that is surer. The options are those of the command
    `gencli generate`, with its defaults; the same seed gives the same text, and without one it is 0. Raises
    UsageError for an option that there isn't, for a value that it can't have, and for a length at which no text
    matches; with `recall` ModelError for a model without a memory. `json_schema` may be a dictionary.
    """
    settings = settings_of(WritingChoice, options)
    chat = model.folder.is_chat and not raw
    tokenizer = model.folder.tokenizer
    prompts = [prompt_ids(tokenizer, prompt, chat=chat)]
    grammar = grammar_of(settings)
    if recall and (raw or grammar is not None):
        raise UsageError("recall goes without raw, regex and json_schema", hint="leave one of them out")
    found = model.recaller.nearest([prompt], prompts)[0] if recall else None
    events = write_texts(
        model.engine, tokenizer, prompts, settings,
        grammar=grammar, seed=settings.seed or 0, logprobs=0 if recall else None,
    )  # fmt: skip
    tokens = [event for event in events if isinstance(event, Token)]
    if grammar is not None and tokens[-1].finish == "length" and not tokens[-1].complete:
        raise UsageError(
            f"the text was not what {grammar.name} wants when its length was reached",
            hint="raise max_new_tokens",
        )
    if found is not None:
        own = model.calibrated[0].confidence([token.logprob or 0.0 for token in tokens])
        if found.confidence > own:
            return found.pair.answer
    text = "".join(token.text for token in tokens)
    return text if chat else prompt + text


def classify(model: Model, texts: Sequence[str], labels: Sequence[str] = ()) -> list[dict[str, float]]:
    """Return for each text the probability of each label, the likeliest first.

    The labels are those that the model was fine-tuned on, unless others are given. Raises ModelError for a model
    that has none.
    """
    return [dict(ranked) for ranked in Labeller(model.folder, model.engine, labels).ranked(texts)]


def _signature() -> inspect.Signature:
    """Return the signature of `generate` with each of its options."""
    plain = inspect.signature(generate)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind.__name__)
        for name, (kind, _, default) in knobs_of(WritingChoice).items()
    ]
    return plain.replace(parameters=[*list(plain.parameters.values())[:-1], *options])


generate.__signature__ = _signature()  # type: ignore[attr-defined]
generate.__doc__ = f"{inspect.cleandoc(generate.__doc__ or '')}\n\n" + "\n".join(
    f"{name}: {knob.help}" for name, (_, knob, _) in knobs_of(WritingChoice).items()
)
