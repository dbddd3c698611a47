"""The knobs of bringing a model nearer to what is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.knobs import REQUIRED, knob
from gencli.settings.common import LEARNING, LENGTH, MACHINE, SAMPLING, TEXT, OneModel
from gencli.settings.training import Training

PREFERENCES, REWARD = "Preferences (dpo)", "Reward (grpo)"


@dataclass(frozen=True, kw_only=True)
class AlignSettings(Training, OneModel):
    """Bring a fine-tuned model nearer to what is preferred or rewarded."""

    pairs: tuple[str, ...] = knob(
        (), "Files of preferences, or of prompts to answer, or - for stdin.", argument=True, metavar="PAIRS"
    )
    output: Path = knob(REQUIRED, "Where the aligned model goes.", "-o", metavar="DIR")
    method: str = knob(
        REQUIRED, "dpo learns from better and worse answers, grpo from a reward for the model's own answers.",
        choices=("dpo", "grpo"),
    )  # fmt: skip
    prompt_key: str | None = knob(None, "Field or column of the prompt.", panel=TEXT, metavar="NAME")
    completion_key: str | None = knob(None, "Field or column of the answer.", panel=TEXT, metavar="NAME")
    chosen_key: str | None = knob(None, "Field or column of the better answer.", panel=TEXT, metavar="NAME")
    rejected_key: str | None = knob(None, "Field or column of the worse answer.", panel=TEXT, metavar="NAME")
    encoding: str | None = knob(None, "Encoding of the pairs, if not UTF-8.", panel=TEXT)
    time: str | None = knob(
        None,
        "Stop at this time, everything included: 90s, 10m, 1h30m. Without any limit: 2 epochs of preferences, "
        "or 300 updates by a reward.",
        "-t",
        panel=LENGTH, duration=True, metavar="TIME",
    )  # fmt: skip
    batch_size: int | None = knob(
        None, "Preferences in one update, or prompts, each with a group of answers.",
        least=1, most=65_536, panel=LEARNING,
    )  # fmt: skip
    weight_decay: float = knob(0.0, "Decay of the matrices.", least=0.0, most=10.0, panel=LEARNING)
    dropout: float = knob(
        0.0, "Share of each branch's output set to zero.", least=0.0, most=0.9, panel=LEARNING
    )
    precision: str = knob(
        "float32", "Arithmetic of matrix products.", choices=("auto", "float32", "bfloat16"), panel=MACHINE
    )
    beta: float | None = knob(
        None, "How strongly the model is held to the start: 0.1 with dpo, 0.04 with grpo unless given.",
        least=0.0, most=1000.0, panel=LEARNING,
    )  # fmt: skip
    label_smoothing: float | None = knob(
        None, "Share of preferences taken to be the wrong way round (conservative DPO); 0 unless given.",
        least=0.0, most=0.49, panel=PREFERENCES,
    )  # fmt: skip
    sft: float | None = knob(
        None, "How much the chosen answers' own loss counts beside; 0 unless given.",
        least=0.0, most=1000.0, panel=PREFERENCES,
    )  # fmt: skip
    reward_pattern: str | None = knob(
        None, "Reward an answer in which this regular expression is found, instead of the pair's own answer.",
        panel=REWARD, metavar="REGEX",
    )  # fmt: skip
    reward_function: str | None = knob(
        None,
        "Reward by a Python function of (prompt, answer, completion): FILE.py:NAME or MODULE:NAME. "
        "It runs your code, unguarded.",
        panel=REWARD, metavar="NAME",
    )  # fmt: skip
    group: int | None = knob(
        None, "Answers to each prompt; 8 unless given.", least=2, most=1024, panel=REWARD
    )
    updates: int | None = knob(
        None, "Updates from the same answers; 1 unless given.", least=1, most=1000, panel=REWARD
    )
    clip_ratio: float | None = knob(
        None, "How far from 1 an answer's new to old probability counts; 0.2 unless given.",
        least=0.0, most=1.0, panel=REWARD,
    )  # fmt: skip
    advantage: str | None = knob(
        None, "A group's rewards less their mean: over their standard deviation (std, unless given), or as they are.",
        choices=("std", "mean"), panel=REWARD,
    )  # fmt: skip
    average: str | None = knob(
        None, "Losses are averaged over each answer first (answer, unless given), or over all tokens.",
        choices=("answer", "token"), panel=REWARD,
    )  # fmt: skip
    temperature: float | None = knob(
        None, "Of the answers that are learned from; 1 unless given.", least=0.01, most=100.0, panel=SAMPLING
    )
    max_new_tokens: int | None = knob(
        None, "Most tokens of an answer; by default from the answers in the file, or 64.",
        "-n", "--max-tokens", least=1, most=10**7, panel=SAMPLING,
    )  # fmt: skip
