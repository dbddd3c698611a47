"""How well a model answers labelled pairs: the cost of the right answers, and how often its own is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from gencli.decoding.decoder import Engine
from gencli.evaluation.answers import answers
from gencli.evaluation.cost import Rounded, cost_of
from gencli.model.folder import ModelFolder
from gencli.model.gpt import GPT
from gencli.text.examples import encode_pairs
from gencli.text.pairs import PairsFile
from gencli.training.batches import pairs_in_order
from gencli.training.held_out import token_bytes_of
from gencli.training.runtime import Runtime


@dataclass(frozen=True)
class PairsScore:
    """How well a model answers pairs: the cost of the right answers, and how often its own is exactly right."""

    file: str
    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int
    pairs: int
    exact_match: float

    def record(self) -> dict[str, object]:
        """Return the score as one JSON object."""
        return {"event": "score", **asdict(self)}


def score_pairs(
    file: PairsFile,
    folder: ModelFolder,
    model: GPT | Rounded,
    engine: Engine,
    runtime: Runtime,
    *,
    rows: int,
    say: Callable[[str], None],
) -> PairsScore:
    """Return the cost of the answers, and the share of prompts that the model answers exactly, greedily."""
    tokenizer = folder.tokenizer
    encoded = encode_pairs(file.pairs, tokenizer, context=model.shape.context)
    for note in encoded.notes:
        say(note)
    batches = pairs_in_order(encoded.examples, rows=rows, padding=tokenizer.pad)
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=0.0)
    result = cost_of(model, batches, sizes, runtime)
    right = sum(
        answer.text.strip() == answer.pair.completion.strip()
        for answer in answers(file.pairs, engine, tokenizer)
    )
    return PairsScore(
        str(file.path), result.bits_per_byte, result.loss, result.tokens, round(result.nbytes),
        len(file.pairs), right / len(file.pairs),
    )  # fmt: skip
