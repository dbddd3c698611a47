"""Choices: how likely a model finds each of some given texts as what comes after a prompt; many prompts at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.decoding.decoder import log_softmax
from gencli.decoding.trie import Node, deepest, fitted, room_for, tree_of, walk
from gencli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gencli.decoding.decoder import Engine
    from gencli.decoding.filters import FloatArray
    from gencli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """One of the texts; `logprob` is a natural logarithm, `probability` is its share among the choices."""

    text: str
    logprob: float
    probability: float


def rank_choices(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    ends: bool,
    keep: int = 1,
    cut: Callable[[int], None] | None = None,
) -> list[list[Choice]]:
    """Return for the ids of each prompt the choices after it, the likeliest first; equals stay in their order.

    A choice's logprob is the sum of the log-probabilities of its tokens, under the model's own distribution,
    before any filter; where `ends`, as after a question to a fine-tuned model, that of the end of text is
    one of them, so that no choice wins by being the beginning of a longer answer. The probabilities are
    those sums, exponentiated, and divided by their total. Errors, `keep` and `cut` as in `score_choices`.
    """
    encoded = [[*tokenizer.encode(text), *[tokenizer.eos] * ends] for text in texts]
    return [_ranked(texts, sums) for sums in score_choices(engine, prompts, encoded, keep=keep, cut=cut)]


def _ranked(texts: Sequence[str], sums: Sequence[float]) -> list[Choice]:
    weights = [math.exp(value - max(sums)) for value in sums]
    choices = [
        Choice(text, value, weight / sum(weights))
        for text, value, weight in zip(texts, sums, weights, strict=True)
    ]
    return sorted(choices, key=lambda choice: -choice.logprob)


def score_choices(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[int]],
    *,
    keep: int = 1,
    cut: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Return for each prompt, and each choice, the sum of the log-probabilities of its ids after the prompt.

    A prompt, and what choices begin with together, is read once for all; of a prompt that leaves them no
    room the first `keep` tokens and the most recent ones are read, and `cut` is told how many are not. Raises
    UsageError when a choice does not fit into the context, alone or with the tokens to keep.
    """
    root = tree_of(choices)
    room = room_for(engine, deepest(root))
    read = [fitted(prompt, room, keep) for prompt in prompts]
    for prompt, ids in zip(prompts, read, strict=True):
        if cut is not None and len(ids) < len(prompt):
            cut(len(prompt) - len(ids))
    sums = [[0.0] * len(choices) for _ in prompts]

    def visit(row: int, node: Node, logits: FloatArray) -> list[int]:
        own = log_softmax(logits)
        for identity, child in zip(node.ids, node.children, strict=True):
            for number in child.below:
                sums[row][number] += float(own[identity])
        return [place for place, child in enumerate(node.children) if child.children]

    walk(engine, root, read, visit)
    return sums


def split_choices(text: str, *, strip: bool, flag: str = "--choices") -> list[str]:
    """Return the texts between the commas; `strip` drops the spaces around each.

    Raises UsageError for fewer than two, for an empty one, and for one that comes twice.
    """
    texts = [part.strip() if strip else part for part in text.split(",")]
    problem = (
        "there must be two choices or more" if len(texts) < 2
        else "a choice is empty" if not all(texts)
        else "a choice comes twice" if len(set(texts)) < len(texts)
        else ""
    )  # fmt: skip
    if problem:
        raise UsageError(
            f"{flag} {text!r}: {problem}", hint=f"write them with commas between: {flag} 'yes,no'"
        )
    return texts
