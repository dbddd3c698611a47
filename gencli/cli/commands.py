"""Where the commands are: the module of each, which registers it when it is imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from gencli.cli.app import app

# in the order in which help lists them
_MODULES = {
    "tokenize": "tokenize", "pretrain": "pretrain", "finetune": "finetune", "align": "align",
    "generate": "generate", "chat": "chat", "classify": "classify", "evaluate": "evaluate",
    "encode": "encode", "decode": "encode", "inspect": "inspect", "export": "export",
    "bench": "bench", "verify": "verify", "demo": "demo",
}  # fmt: skip


def load(words: Sequence[str]) -> None:
    """Register the command that the words of a command line begin with; all of them, if they begin with none.

    Reading all takes as long as a small model takes for some hundred tokens.
    """
    called = _MODULES.get(words[0]) if words else None
    for module in dict.fromkeys(_MODULES.values()) if called is None else (called,):
        import_module(f"gencli.cli.{module}")
    ranks = {name: rank for rank, name in enumerate(_MODULES)}
    app.registered_commands.sort(key=lambda command: ranks.get(command.name or "", len(ranks)))
