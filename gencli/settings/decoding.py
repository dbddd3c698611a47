"""The knobs of the commands that write text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.errors import UsageError
from gencli.knobs import knob
from gencli.settings.common import MACHINE, SAMPLING, OneModel

_RECALL = "Also look up the pair with the most similar prompt, and say its answer where that is surer."


@dataclass(frozen=True, kw_only=True)
class SamplingChoice:
    """How the next token is chosen."""

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


@dataclass(frozen=True, kw_only=True)
class WritingChoice(SamplingChoice):
    """What a text is made of and where it ends."""

    max_new_tokens: int = knob(200, "Most tokens to write.", "-n", "--max-tokens", least=1, most=10**7)
    min_new_tokens: int = knob(0, "The text does not end before so many tokens.", least=0, most=10**7)
    stop: tuple[str, ...] = knob((), "End before this string (may be given several times).", metavar="TEXT")
    regex: str | None = knob(
        None, "The text written matches this regular expression from beginning to end.", metavar="PATTERN"
    )
    json_schema: str | None = knob(
        None, "The text written is JSON that this JSON Schema allows: a file, or the schema itself.",
        metavar="FILE",
    )  # fmt: skip
    keep: int = knob(
        1, "When a text outgrows the context, its first so many tokens stay, and the recent half.",
        least=0, most=10**7, metavar="TOKENS",
    )  # fmt: skip

    def check(self) -> None:
        """Raise UsageError for settings that make no sense together."""
        if self.regex is not None and self.json_schema is not None:
            raise UsageError("--regex and --json-schema can't both be given", hint="leave one of them out")
        if self.min_new_tokens > self.max_new_tokens:
            raise UsageError(
                "--min-new-tokens is above --max-new-tokens", hint="lower the one or raise the other"
            )


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What computes, and where."""

    engine: str = knob(
        "auto", "auto is cpu unless there is a GPU.", choices=("auto", "cpu", "torch"), panel=MACHINE
    )
    device: str = knob("auto", "auto, cpu, cuda or cuda:N.", panel=MACHINE)
    precision: str = knob(
        "auto", "Weights of the engine cpu; int8 is faster and less exact, auto is float32.",
        choices=("auto", "float32", "int8"), panel=MACHINE,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Abstaining:
    """When a model says that it does not know."""

    abstain: float | None = knob(
        None, 'Say "unknown" where the confidence is below this.', least=0.0, most=1.0, metavar="CONFIDENCE"
    )


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(Abstaining, EngineChoice, OneModel):
    """Label texts."""

    texts: tuple[str, ...] = knob(
        (), "Texts to label; - or nothing reads stdin, one a line.", argument=True, metavar="TEXT"
    )
    input: Path | None = knob(
        None, "Many texts, one a line, or JSON lines; - is stdin.", "-i", metavar="FILE"
    )
    text_field: str = knob("text", "Which field of a .jsonl line is the text.", metavar="NAME")
    labels: str | None = knob(
        None, "The labels to choose from, with commas between; by default those the model was taught.",
        metavar="LABEL,LABEL",
    )  # fmt: skip
    all: bool = knob(False, "Give every label's probability, the likeliest first.")
    batch_size: int = knob(32, "Texts labelled together.", least=1, most=65_536, panel=MACHINE)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Abstaining, WritingChoice, EngineChoice, OneModel):
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
    num_samples: int = knob(1, "How many texts to write.", least=1, most=4096)
    recall: bool = knob(False, _RECALL)
    raw: bool = knob(False, "For a fine-tuned model: give it the prompt as it is, without turns.")
    echo: bool | None = knob(
        None, "Print the prompt before the text; by default where the text continues it."
    )
    show_confidence: bool = knob(
        False, "Colour the tokens that the model was unsure of, and tell how sure it is of the whole text."
    )
    logprobs: int | None = knob(
        None, "In JSON: each token's log-probability, and those of so many alternatives.",
        least=0, most=1000,
    )  # fmt: skip
    batch_size: int = knob(32, "With --input: texts written together.", least=1, most=65_536, panel=MACHINE)


@dataclass(frozen=True, kw_only=True)
class ChatSettings(WritingChoice, EngineChoice, OneModel):
    """Talk with a model."""

    system: str | None = knob(
        None, "What a fine-tuned model is told before the first question.", metavar="TEXT"
    )
    load: Path | None = knob(None, "Go on with a chat that was saved.", metavar="FILE")
    remember: int | None = knob(
        None, "Earlier turns that the model reads with a question; by default all that fit.",
        least=0, most=10**6, metavar="TURNS",
    )  # fmt: skip
    recall: bool = knob(False, _RECALL)
    history: bool | None = knob(
        None, "Keep what you type for the arrow keys, in the cache folder; by default on a terminal."
    )


@dataclass(frozen=True, kw_only=True)
class BenchSettings(EngineChoice, OneModel):
    """Measure how fast this machine is with a model."""

    time: str = knob(
        "8s", "How long to measure, loading and compiling excepted.", "-t", duration=True, metavar="TIME"
    )
    precision: str = knob(
        "auto", "Weights of the engine cpu; auto is both, one after the other.",
        choices=("auto", "float32", "int8"), panel=MACHINE,
    )  # fmt: skip
    batch_size: int = knob(8, "How many texts are written together.", least=1, most=4096, panel=MACHINE)
