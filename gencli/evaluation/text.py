"""What a text costs a model, in bits per byte; and how a file of texts is told from one of pairs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gencli.evaluation.cost import Rounded, cost_of
from gencli.model.gpt import GPT
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokens import TokenFile
from gencli.training.batches import in_order
from gencli.training.held_out import token_bytes_of
from gencli.training.runtime import Runtime


@dataclass(frozen=True)
class TextScore:
    """What a text costs a model. `bytes` counts the text as read, line ends between documents included."""

    file: str
    model: str
    bits_per_byte: float
    loss: float
    tokens: int
    bytes: int

    def record(self) -> dict[str, object]:
        """Return the score as one JSON object."""
        return {"event": "score", **asdict(self)}


def score_text(
    name: str,
    tokens: TokenFile,
    model: GPT | Rounded,
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    path: Path,
    rows: int,
) -> TextScore:
    """Return what the whole text costs the model in `path`, in windows of its context without overlap."""
    sizes = token_bytes_of(tokenizer.piece_bytes, end=tokenizer.eos, end_bytes=tokens.end_bytes)
    windows = in_order(tokens.ids, [(0, len(tokens.ids))], context=model.shape.context, rows=rows)
    result = cost_of(model, windows, sizes, runtime)
    return TextScore(name, str(path), result.bits_per_byte, result.loss, result.tokens, round(result.nbytes))


def looks_like_pairs(path: str) -> bool:
    """Tell whether a file's ending says that it holds pairs; .jsonl may hold either."""
    return Path(path).suffix.lower() in {".json", ".csv", ".tsv"}


def has_texts_only(path: str, text_field: str) -> bool:
    """Tell whether the first line of a .jsonl file is an object with a text and no label or answer."""
    if not Path(path).is_file():
        return False
    try:
        with Path(path).open(encoding="utf-8") as file:
            first = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and text_field in first and "label" not in first
