"""An engine that reads no token twice: a prompt that begins like what it holds is read from there on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from gencli.decoding.decoder import Engine


class ReusingEngine:
    """Passes on to another engine what that one does not know yet; for one text at a time.

    `read` is the number of tokens of the last prompt that had to be read. A step or a start that is
    interrupted does no harm: only what is certainly held is used again.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.context, self.vocabulary = engine.name, engine.context, engine.vocabulary
        self.threads, self.read = engine.threads, 0
        self._engine = engine
        self._held: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        """Read what is new in the prompt; return the next logits [1, V]. There is room for the whole context."""
        (prompt,) = prompts
        assert copies == 1
        shared = _shared(self._held, prompt[:-1])
        self._held = self._held[:shared]
        self.read = len(prompt) - shared
        logits = (
            self._engine.extend(prompt[shared:], after=shared)
            if shared
            else self._engine.start(prompts, slots=self.context)
        )
        self._held = list(prompt)
        return logits

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Add one token; return the next logits [1, V]."""
        logits = self._engine.step(tokens)
        self._held.append(int(tokens[0]))
        return logits

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        """Forget all but the first `after` tokens, read more; return the logits [1, V] then."""
        return self.start([[*self._held[:after], *tokens]], slots=self.context)

    def keep(self, rows: Sequence[int]) -> None:
        """Do nothing: the one row stays."""

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Forget what is held, read the prompts; return the vectors [B, W] after them."""
        self._held = []
        return self._engine.vectors(prompts)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many ids two sequences begin with together."""
    same = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(same, min(len(first), len(second)))
