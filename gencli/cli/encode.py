"""gencli encode and decode: text to ids and back, in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.cli.pipes import is_piped, piped_text
from gencli.errors import InputError, UsageError
from gencli.settings.tools import DecodeSettings, EncodeSettings

if TYPE_CHECKING:
    from pathlib import Path

    from gencli.text.tokenizer import Tokenizer


@command(
    app,
    EncodeSettings,
    example='gencli encode -m models/tale "나는 학교에 간다"\ngencli encode -m models/tale < text.txt > ids.txt',
)
def encode(settings: EncodeSettings) -> None:
    """Turn text into token ids."""
    from gencli.ui import emit, write

    tokenizer = _tokenizer(settings.model)
    ids = tokenizer.encode(_text(settings.text))
    if settings.json:
        emit({"event": "tokens", "ids": ids, "pieces": [tokenizer.piece(number) for number in ids]})
    elif settings.pieces:
        write(" ".join(tokenizer.piece(number).replace("\n", "\\n") for number in ids) + "\n")
    else:
        write(" ".join(map(str, ids)) + "\n")


@command(
    app,
    DecodeSettings,
    example="gencli decode -m models/tale 312 87 5\n"
    "gencli encode -m models/tale < a.txt | gencli decode -m models/tale",
)
def decode(settings: DecodeSettings) -> None:
    """Turn token ids into the text they stand for."""
    from gencli.ui import emit, write

    tokenizer = _tokenizer(settings.model)
    words = settings.ids or tuple(_stdin("ids").split())
    try:
        ids = [int(word) for word in words]
    except ValueError as error:
        raise InputError(f"token ids are whole numbers: {error}") from error
    text = tokenizer.decode(ids)
    if settings.json:
        emit({"event": "text", "text": text})
    else:
        write(text)


def _tokenizer(model: Path) -> Tokenizer:
    from gencli.cli.places import cache_folder
    from gencli.model.folder import TOKENIZER
    from gencli.text.tokenizer import Tokenizer

    return Tokenizer.open(model / TOKENIZER, cache_folder())


def _text(argument: str | None) -> str:
    if argument is not None and argument != "-":
        return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _stdin("text")


def _stdin(what: str) -> str:
    if not is_piped():
        raise UsageError(f"no {what} given", hint="as an argument, or through a pipe")
    return piped_text(f"the {what}")
