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

EXACT_TO = 5e-3  # a probability, after the temperature; the most that all labels left out can have


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

    def logprobs(self, prompts: Sequence[Sequence[int]], evidence: Logprobs | None = None) -> Logprobs:
        """Return the natural logarithm of each label's probability [prompts, labels], before a temperature.

        Of a prompt that is too long the first id and the most recent ones are read. `evidence` [prompts, labels] is
        what will be added to them: where it leaves no chance, nothing is looked at.
        """
        added = np.zeros((len(prompts), len(self.labels))) if evidence is None else evidence
        found, certain = self._walked(prompts, added, guesses=True)
        again = np.flatnonzero(~certain).tolist()
        if again:
            found[again], _ = self._walked([prompts[number] for number in again], added[again], guesses=False)
        return found

    def _walked(
        self, prompts: Sequence[Sequence[int]], evidence: Logprobs, *, guesses: bool
    ) -> tuple[Logprobs, NDArray[np.bool_]]:
        """Return log-probabilities [prompts, labels], and for each prompt whether too little was left out to matter."""
        found = np.zeros_like(evidence)
        weights = _Weights(evidence, self._root, self._warmth, guesses=guesses)
        reached: list[dict[int, float]] = [{id(self._root): 0.0} for _ in prompts]

        def visit(number: int, node: Node, logits: NDArray[np.float32]) -> list[int]:
            onward = []
            totals = reached[number].pop(id(node)) + _log_shares(logits[node.ids])
            weights.part(number, node, totals)
            for place, (child, total) in enumerate(zip(node.children, totals.tolist(), strict=True)):
                if len(child.below) > 1 and not weights.leaves_out(number, child, total, self._least):
                    reached[number][id(child)] = total
                    onward.append(place)
                else:
                    found[number, child.below] = total - math.log(len(child.below))
            return onward

        walk(self._engine, self._root, [fitted(prompt, self._room) for prompt in prompts], visit)
        return found, weights.left_out <= EXACT_TO * np.exp((found + evidence) / self._warmth).sum(axis=1)

    def in_batches(
        self, prompts: Sequence[Sequence[int]], *, rows: int, evidence: Logprobs | None = None
    ) -> Iterator[tuple[list[int], Logprobs]]:
        """Yield (numbers of prompts, their log-probabilities), prompts of like length together."""
        for numbers in batches_by_length(range(len(prompts)), lambda number: len(prompts[number]), rows):
            some = None if evidence is None else evidence[numbers]
            yield numbers, self.logprobs([prompts[number] for number in numbers], some)


class _Weights:
    """What labels below a node can weigh at most, and what all labels of a prompt weigh at least.

    A label of log-probability l and evidence e weighs exp((l + e) / T), T being 1 or more. Labels below a node that
    share the probability p weigh at most n · (p / n · exp(greatest e)) ** (1 / T), each of n having as much. They weigh
    at least (p · exp(least e)) ** (1 / T), all of p being that label's. Where evidence differs much that is far too
    little: with `guesses` the likeliest of them is taken to have such a share of p as the evidence itself would have
    it. Those may be wrong, and what was left out is then too much.
    """

    def __init__(self, evidence: Logprobs, root: Node, warmth: float, *, guesses: bool) -> None:
        self.left_out = np.zeros(len(evidence))  # at most
        self._evidence, self._warmth, self._guesses = evidence, warmth, guesses
        self._ranges: dict[int, tuple[list[float], list[float]]] = {}
        self._least = [self._weight(least) for least in self._range(root)[0]]  # of all labels of a prompt

    def part(self, number: int, node: Node, totals: NDArray[np.float64]) -> None:
        """Take note of the log-probabilities at which a node's children are reached."""
        above = float(np.logaddexp.reduce(totals))
        self._least[number] -= self._weight(above + self._range(node)[0][number])
        for child, total in zip(node.children, totals.tolist(), strict=True):
            self._least[number] += self._weight(total + self._range(child)[0][number])

    def leaves_out(self, number: int, node: Node, total: float, share: float) -> bool:
        """Tell whether the labels below a node weigh less than a share of all of a prompt: then leave them out."""
        count = len(node.below)
        most = count * self._weight(total - math.log(count) + self._range(node)[1][number])
        if most >= share * self._least[number]:
            return False
        self.left_out[number] += most
        return True

    def _weight(self, value: float) -> float:
        return math.exp(value / self._warmth)

    def _range(self, node: Node) -> tuple[list[float], list[float]]:
        """Return, for each prompt, what to add below a node for the least weight, and for the greatest."""
        if id(node) not in self._ranges:
            below = self._evidence[:, node.below]
            least, most = below.min(axis=1), below.max(axis=1)
            if self._guesses:
                least = np.maximum(least, 2 * most - np.logaddexp.reduce(below, axis=1))
            self._ranges[id(node)] = least.tolist(), most.tolist()
        return self._ranges[id(node)]


def all_logprobs(
    classifier: Classifier,
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    evidence: Logprobs | None = None,
    check: Callable[[], None] = lambda: None,
) -> Logprobs:
    """Return the log-probabilities [prompts, labels] in the order of the prompts; `check` may raise.

    `evidence` as in `Classifier.logprobs`.
    """
    found = np.zeros((len(prompts), len(classifier.labels)))
    for numbers, values in classifier.in_batches(prompts, rows=rows, evidence=evidence):
        found[numbers] = values
        check()
    return found


def _partings(node: Node) -> int:
    """Return how many nodes have several children."""
    return (len(node.children) > 1) + sum(map(_partings, node.children))


def _log_shares(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
