"""The commands inside of a chat: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gencli.errors import UsageError
from gencli.knobs import nearest

if TYPE_CHECKING:
    from gencli.cli.chat import Talk

SLASH = "/"


def obeyed(talk: Talk, turn: str) -> str | None:
    """Do what a turn commands; return the question that is left to be answered, None to leave the chat.

    Two slashes are one at the beginning of a question. Raises UsageError for a command that there isn't,
    and whatever a command raises.
    """
    if not turn.startswith(SLASH):
        return turn
    if turn.startswith(SLASH * 2):
        return turn.removeprefix(SLASH)
    name, _, rest = turn.partition(" ")
    if name == "/quit":
        return None
    if name not in _COMMANDS:
        raise UsageError(
            f"there is no command {name!r}{nearest(name, [*_COMMANDS, '/quit'])}",
            hint="/help lists them; a question that begins with a slash is typed with two",
        )
    _COMMANDS[name][2](talk, rest.strip())
    return ""


def load_chat(talk: Talk, path: Path) -> None:
    """Put the chat in a file in the place of the present one."""
    from gencli.decoding.conversation import exchanges_of

    turns, notes = talk.files.load(path)
    system, exchanges = exchanges_of(turns)
    talk.conversation.system = system
    talk.conversation.clear(exchanges)
    for note in notes:
        talk.screen.note(note)
    talk.screen.note(f"loaded: {_turns(len(exchanges))}{' and a system text' if system else ''}", "dim")


def _load(talk: Talk, name: str) -> None:
    load_chat(talk, _path(name, "/load"))


def _save(talk: Talk, name: str) -> None:
    path = _path(name, "/save")
    if not talk.conversation.exchanges:
        raise UsageError("nothing was said yet that could be saved", hint="ask something first")
    talk.files.save(path, talk.conversation.turns)
    talk.screen.note(f"saved: {_turns(len(talk.conversation.exchanges))} in {path}", "dim")


def _reset(talk: Talk, _: str) -> None:
    talk.conversation.clear()
    kept = "; the system text stays" if talk.conversation.system else ""
    talk.screen.note(f"all turns are forgotten{kept}", "dim")


def _system(talk: Talk, text: str) -> None:
    conversation = talk.conversation
    if text:
        conversation.system = "" if text in ('""', "''") else text
    talk.screen.note(
        f"system text: {conversation.system}" if conversation.system else "there is no system text", "dim"
    )


def _help(talk: Talk, _: str) -> None:
    told = {f"{name} {argument}": does for name, (argument, does, _) in _COMMANDS.items()}
    told["/quit"] = "leave; so does Ctrl-D"
    width = max(map(len, told)) + 2
    for command, does in told.items():
        talk.screen.note(f"{command:{width}}{does}")
    talk.screen.note('A line that ends with \\ goes on in the next one; so do all between """ and """.')
    talk.screen.note("Ctrl-C stops an answer.")


_COMMANDS: dict[str, tuple[str, str, Callable[[Talk, str], None]]] = {
    "/reset": ("", "forget all turns", _reset),
    "/save": ("FILE", "write the chat as JSON messages, as finetune reads them", _save),
    "/load": ("FILE", "go on with a saved chat", _load),
    "/system": (
        "TEXT",
        'what the model is told before all else; without a text show it, with "" drop it',
        _system,
    ),
    "/help": ("", "show this", _help),
}


def _path(name: str, command: str) -> Path:
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    if not name or "\0" in name:
        raise UsageError(f"{command} needs the name of a file", hint=f"{command} chat.json")
    return Path(name).expanduser()


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count:,} turns"
