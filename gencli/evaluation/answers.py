"""A model's own answers to pairs, each with what it thought of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.prompts import turn_ids
from gencli.decoding.sampler import Sampling
from gencli.text.pairs import Pair
from gencli.text.tokenizer import Tokenizer

ANSWERED_AT_ONCE = 64
MOST_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Answer:
    """What a model says to a pair's prompt, and the log-probability of each token, the end included."""

    pair: Pair
    text: str
    logprobs: tuple[float, ...]

    @property
    def mean_logprob(self) -> float:
        """Return the logarithm of the length-normalised probability."""
        return sum(self.logprobs) / max(1, len(self.logprobs))


def answers(pairs: Sequence[Pair], engine: Engine, tokenizer: Tokenizer) -> Iterator[Answer]:
    """Yield the model's greedy answer to each pair's prompt; prompts of like length go together."""
    longest = max(len(tokenizer.encode(pair.completion)) for pair in pairs)
    budget = min(MOST_ANSWER_TOKENS, 2 * longest + 8)
    prompts = [turn_ids(tokenizer, pair.turns[:-1]) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda number: len(prompts[number]))
    for first in range(0, len(order), ANSWERED_AT_ONCE):
        group = order[first : first + ANSWERED_AT_ONCE]
        tokens: list[list[Token]] = [[] for _ in group]
        for event in generate(
            engine, tokenizer, [prompts[number] for number in group],
            sampling=Sampling(temperature=0.0), seed=0, max_new_tokens=budget, logprobs=0,
        ):  # fmt: skip
            if isinstance(event, Token):
                tokens[event.row].append(event)
        for number, said in zip(group, tokens, strict=True):
            text = "".join(token.text for token in said)
            yield Answer(pairs[number], text, tuple(token.logprob or 0.0 for token in said))
