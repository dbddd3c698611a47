"""The table of all options, made from the settings; `python -m tests.options_table` writes it into the README."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from gencli.cli.app import app
from gencli.cli.commands import load
from gencli.knobs import REQUIRED, Common, Knob, flag_of, knobs_of

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- options -->", "<!-- /options -->"


def commands() -> dict[str, type[Common]]:
    """Return the settings class of each command, in the order of the help."""
    load([])
    classes = {
        name.removesuffix("Settings").lower(): found
        for module in ("alignment", "decoding", "tools", "training")
        for name, found in vars(import_module(f"gencli.settings.{module}")).items()
        if name.endswith("Settings")
    }
    return {name: classes[name] for name in (str(command.name) for command in app.registered_commands)}


def options_table() -> str:
    """Return a row for each option with its default and the commands that know it."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for command, settings in commands().items():
        for name, (_, knob, default) in knobs_of(settings).items():
            if not knob.argument:
                rows.setdefault((_flags(name, knob), _default(default), knob.help), []).append(command)
    every = len(commands())
    lines = ["| option | default | | commands |", "|---|---|---|---|"]
    for (flags, default, help_), users in rows.items():
        lines.append(
            f"| {flags} | {default} | {help_} | {'all' if len(users) == every else ', '.join(users)} |"
        )
    return "\n".join(lines)


def _flags(name: str, knob: Knob) -> str:
    return ", ".join(f"`{flag}`" for flag in (*knob.flags, flag_of(name)))


def _default(default: object) -> str:
    if default is REQUIRED:
        return "needed"
    return "" if (default in (None, False, (), "") and default != 0.0) or default is False else f"`{default}`"


def with_table(text: str) -> str:
    """Return the README's text with the table as it should be."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{options_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
