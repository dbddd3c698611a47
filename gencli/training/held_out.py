"""The text that a run never learns from, and on which it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, Batch, Score, score
from gencli.training.runtime import Runtime
from gencli.training.world import World


class Verdict(Protocol):
    """What came of judging a model. Of two models the one with the smaller `cost` is better."""

    @property
    def cost(self) -> float: ...

    @property
    def loss(self) -> float | None: ...

    @property
    def bits_per_byte(self) -> float | None: ...

    @property
    def figures(self) -> Mapping[str, float]:
        """Return what else is told, by name."""


class Judge(Protocol):
    """Tells how good a model is on what it never learns from."""

    @property
    def tokens(self) -> int:
        """Return about how many tokens a model reads for one verdict."""

    def score(
        self,
        model: GPT,
        runtime: Runtime,
        *,
        world: World | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Verdict | None:
        """Return the verdict, in every process the same, or None if it was `interrupted`."""


@dataclass(frozen=True)
class LabelScore(Score):
    """A score by how often the label is right; of two that are equal the smaller loss is better."""

    @property
    def cost(self) -> float:
        return self.answers - self.right + self.loss / (1 + self.loss)


@dataclass(frozen=True)
class HeldOut:
    """Batches that are scored again and again; `token_bytes[id]` is the bytes of text an id stands for."""

    batches: Sequence[Batch]
    token_bytes: NDArray[np.float64]
    answers: bool = False  # each row's targets are one answer
    kind: type[Score] = Score

    @property
    def tokens(self) -> int:
        """Return how many tokens one evaluation reads."""
        return sum(batch.size for batch in self.batches)

    def score(
        self,
        model: GPT,
        runtime: Runtime,
        *,
        world: World | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Score | None:
        """Return what the held-out text costs the model, or None if `interrupted` between two batches.

        The processes share the batches; each asks `interrupted` equally often.
        """
        world = world or World()
        found = score(
            model,
            self._share(world.rank, world.size),
            token_bytes=self.token_bytes,
            precision=runtime.precision,
            interrupted=interrupted,
            answers=self.answers,
        )
        if found is None:
            return None
        sums = world.total(found.nats, found.tokens, found.nbytes, found.answers, found.right)
        nats, tokens, nbytes, answers, right = sums
        return self.kind(nats, int(tokens), nbytes, int(answers), int(right))

    def _share(self, rank: int, size: int) -> list[Batch]:
        """Return every size-th batch, and one in which nothing is scored where others have one more."""
        share = list(self.batches[rank::size])
        if len(share) < -(-len(self.batches) // size):
            first = self.batches[0]
            share.append(Batch(first.tokens[:1], np.full_like(first.targets[:1], IGNORED), 0))
        return share


def token_bytes_of(piece_bytes: Sequence[bytes], *, end: int, end_bytes: float) -> NDArray[np.float64]:
    """Return the bytes of text each id stands for; the end of a document stands for `end_bytes` of line ends."""
    sizes = np.array([len(piece) for piece in piece_bytes], dtype=np.float64)
    sizes[end] = end_bytes
    return sizes
