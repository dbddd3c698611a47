"""What a run should be, from the time, the text and the speed of the machine; and what to expect of it.

All that a user leaves open is chosen here: the shape of the model, the size of a step, the rates, and what
keeps many epochs from learning a small text by heart. Time is counted in seconds of a reference machine,
so that a slow machine plans like a fast one with less time. The figures come from the sweeps whose record
stands in tests/benchmarks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from gencli.errors import ModelError, UsageError
from gencli.model.gpt import GPT
from gencli.model.scoring import total_loss
from gencli.model.shape import Shape, preset, reshaped
from gencli.settings.training import PretrainSettings
from gencli.text.tokenizer_training import Pieces
from gencli.training.events import Event
from gencli.training.forecast import expected_bits
from gencli.training.memory import check_memory, fitting_rows, memory_of
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.runtime import Runtime

REFERENCE_PACE = 30_000.0  # tokens a second of a step of the preset nano on the reference machine
PROBED_ROWS = 8
DEFAULT_SECONDS = 600.0  # of a run without any limit


@dataclass(frozen=True)
class Choice:
    """What is best up to so many seconds of the reference machine."""

    seconds: float
    size: str
    context: int
    tokens: int  # in a step


CHOICES = (
    Choice(60, "nano", 128, 1024),
    Choice(100, "nano", 256, 2048),
    Choice(300, "micro", 256, 2048),
    Choice(2400, "tiny", 256, 2048),
    Choice(7200, "small", 256, 4096),
    Choice(math.inf, "small", 512, 8192),
)
# Seconds of the reference machine for each megabyte, and what fineness of the vocabulary is best up to it
FINENESS = ((42.0, 0.5), (math.inf, 2.0))
PIECES_A_NUMBER = 16  # of a token's vector, at most: the head would take more time than the blocks

LEARNING_RATE = 0.02
MANY_EPOCHS = 60


@dataclass(frozen=True)
class Regularisation:
    """What is best for a text that is seen up to so many times."""

    epochs: float
    dropout: float
    weight_decay: float


REGULARISED = (
    Regularisation(1.5, 0.0, 0.0),
    Regularisation(3.5, 0.0, 0.1),
    Regularisation(8.0, 0.1, 0.3),
    Regularisation(math.inf, 0.2, 0.3),
)


@dataclass(frozen=True, kw_only=True)
class Plan(Event):
    """What a run is going to be. `tokens_per_second` is measured; what follows from it is an estimate."""

    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    parameters: int
    rows: int
    rows_at_once: int
    learning_rate: float
    dropout: float
    weight_decay: float
    tokens_per_second: float
    steps: int
    epochs: float
    seconds: float
    bits_per_byte: tuple[float, float] | None
    memory_bytes: int

    def lines(self) -> list[str]:
        """Return the plan for reading."""
        shape = (
            f"{self.layers} layers of width {self.width}, {self.heads} heads, context {self.context}, "
            f"vocabulary {self.vocabulary:,}"
        )
        work = (
            f"about {self.steps:,} steps of {self.rows * self.context:,} tokens at "
            f"{self.tokens_per_second:,.0f} tokens/s ({self.epochs:.1f} epochs in {self.seconds:,.0f} s)"
        )
        how = f"learning rate {self.learning_rate:g}, dropout {self.dropout:g}, weight decay {self.weight_decay:g}"
        expected = f"{self.memory_bytes / 1e9:.1f} GB of memory"
        if self.bits_per_byte is not None:
            low, high = self.bits_per_byte
            expected = f"expected {low:.2f} to {high:.2f} bits/byte on held-out text, {expected}"
        lines = [f"plan: {shape}", f"      {work}, {how}", f"      {expected}"]
        if self.epochs > MANY_EPOCHS:
            lines.append(
                "      so many epochs of one text teach little: more text would do more than more time"
            )
        return lines


def measured_pace(shape: Shape, runtime: Runtime, *, rows: int, seconds: float) -> float:
    """Return tokens a second of whole training steps of a model of this shape, tried for about so long."""
    model = GPT(shape).initialise(torch.Generator().manual_seed(0)).to(runtime.device)
    optimizer = Optimizer(model, Rates(), dtype=runtime.dtype)
    tokens = torch.from_numpy(np.arange(rows * shape.context).reshape(rows, -1) % shape.vocabulary)
    tokens = tokens.to(runtime.device)

    def step() -> float:
        began = time.perf_counter()
        with runtime.precision():
            loss = total_loss(model, tokens, tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.clip(1.0)
        optimizer.step(0.0)
        return time.perf_counter() - began

    step()  # the first one also asks for memory, and may compile
    began = time.perf_counter()
    times = [step()]
    while time.perf_counter() - began < seconds:
        times.append(step())
    return rows * shape.context / float(np.median(times))


@lru_cache(maxsize=1)
def reference_speed(runtime: Runtime) -> float:
    """Return how many times as fast as the reference machine this one is."""
    return measured_pace(preset("nano", 2048), runtime, rows=PROBED_ROWS, seconds=0.3) / REFERENCE_PACE


def choice_for(seconds: float) -> Choice:
    """Return what is best in so many seconds of the reference machine."""
    return next(choice for choice in CHOICES if seconds <= choice.seconds)


def longest_for(train_tokens: int) -> float:
    """Return after how many seconds of the reference machine a larger model learns nothing from so little text."""
    return max(2400.0, train_tokens / 2000)


def pieces_for(seconds: float | None, nbytes: int, runtime: Runtime) -> Pieces:
    """Return what vocabulary is best for a run of so many seconds on so many bytes.

    Long pieces teach a model much in little time; what is read over and over is learned by heart less if the
    pieces are short.
    """
    if seconds is None:
        return Pieces()
    there = seconds * reference_speed(runtime)
    fineness = next(fineness for most, fineness in FINENESS if there / max(1e-3, nbytes / 1e6) <= most)
    return Pieces(fineness, PIECES_A_NUMBER * preset(choice_for(there).size, 2).width)


def planned(
    settings: PretrainSettings,
    runtime: Runtime,
    *,
    vocabulary: int,
    train_tokens: int,
    seconds: float | None,
    trigram: float | None = None,
    processes: int = 1,
) -> tuple[PretrainSettings, Plan]:
    """Return the settings with all that was left open filled in, and the plan that they make.

    There are so many tokens to learn from; `seconds` is what is left for training, None for a run that is
    limited otherwise. `trigram` are the bits per byte that held-out text costs a trigram model, if there is
    any. Raises UsageError for numbers that make no model, MachineError for a model that has no room here.
    """
    budget = seconds or DEFAULT_SECONDS
    # Without a limit in time the speed decides nothing: the same command is the same run everywhere.
    speed = reference_speed(runtime) * processes if seconds or settings.shard else 1.0
    choice = choice_for(min(budget * speed, longest_for(train_tokens)))
    settings = _shaped(settings, choice, train_tokens)
    shape = shape_of(settings, vocabulary)
    assert settings.batch_size is not None
    if not settings.shard:
        check_memory(shape, runtime)
    rows = -(-settings.batch_size // processes)
    at_once = min(rows, settings.rows_at_once or rows, fitting_rows(shape, runtime))
    if settings.shard:  # no process alone can try it
        pace = REFERENCE_PACE * speed * preset("nano", 2048).parameters / shape.parameters
    else:
        pace = processes * measured_pace(shape, runtime, rows=at_once, seconds=min(2.0, 0.02 * budget))
    step_tokens = settings.batch_size * shape.context
    steps = steps_of(settings, seconds, pace / step_tokens, train_tokens)
    epochs = steps * step_tokens / max(1, train_tokens)
    settings = _regularised(replace(settings, rows_at_once=at_once if at_once < rows else 0), epochs)
    assert settings.batch_size is not None
    assert settings.learning_rate is not None and settings.dropout is not None
    plan = Plan(
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        context=shape.context,
        vocabulary=vocabulary,
        parameters=shape.parameters,
        rows=settings.batch_size,
        rows_at_once=at_once,
        learning_rate=settings.learning_rate,
        dropout=settings.dropout,
        weight_decay=settings.weight_decay or 0.0,
        tokens_per_second=round(pace, 1),
        steps=steps,
        epochs=epochs,
        seconds=steps * step_tokens / pace,
        bits_per_byte=expected_bits(trigram, steps * step_tokens) if trigram else None,
        memory_bytes=memory_of(shape, at_once, runtime),
    )
    return settings, plan


def steps_of(settings: PretrainSettings, seconds: float | None, pace: float, train_tokens: int) -> int:
    """Return how many steps the limits allow at `pace` steps a second: the first limit that is reached counts."""
    assert settings.batch_size is not None and settings.context is not None
    step_tokens = settings.batch_size * settings.context
    limits = [settings.steps]
    limits.append(math.ceil(settings.tokens / step_tokens) if settings.tokens else None)
    limits.append(math.ceil(settings.epochs * train_tokens / step_tokens) if settings.epochs else None)
    limits.append(int(seconds * pace) if seconds else None)
    return max(1, min((limit for limit in limits if limit is not None), default=int(DEFAULT_SECONDS * pace)))


def _shaped(settings: PretrainSettings, choice: Choice, train_tokens: int) -> PretrainSettings:
    """Fill in size, context and rows."""
    size = choice.size if settings.size == "auto" else settings.size
    context = settings.context
    if context is None:
        most = max(16, train_tokens // 16)  # a small corpus shortens the context
        own = choice.context if settings.size == "auto" else preset(size, 2).context
        context = min(own, 1 << (most.bit_length() - 1))
    rows = settings.batch_size or max(1, choice.tokens // context)
    return replace(settings, size=size, context=context, batch_size=rows)


def _regularised(settings: PretrainSettings, epochs: float) -> PretrainSettings:
    """Fill in the rates, and what keeps a text seen many times from being learned by heart."""
    level = next(level for level in REGULARISED if epochs <= level.epochs)
    return replace(
        settings,
        learning_rate=LEARNING_RATE if settings.learning_rate is None else settings.learning_rate,
        dropout=level.dropout if settings.dropout is None else settings.dropout,
        weight_decay=level.weight_decay if settings.weight_decay is None else settings.weight_decay,
    )


def shape_of(settings: PretrainSettings, vocabulary: int) -> Shape:
    """Return the shape that planned settings ask for. Raises UsageError for numbers that make no model."""
    try:
        return reshaped(
            preset(settings.size, vocabulary),
            layers=settings.layers,
            width=settings.width,
            heads=settings.heads,
            kv_heads=settings.kv_heads,
            context=settings.context,
        )
    except ModelError as error:
        raise UsageError(error.message) from error
