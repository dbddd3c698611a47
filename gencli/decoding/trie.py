"""Some sequences of ids as a tree of their common beginnings, and a walk over it with a model.

A beginning that several sequences share is computed once for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gencli.decoding.decoder import Engine
from gencli.decoding.sampler import check_finite
from gencli.errors import UsageError

FloatArray = NDArray[np.float32]


@dataclass
class Node:
    """A beginning of sequences: the ids that may follow, where each leads, and what ends below.

    `ends` is the number of the sequence that ends here, None if none does; `below` are the numbers of all
    that end here or further down.
    """

    depth: int
    ids: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    ends: int | None = None
    below: list[int] = field(default_factory=list)


def tree_of(sequences: Sequence[Sequence[int]]) -> Node:
    """Return the root of the tree of sequences, all different; each has one id or more."""
    root = Node(0)
    places: dict[tuple[int, int], Node] = {}
    for number, sequence in enumerate(sequences):
        node = root
        node.below.append(number)
        for identity in sequence:
            child = places.get((id(node), identity))
            if child is None:
                child = places[id(node), identity] = Node(node.depth + 1)
                node.ids.append(identity)
                node.children.append(child)
            node = child
            node.below.append(number)
        node.ends = number
    return root


def deepest(node: Node) -> int:
    """Return the length of the longest sequence."""
    return max((deepest(child) for child in node.children), default=node.depth)


def fitted(prompt: Sequence[int], room: int, keep: int = 1) -> list[int]:
    """Return a prompt of at most `room` ids: of a longer one the first `keep` and the most recent ones.

    Raises UsageError if the first ones would fill the room.
    """
    if not 0 <= keep < room:
        raise UsageError(
            f"--keep {keep:,} leaves no room: there is place for {room:,} tokens of the prompt",
            hint=f"keep {room - 1:,} or fewer",
        )
    return list(prompt) if len(prompt) <= room else [*prompt[:keep], *prompt[-(room - keep) :]]


def room_for(engine: Engine, longest: int) -> int:
    """Return how long a prompt may be before `longest` more ids. Raises UsageError if they leave no room."""
    room = engine.context - longest
    if room < 2:
        raise UsageError(
            f"a choice of {longest:,} tokens does not fit into the model's context of {engine.context:,}",
            hint="give shorter choices",
        )
    return room


def walk(
    engine: Engine,
    root: Node,
    prompts: Sequence[Sequence[int]],
    visit: Callable[[int, Node, FloatArray], Sequence[int]],
) -> None:
    """Read the prompts, then go down the tree for each, as far as `visit` says.

    `visit(prompt number, node, logits [V] after it)` is called from the root on, and returns the places of the
    children to go on to. All prompts are at the same depth at the same time. Raises ModelError for logits that
    are not finite.
    """
    slots = max(map(len, prompts)) + deepest(root)
    logits = engine.start(prompts, slots=min(slots, engine.context))
    rows = [(number, root) for number in range(len(prompts))]
    while True:
        onward = []
        for row, (number, node) in enumerate(rows):
            check_finite(logits[row])
            onward += [(row, number, node, place) for place in visit(number, node, logits[row])]
        if not onward:
            return
        kept = [row for row, _, _, _ in onward]
        if kept != list(range(len(rows))):
            engine.keep(kept)
        logits = engine.step(np.array([node.ids[place] for _, _, node, place in onward], dtype=np.int64))
        rows = [(number, node.children[place]) for _, number, node, place in onward]
