"""gencli export: a model as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import UsageError
from gencli.settings.tools import ExportSettings

if TYPE_CHECKING:
    from gencli.model.folder import ModelFolder
    from gencli.model.gguf_file import GgufPrecision


@command(
    app,
    ExportSettings,
    example="gencli export -m models/tale --to gguf\n"
    "gencli export -m models/tale --to gguf --precision q8_0 -o tale.gguf",
)
def export(settings: ExportSettings) -> None:
    """Make a GGUF file of a model, for llama.cpp.

    The model's folder itself is a Hugging Face folder: transformers opens it as it is.
    """
    from gencli.cli.places import cache_folder
    from gencli.cli.session import Signals
    from gencli.model.folder import open_model
    from gencli.model.gguf_file import check_place, write_gguf
    from gencli.ui import Screen, emit, write

    screen = Screen(quiet=settings.quiet)
    path = _place(settings)
    check_place(path, overwrite=settings.overwrite)
    folder = open_model(settings.model, cache_folder())
    total = 4 * folder.shape.parameters
    with Signals().watched() as signals, screen.counted("exporting", total) as count:

        def progress(read: int) -> None:
            signals.check()
            count(read)

        nbytes = write_gguf(
            folder, path, precision=cast("GgufPrecision", settings.precision), overwrite=settings.overwrite,
            progress=progress,
        )  # fmt: skip
    for note in _notes(folder, settings.precision):
        screen.note(note)
    screen.note(f"{nbytes / 1e6:,.1f} MB; for example: llama-cli -m {path}")
    if settings.json:
        emit(
            {
                "event": "export", "model": str(settings.model), "file": str(path), "format": settings.to,
                "precision": settings.precision, "bytes": nbytes, "parameters": folder.shape.parameters,
            }
        )  # fmt: skip
    else:
        write(f"{path}\n")


def _place(settings: ExportSettings) -> Path:
    """Return the file to write: the one that was asked for, or one beside the model's folder."""
    if settings.output is None:
        model = settings.model if settings.model.name not in ("", "..") else settings.model.resolve()
        return model.with_name(f"{model.name}-{settings.precision}.gguf")
    if str(settings.output) == "-":
        raise UsageError("a GGUF file can't be written to stdout", hint="name a file: -o tale.gguf")
    return settings.output


def _notes(folder: ModelFolder, precision: str) -> list[str]:
    """Return where llama.cpp will not do what gencli does."""
    from gencli.model.gguf_file import uneven

    notes = []
    if folder.tokenizer.kind == "unigram":
        notes.append(
            "llama.cpp spells nothing in bytes with a unigram tokenizer: to it, a character without a piece is <unk>"
        )
    if precision == "q8_0" and uneven(folder.shape):
        notes.append("matrices whose rows are no multiple of 32 numbers are stored as float16")
    return notes
