"""What several commands share."""

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
class MachineChoice:
    """Where to compute."""

    device: str = knob("auto", "auto, cpu, cuda or cuda:N.", panel=MACHINE)
    precision: str = knob(
        "auto", "Arithmetic of matrix products.", choices=("auto", "float32", "bfloat16"), panel=MACHINE
    )
    threads: int = knob(0, "CPU threads; 0 is one per core.", least=0, most=1024, panel=MACHINE)
