"""Labels: how likely a fine-tuned model finds each of its labels for a text.

A label's probability is the product, over the places where labels part, of the probability of its id among
those that lead to a label; so all add up to one, and nothing is computed where there is no choice. Parts of the
tree that hardly any probability reaches are left out: what reaches them is shared out evenly below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.decoder import Engine
from gencli.decoding.many import batches_by_length
from gencli.decoding.trie import Node, deepest, fitted, room_for, tree_of, walk
from gencli.text.tokenizer import Tokenizer

Logprobs = NDArray[np.float64]

EXACT_TO = 1e-4  # a probability, after the temperature


class Classifier:
    """Finds labels' log-probabilities with an engine.

    `temperature` is the one by which they will be divided: it decides what is too little to look at.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, labels: Sequence[str], *, temperature: float = 1.0
    ) -> None:
        self.labels = tuple(labels)
        self._engine = engine
        self._root = tree_of([[*tokenizer.encode(label), tokenizer.eos] for label in labels])
        self._room = room_for(engine, deepest(self._root))
        self._least = EXACT_TO / max(1, _partings(self._root))
        self._warmth = max(1.0, temperature)

    def logprobs(self, prompts: Sequence[Sequence[int]]) -> Logprobs:
        """Return the natural logarithm of each label's probability [prompts, labels], before a temperature.

        Of a prompt that is too long the first id and the most recent ones are read.
        """
        found = np.zeros((len(prompts), len(self.labels)))
        reached: list[dict[int, float]] = [{id(self._root): 0.0} for _ in prompts]

        def visit(number: int, node: Node, logits: NDArray[np.float32]) -> list[int]:
            onward = []
            own = reached[number].pop(id(node))
            shares = _log_shares(logits[node.ids])
            for place, (child, share) in enumerate(zip(node.children, shares.tolist(), strict=True)):
                total, below = own + share, len(child.below)
                if below > 1 and total > self._floor(below):
                    reached[number][id(child)] = total
                    onward.append(place)
                else:
                    found[number, child.below] = total - math.log(below)
            return onward

        walk(self._engine, self._root, [fitted(prompt, self._room) for prompt in prompts], visit)
        return found

    def in_batches(
        self, prompts: Sequence[Sequence[int]], *, rows: int
    ) -> Iterator[tuple[list[int], Logprobs]]:
        """Yield (numbers of prompts, their log-probabilities), prompts of like length together."""
        for numbers in batches_by_length(range(len(prompts)), lambda number: len(prompts[number]), rows):
            yield numbers, self.logprobs([prompts[number] for number in numbers])

    def _floor(self, below: int) -> float:
        """Return the log-probability under which what `below` labels share makes no difference.

        Divided by a temperature T, a small probability p that n labels share comes to n (p / n) ** (1 / T).
        """
        return self._warmth * math.log(self._least) - (self._warmth - 1) * math.log(below)


def all_logprobs(
    classifier: Classifier,
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    check: Callable[[], None] = lambda: None,
) -> Logprobs:
    """Return the log-probabilities [prompts, labels] in the order of the prompts; `check` may raise."""
    found = np.zeros((len(prompts), len(classifier.labels)))
    for numbers, values in classifier.in_batches(prompts, rows=rows):
        found[numbers] = values
        check()
    return found


def _partings(node: Node) -> int:
    """Return how many nodes have several children."""
    return (len(node.children) > 1) + sum(map(_partings, node.children))


def _log_shares(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
