"""Every knob of every command, once: its type, default, range and help.

The options of the command line, the keys of a `--config` file, the settings kept with a model and the
table in the README are all derived from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.knobs import REQUIRED, Common, knob

LENGTH, SHAPE, LEARNING, RECORDS, TEXT, SAMPLING, MACHINE = (
    "How long", "Shape of the model", "How it learns", "Evaluating and saving", "Text", "Sampling", "Machine",
)  # fmt: skip
HELD_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class OneModel(Common):
    """A command about one model folder."""

    model: Path = knob(REQUIRED, "The model's folder.", "-m", metavar="DIR", environment="GENCLI_MODEL")


@dataclass(frozen=True, kw_only=True)
class Reading(OneModel):
    """A command that reads text files."""

    encoding: str | None = knob(None, "Encoding of the text, if not UTF-8 (cp949, utf-16, ...).", panel=TEXT)
    text_field: str = knob("text", "Which field of a .jsonl line is the text.", panel=TEXT, metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class TokenizerChoice(Reading):
    """How a tokenizer is trained."""

    vocab_size: int | None = knob(
        None, "Pieces in the vocabulary; by default chosen from the size of the text.",
        least=320, most=131_072, panel=TEXT,
    )  # fmt: skip
    kind: str = knob("bpe", "How pieces are found.", choices=("bpe", "unigram", "char"), panel=TEXT)
    character_coverage: float = knob(
        0.9995, "Share of the text's characters that get a piece; the rest is spelt in bytes.",
        least=0.9, most=1.0, panel=TEXT,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenizeSettings(TokenizerChoice):
    """Train a tokenizer."""

    corpus: tuple[str, ...] = knob(
        (), "Text files, folders, or - for stdin.", argument=True, metavar="CORPUS"
    )
    validation: float = knob(
        HELD_OUT, "Share of each text's end that is not learned from, to judge a model on.",
        least=0.0, most=0.5, panel=TEXT,
    )  # fmt: skip
    overwrite: bool = knob(False, "Replace the tokenizer that is there.")


@dataclass(frozen=True, kw_only=True)
class MachineChoice:
    """Where to compute."""

    device: str = knob("auto", "auto, cpu, cuda or cuda:N.", panel=MACHINE)
    precision: str = knob(
        "auto", "Arithmetic of matrix products.", choices=("auto", "float32", "bfloat16"), panel=MACHINE
    )
    threads: int = knob(0, "CPU threads; 0 is one per core.", least=0, most=1024, panel=MACHINE)


@dataclass(frozen=True, kw_only=True)
class Training(MachineChoice):
    """What pretraining and fine-tuning share."""

    shard: bool = knob(
        False, "Split a model too large for one device among the processes of torchrun.", panel=MACHINE
    )
    time: str | None = knob(
        None, "Stop at this time, everything included: 90s, 10m, 1h30m. Without any limit: 10m, or 4 epochs of pairs.",
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
    prompt_key: str | None = knob(None, "Field or column of the prompt.", panel=TEXT, metavar="NAME")
    completion_key: str | None = knob(None, "Field or column of the answer.", panel=TEXT, metavar="NAME")
    encoding: str | None = knob(None, "Encoding of the pairs, if not UTF-8.", panel=TEXT)
    learning_rate: float = knob(
        0.004,
        "Peak rate of the matrices (Muon); the others follow.",
        "--lr",
        least=1e-7,
        most=1.0,
        panel=LEARNING,
    )
    weight_decay: float = knob(0.0, "Decay of the matrices.", least=0.0, most=10.0, panel=LEARNING)
    dropout: float = knob(
        0.0, "Share of each branch's output set to zero.", least=0.0, most=0.9, panel=LEARNING
    )


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(OneModel):
    """Write text."""

    prompt: str | None = knob(None, "What the text begins with; - or nothing reads stdin.", argument=True)
    prompt_file: Path | None = knob(None, "Read the prompt from a file.", "-f", metavar="FILE")
    input: Path | None = knob(
        None, "Many prompts, one a line, or JSON lines with a prompt; - is stdin. Rows of JSON come out.",
        "-i", metavar="FILE",
    )  # fmt: skip
    output: Path | None = knob(
        None, "With --input: write the rows to a file, and go on where it ends.", "-o", metavar="FILE"
    )
    unordered: bool = knob(False, "With --input: write each row as soon as it is ready.")
    choices: str | None = knob(
        None,
        "Only one of these texts is the answer, with commas between; filters don't matter.",
        metavar="TEXT,TEXT",
    )
    beams: int = knob(
        1, "Above 1: don't draw, but search with so many texts side by side for the likeliest.",
        least=1, most=1024,
    )  # fmt: skip
    length_penalty: float = knob(
        1.0, "With --beams: a text's log-probability is divided by its length to this power.",
        least=-10.0, most=10.0,
    )  # fmt: skip
    max_new_tokens: int = knob(200, "Most tokens to write.", "-n", "--max-tokens", least=1, most=10**7)
    min_new_tokens: int = knob(0, "The text does not end before so many tokens.", least=0, most=10**7)
    num_samples: int = knob(1, "How many texts to write.", least=1, most=4096)
    stop: tuple[str, ...] = knob((), "End before this string (may be given several times).", metavar="TEXT")
    raw: bool = knob(False, "For a fine-tuned model: give it the prompt as it is, without turns.")
    echo: bool | None = knob(
        None, "Print the prompt before the text; by default where the text continues it."
    )
    logprobs: int | None = knob(
        None, "In JSON: each token's log-probability, and those of so many alternatives.",
        least=0, most=1000,
    )  # fmt: skip
    temperature: float = knob(
        0.8, "0 always takes the likeliest token.", "-t", least=0.0, most=100.0, panel=SAMPLING
    )
    top_k: int = knob(50, "Keep the k likeliest tokens; 0 keeps all.", least=0, most=10**7, panel=SAMPLING)
    top_p: float = knob(
        1.0, "Keep the likeliest tokens that make up this probability.", least=1e-6, most=1.0, panel=SAMPLING
    )
    min_p: float = knob(
        0.0,
        "Keep tokens at least this likely, relative to the likeliest.",
        least=0.0,
        most=1.0,
        panel=SAMPLING,
    )
    typical_p: float = knob(
        1.0, "Keep the tokens nearest to the expected information that make up this probability.",
        least=1e-6, most=1.0, panel=SAMPLING,
    )  # fmt: skip
    repetition_penalty: float = knob(
        1.0, "Above 1: tokens that occurred are less likely.", least=0.01, most=100.0, panel=SAMPLING
    )
    presence_penalty: float = knob(
        0.0, "Taken off the logit of every token that occurred.", least=-100.0, most=100.0, panel=SAMPLING
    )
    frequency_penalty: float = knob(
        0.0, "Taken off a token's logit for each time that it occurred.",
        least=-100.0, most=100.0, panel=SAMPLING,
    )  # fmt: skip
    penalty_window: int = knob(
        0, "The penalties look at so many of the last tokens, prompt included; 0 is all.",
        least=0, most=10**7, panel=SAMPLING,
    )  # fmt: skip
    no_repeat_ngram: int = knob(
        0, "No run of so many tokens comes twice, prompt included; 0 lets them.",
        least=0, most=10_000, panel=SAMPLING,
    )  # fmt: skip
    logit_bias: tuple[str, ...] = knob(
        (), "Make a text more or less likely, from -100 to 100: 'text=-2.5' (may be given several times).",
        panel=SAMPLING, metavar="TEXT=NUMBER",
    )  # fmt: skip
    ban: tuple[str, ...] = knob(
        (), "Never write this text, in whatever pieces (may be given several times).",
        panel=SAMPLING, metavar="TEXT",
    )  # fmt: skip
    seed: int | None = knob(
        None,
        "Same seed, same text; drawn and told if not given.",
        "-s",
        least=0,
        most=2**63 - 1,
        panel=SAMPLING,
    )
    engine: str = knob(
        "auto", "auto is cpu unless there is a GPU.", choices=("auto", "cpu", "torch"), panel=MACHINE
    )
    device: str = knob("auto", "auto, cpu, cuda or cuda:N.", panel=MACHINE)
    precision: str = knob(
        "auto", "Weights of the engine cpu; int8 is faster and less exact, auto is float32.",
        choices=("auto", "float32", "int8"), panel=MACHINE,
    )  # fmt: skip
    batch_size: int = knob(32, "With --input: texts written together.", least=1, most=65_536, panel=MACHINE)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Reading, MachineChoice):
    """Score texts and pairs."""

    files: tuple[str, ...] = knob(
        (), "Texts, or labelled pairs for a fine-tuned model.", argument=True, metavar="FILE"
    )
    pairs: bool | None = knob(None, "Read the files as pairs, or as text; by default told by the files.")
    prompt_key: str | None = knob(None, "Field or column of the prompt.", panel=TEXT, metavar="NAME")
    completion_key: str | None = knob(None, "Field or column of the answer.", panel=TEXT, metavar="NAME")
    batch_size: int = knob(16, "Rows at once.", least=1, most=65_536, panel=MACHINE)
    precision: str = knob(
        "float32", "Arithmetic of matrix products.", choices=("auto", "float32", "bfloat16"), panel=MACHINE
    )


@dataclass(frozen=True, kw_only=True)
class EncodeSettings(OneModel):
    """Turn text into ids."""

    text: str | None = knob(None, "The text; without it, stdin.", argument=True)
    pieces: bool = knob(False, "Show the pieces instead of their ids.")


@dataclass(frozen=True, kw_only=True)
class DecodeSettings(OneModel):
    """Turn ids into text."""

    ids: tuple[str, ...] = knob((), "Token ids; without them, stdin.", argument=True, metavar="ID")


@dataclass(frozen=True, kw_only=True)
class InspectSettings(OneModel):
    """Show what is in a model folder."""


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Common):
    """Check that models and checkpoints are what was written."""

    models: tuple[str, ...] = knob((), "Model folders.", argument=True, metavar="MODEL")
    model: Path | None = knob(None, "Or one by its flag.", "-m", metavar="DIR", environment="GENCLI_MODEL")
    resume_exact: int = knob(
        0, "Make so many steps between the two newest checkpoints again and compare them.", least=0, most=10**9,
        metavar="STEPS",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Common):
    """Show the whole way on an embedded corpus."""

    output: Path = knob(Path("models/demo"), "Where the demo's files and models go.", "-o", metavar="DIR")
    quick: bool = knob(False, "The smallest size: proves that all works, learns little.")
    seed: int = knob(0, "Decides corpus, weights and samples.", "-s", least=0, most=2**31 - 1)
