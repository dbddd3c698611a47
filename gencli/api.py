"""The public Python API: open a model folder, write text with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.decoding import decoder
from gencli.decoding.engines import open_engine
from gencli.decoding.prompts import prompt_ids
from gencli.decoding.sampler import Sampling
from gencli.model import folder

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine


@dataclass(frozen=True)
class Model:
    """An opened model: its folder and the engine that runs it."""

    folder: folder.ModelFolder
    engine: Engine


def open_model(path: str | Path, *, engine: str = "auto", device: str = "auto") -> Model:
    """Open a model folder. Raises ModelError saying what is wrong with it."""
    opened = folder.open_model(Path(path))
    return Model(opened, open_engine(opened, engine=engine, device=device))


def generate(
    model: Model,
    prompt: str = "",
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    raw: bool = False,
) -> str:
    """Return the text that a model writes: the prompt continued, or, if it was fine-tuned, its answer.

    `raw` gives a fine-tuned model the prompt without its turns. Raises UsageError for a value out of range.
    """
    chat = model.folder.is_chat and not raw
    events = decoder.generate(
        model.engine,
        model.folder.tokenizer,
        [prompt_ids(model.folder.tokenizer, prompt, chat=chat)],
        sampling=Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
        ),
        seed=seed,
        max_new_tokens=max_new_tokens,
        stop=stop,
    )
    text = "".join(event.text for event in events if isinstance(event, decoder.Token))
    return text if chat else prompt + text
