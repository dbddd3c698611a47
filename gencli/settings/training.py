"""The knobs of the commands that train a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.knobs import REQUIRED, knob
from gencli.settings.common import (
    HELD_OUT,
    LEARNING,
    LENGTH,
    MACHINE,
    RECORDS,
    SHAPE,
    TEXT,
    MachineChoice,
    OneModel,
    TokenizerChoice,
)


@dataclass(frozen=True, kw_only=True)
class Training(MachineChoice):
    """What pretraining and fine-tuning share."""

    shard: bool = knob(
        False, "Split a model too large for one device among the processes of torchrun.", panel=MACHINE
    )
    time: str | None = knob(
        None, "Stop at this time, everything included: 90s, 10m, 1h30m; by default 10m, and pairs by epochs.",
        "-t",
        panel=LENGTH, duration=True, metavar="TIME",
    )  # fmt: skip
    steps: int | None = knob(None, "Stop after so many updates.", least=1, most=10**9, panel=LENGTH)
    tokens: int | None = knob(None, "Stop after so many tokens.", least=1, most=10**13, panel=LENGTH)
    epochs: float | None = knob(
        None, "Stop after the data was seen so often.", least=0.001, most=1e6, panel=LENGTH
    )
    batch_size: int | None = knob(None, "Rows in one update.", least=1, most=65_536, panel=LEARNING)
    rows_at_once: int = knob(
        0,
        "Rows in one forward pass; less memory, the same update. 0 is all.",
        least=0,
        most=65_536,
        panel=LEARNING,
    )
    learning_rate: float | None = knob(
        None,
        "Peak rate of the matrices (Muon); the others follow.",
        "--lr",
        least=1e-7,
        most=1.0,
        panel=LEARNING,
    )
    weight_decay: float | None = knob(None, "Decay of the matrices.", least=0.0, most=10.0, panel=LEARNING)
    dropout: float | None = knob(
        None, "Share of each branch's output set to zero.", least=0.0, most=0.9, panel=LEARNING
    )
    averaging: float | None = knob(
        None,
        "Judge and publish a running mean of the weights, of which this much stays at an update; 0 is none.",
        least=0.0,
        most=0.99999,
        panel=LEARNING,
    )
    warmup: int = knob(20, "Updates until the peak rate.", least=0, most=10**6, panel=LEARNING)
    decay: float = knob(
        0.6, "Share of the run over which the rate falls to 0.", least=0.0, most=1.0, panel=LEARNING
    )
    clip: float = knob(1.0, "Longest gradient; 0 is no limit.", least=0.0, most=1e6, panel=LEARNING)
    seed: int = knob(
        0, "Decides weights and order of the data.", "-s", least=0, most=2**31 - 1, panel=LEARNING
    )
    validation: float = knob(
        HELD_OUT, "Share of the data to judge the model on.", least=0.0, most=0.5, panel=RECORDS
    )
    evaluations: int = knob(
        10, "Evaluations in the run, fewer if it is short.", least=1, most=10**6, panel=RECORDS
    )
    evaluate_every: int = knob(0, "Or evaluate every so many updates.", least=0, most=10**9, panel=RECORDS)
    save_every: int = knob(
        0, "Updates between checkpoints; 0 is with each evaluation, and every 10 minutes.",
        least=0, most=10**9, panel=RECORDS,
    )  # fmt: skip
    patience: int = knob(
        0,
        "End early after so many evaluations without a better one; 0 never does.",
        least=0,
        most=10**6,
        panel=LENGTH,
    )
    resume: bool = knob(False, "Go on from the newest checkpoint.")
    overwrite: bool = knob(False, "Replace the model that is there.")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Training, TokenizerChoice):
    """Train a GPT on raw text."""

    corpus: tuple[str, ...] = knob(
        (), "Text files, folders, or - for stdin.", argument=True, metavar="CORPUS"
    )
    size: str = knob(
        "auto", "How large the model is; auto goes by the time and the text.",
        choices=("auto", "nano", "micro", "tiny", "small", "base"), panel=SHAPE,
    )  # fmt: skip
    dry_run: bool = knob(False, "Say what the run would be and what to expect of it, and stop.", panel=LENGTH)
    compile: str = knob(
        "auto", "Compile the model: auto does where it saves more time than it takes.",
        choices=("auto", "on", "off"), panel=MACHINE,
    )  # fmt: skip
    layers: int | None = knob(None, "Blocks.", least=1, most=256, panel=SHAPE)
    width: int | None = knob(None, "Length of a token's vector.", least=8, most=16_384, panel=SHAPE)
    heads: int | None = knob(None, "Attention heads.", least=1, most=256, panel=SHAPE)
    kv_heads: int | None = knob(None, "Key-value heads, shared by the heads.", least=1, most=256, panel=SHAPE)
    context: int | None = knob(None, "Tokens the model looks back on.", least=8, most=1 << 20, panel=SHAPE)
    sample_prompt: str = knob(
        "", "What the samples during training begin with.", panel=RECORDS, metavar="TEXT"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Training, OneModel):
    """Teach a pretrained model labelled pairs."""

    pairs: tuple[str, ...] = knob(
        (), "Files of labelled pairs, or - for stdin.", argument=True, metavar="PAIRS"
    )
    output: Path = knob(REQUIRED, "Where the fine-tuned model goes.", "-o", metavar="DIR")
    task: str = knob(
        "auto", "What the completions are: free answers, or labels; by default told by the pairs.",
        choices=("auto", "answer", "label"), panel=TEXT,
    )  # fmt: skip
    prompt_key: str | None = knob(None, "Field or column of the prompt.", panel=TEXT, metavar="NAME")
    completion_key: str | None = knob(None, "Field or column of the answer.", panel=TEXT, metavar="NAME")
    encoding: str | None = knob(None, "Encoding of the pairs, if not UTF-8.", panel=TEXT)
    weight: tuple[str, ...] = knob(
        (), "Show the pairs of a file more or less often: 'extra.jsonl=0.5' (may be given several times).",
        panel=TEXT, metavar="FILE=NUMBER",
    )  # fmt: skip
    validation_pairs: str | None = knob(
        None,
        "Judge the model on the pairs of this file, and learn from all others.",
        panel=RECORDS,
        metavar="FILE",
    )
    balance: bool = knob(
        False, "Show every label equally often, however rare it is in the pairs.", panel=LEARNING
    )
    continue_pretraining: tuple[str, ...] = knob(
        (),
        "Let the model read this raw text first (may be given several times).",
        panel=LENGTH,
        metavar="FILE",
    )
    text_share: float = knob(
        0.5, "Share of --time, --steps and --tokens that raw text gets.", least=0.01, most=0.99, panel=LENGTH
    )
    text_epochs: float = knob(2.0, "Read raw text at most so often.", least=0.001, most=1e6, panel=LENGTH)
    text_learning_rate: float = knob(
        0.01, "Peak rate while raw text is read.", least=1e-7, most=1.0, panel=LEARNING
    )
    label_smoothing: float | None = knob(
        None,
        "Share of each label's target that is spread over all labels.",
        least=0.0,
        most=0.9,
        panel=LEARNING,
    )
    prompt_dropout: float | None = knob(
        None,
        "Share of a prompt's tokens that are hidden, others each time.",
        least=0.0,
        most=0.9,
        panel=LEARNING,
    )
    prompt_splits: float | None = knob(
        None,
        "Share of a prompt's tokens that are parted into smaller ones, others each time.",
        least=0.0,
        most=0.9,
        panel=LEARNING,
    )
    prompt_mix: float | None = knob(
        None,
        "Share of prompts that are put together from parts of others and labelled by a quick learner of n-grams.",
        least=0.0,
        most=0.95,
        panel=LEARNING,
    )
    lora: int = knob(
        0, "Teach low-rank updates of this rank and leave the model's own weights as they are; 0 teaches all.",
        least=0, most=1024, panel=LEARNING, metavar="RANK",
    )  # fmt: skip
    adapter: bool = knob(
        False, "Keep what --lora taught as an adapter beside the model, not merged into it.", panel=LEARNING
    )
    patience: int = knob(
        4,
        "End early after so many evaluations without a better one; 0 never does.",
        least=0,
        most=10**6,
        panel=LENGTH,
    )
    memory: str = knob(
        "auto", "Keep the pairs in the model's folder, for generate --recall: auto does where it clearly helps.",
        choices=("auto", "on", "off"), panel=RECORDS,
    )  # fmt: skip
    show_example: bool = knob(False, "Show how a pair is read, as tokens, and stop.")
