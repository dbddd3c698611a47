"""How good a model is: the cost of a text in bits per byte; loss and exact match on labelled pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.prompts import turn_ids
from gencli.decoding.sampler import Sampling
from gencli.model.folder import ModelFolder
from gencli.model.gpt import GPT
from gencli.model.scoring import score
from gencli.text.examples import encode_pairs
from gencli.text.pairs import Pair, PairsFile
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokens import TokenFile
from gencli.training.batches import in_order, pairs_in_order
from gencli.training.held_out import token_bytes_of
from gencli.training.runtime import Runtime

ANSWERED_AT_ONCE = 64
MOST_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class TextScore:
    """What a text costs a model. `bytes` counts the text as read, line ends between documents included."""

    file: str
    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int

    def record(self) -> dict[str, object]:
        """Return the score as one JSON object."""
        return {"event": "score", **asdict(self)}


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


def score_text(
    name: str, tokens: TokenFile, model: GPT, tokenizer: Tokenizer, runtime: Runtime, *, rows: int
) -> TextScore:
    """Return what the whole text costs, in windows of the model's context without overlap."""
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=tokens.end_bytes)
    windows = in_order(tokens.ids, [(0, len(tokens.ids))], context=model.shape.context, rows=rows)
    result = score(model, windows, token_bytes=sizes, precision=runtime.precision)
    assert result is not None
    return TextScore(name, result.bits_per_byte, result.loss, result.tokens, round(result.nbytes))


def score_pairs(
    file: PairsFile,
    folder: ModelFolder,
    model: GPT,
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
    result = score(model, batches, token_bytes=sizes, precision=runtime.precision)
    assert result is not None
    right = sum(
        said.strip() == pair.completion.strip() for pair, said in answers(file.pairs, engine, tokenizer)
    )
    return PairsScore(
        str(file.path), result.bits_per_byte, result.loss, result.tokens, round(result.nbytes),
        len(file.pairs), right / len(file.pairs),
    )  # fmt: skip


def answers(pairs: Sequence[Pair], engine: Engine, tokenizer: Tokenizer) -> Iterator[tuple[Pair, str]]:
    """Yield each pair with the model's own greedy answer to its prompt; prompts of like length go together."""
    longest = max(len(tokenizer.encode(pair.completion)) for pair in pairs)
    budget = min(MOST_ANSWER_TOKENS, 2 * longest + 8)
    prompts = [turn_ids(tokenizer, pair.turns[:-1]) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda number: len(prompts[number]))
    for first in range(0, len(order), ANSWERED_AT_ONCE):
        group = order[first : first + ANSWERED_AT_ONCE]
        texts = [""] * len(group)
        for event in generate(
            engine, tokenizer, [prompts[number] for number in group],
            sampling=Sampling(temperature=0.0), seed=0, max_new_tokens=budget,
        ):  # fmt: skip
            if isinstance(event, Token):
                texts[event.row] += event.text
        yield from ((pairs[number], text) for number, text in zip(group, texts, strict=True))


def looks_like_pairs(path: str) -> bool:
    """Tell whether a file's ending says that it holds pairs; .jsonl may hold either."""
    return Path(path).suffix.lower() in {".json", ".csv", ".tsv"}


def has_texts_only(path: str, text_field: str) -> bool:
    """Tell whether the first line of a .jsonl file is an object with a text and no label or answer."""
    import json

    if not Path(path).is_file():
        return False
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and text_field in first and "label" not in first
