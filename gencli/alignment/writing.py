"""Answers from a model whose weights change all the time, by the batched decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.sampler import Sampling
from gencli.model.gpt import GPT
from gencli.text.tokenizer import Tokenizer
from gencli.training.runtime import Runtime


@dataclass(frozen=True)
class Written:
    """An answer: its ids, the end included if it came to one, and its text."""

    ids: tuple[int, ...]
    text: str
    finished: bool


class Writer:
    """Writes answers of at most `most` tokens with what the model is at that moment.

    On a CPU the compiled engine takes a copy of the weights for each call, a matter of milliseconds beside the
    tokens that it then writes; elsewhere the weights are used where they are.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, runtime: Runtime, *, most: int) -> None:
        self.model, self.tokenizer, self.runtime, self.most = model, tokenizer, runtime, most

    @property
    def padding(self) -> int:
        """Return the id that fills rows up."""
        return self.tokenizer.pad

    def write(
        self, prompts: Sequence[Sequence[int]], *, copies: int, temperature: float, seed: int
    ) -> list[Written]:
        """Return `copies` answers to each prompt, one prompt's side by side; temperature 0 is greedy.

        The result depends on the weights, the prompts and the seed alone.
        """
        ids: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
        texts, finished = [""] * len(ids), [False] * len(ids)
        was_training = self.model.training
        events = generate(
            self._engine(), self.tokenizer, prompts,
            sampling=Sampling(temperature=temperature, top_k=0), seed=seed, max_new_tokens=self.most, copies=copies,
        )  # fmt: skip
        for event in events:
            if isinstance(event, Token):
                ids[event.row].append(event.id)
                texts[event.row] += event.text
                finished[event.row] = event.finish == "stop"
        self.model.train(was_training)
        return [Written(tuple(row), text, end) for row, text, end in zip(ids, texts, finished, strict=True)]

    def _engine(self) -> Engine:
        if self.runtime.device.type == "cpu":
            from gencli.decoding.cpu_engine import CpuEngine

            return CpuEngine(self.model.shape, self.model.weights(), threads=self.runtime.threads)
        from gencli.decoding.torch_engine import TorchEngine

        return TorchEngine(self.model)
