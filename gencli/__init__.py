"""Train a small GPT on your own text and get text out of it.

Importing this package loads nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gencli.api import Model, classify, generate, open_model
    from gencli.errors import GencliError
    from gencli.model.gpt import GPT
    from gencli.model.shape import Shape
    from gencli.text.tokenizer import Tokenizer

_HOMES = {
    "GPT": "gencli.model.gpt",
    "GencliError": "gencli.errors",
    "Model": "gencli.api",
    "Shape": "gencli.model.shape",
    "Tokenizer": "gencli.text.tokenizer",
    "classify": "gencli.api",
    "generate": "gencli.api",
    "open_model": "gencli.api",
}

__all__ = ["GPT", "GencliError", "Model", "Shape", "Tokenizer", "classify", "generate", "open_model"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
