"""The knobs of all other commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gencli.knobs import Common, knob
from gencli.settings.common import HELD_OUT, MACHINE, TEXT, MachineChoice, OneModel, Reading, TokenizerChoice


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
class EvaluateSettings(Reading, MachineChoice):
    """Score texts and pairs."""

    files: tuple[str, ...] = knob(
        (), "Texts, or labelled pairs for a fine-tuned model.", argument=True, metavar="FILE"
    )
    against: tuple[str, ...] = knob(
        (), "Another model to compare with on the same files (may be given several times).", metavar="DIR"
    )
    errors: Path | None = knob(None, "Write the pairs that were answered wrong to a file.", metavar="FILE")
    calibrate: bool = knob(
        False, "Fit the confidence of the model to these pairs, which it must not have learned, and keep it."
    )
    recall: bool = knob(False, "Judge what generate --recall would say, of the model and not of --against.")
    pairs: bool | None = knob(None, "Read the files as pairs, or as text; by default told by the files.")
    prompt_key: str | None = knob(None, "Field or column of the prompt.", panel=TEXT, metavar="NAME")
    completion_key: str | None = knob(None, "Field or column of the answer.", panel=TEXT, metavar="NAME")
    batch_size: int = knob(16, "Rows at once.", least=1, most=65_536, panel=MACHINE)
    precision: str = knob(
        "float32", "Arithmetic of matrix products; int8 scores what the engine cpu writes with such weights.",
        choices=("auto", "float32", "bfloat16", "int8"), panel=MACHINE,
    )  # fmt: skip


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
class ExportSettings(OneModel):
    """Make a model's file for other programs."""

    to: str = knob(
        "gguf", "gguf is for llama.cpp. Hugging Face's libraries need no export: they open the model's folder.",
        choices=("gguf",),
    )  # fmt: skip
    precision: str = knob(
        "float32", "How matrices are stored: in 32, 16 or about 8 bits a number.",
        choices=("float32", "float16", "q8_0"),
    )  # fmt: skip
    output: Path | None = knob(
        None, "The file; by default beside the model's folder, with its name.", "-o", metavar="FILE"
    )
    overwrite: bool = knob(False, "Replace the GGUF file that is there.")


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
