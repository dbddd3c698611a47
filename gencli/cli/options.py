"""Turns a settings class into the options of a command, so that no option is ever declared twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from gencli.errors import ClosedPipeError, GencliError
from gencli.knobs import REQUIRED, Common, Knob, Settings, flag_of, knobs_of, resolve

Saved = Callable[[dict[str, object]], dict[str, object]]
Within = Callable[[dict[str, object]], AbstractContextManager[dict[str, object]]]


def command(
    app: typer.Typer,
    settings: type[Settings],
    *,
    example: str,
    saved: Saved | None = None,
    within: Within = nullcontext,
) -> Callable[[Callable[[Settings], None]], Callable[[Settings], None]]:
    """Register a function of resolved settings as the command of its name.

    `saved` may return settings of an earlier run; they rank between the defaults and the config file.
    `within` opens the block in which the command runs, and gives the flags that hold in it.
    """

    def register(function: Callable[[Settings], None]) -> Callable[[Settings], None]:
        def run(**typed: Any) -> None:
            given = {knob: _plain(value) for knob, value in typed.items() if value not in (None, [], ())}
            try:
                with within(given) as flags:
                    earlier = saved(flags) if saved is not None else {}
                    function(resolve(settings, flags, earlier))
            except BrokenPipeError:
                raise ClosedPipeError("") from None
            except GencliError as error:
                if not (error.where or error.hint):
                    error.hint = f"gencli {name} --help"
                raise

        name = function.__name__
        run.__signature__ = _signature(settings)  # type: ignore[attr-defined]
        run.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nExample:\n{_indented(example)}"
        app.command(name=name, cls=_Grouped)(run)
        return function

    return register


class _Grouped(TyperCommand):
    """A command whose many options are shown in groups."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **{**more, "rich_markup_mode": "rich"})


def _indented(example: str) -> str:
    return "\n".join("  " + line for line in example.splitlines())


def _signature(settings: type[Common]) -> inspect.Signature:
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Optional[_typer_type(kind)], _info(name, kind, description, default)],  # noqa: UP045
        )
        for name, (kind, description, default) in knobs_of(settings).items()
    ]
    parameters.sort(key=lambda p: not isinstance(p.annotation.__metadata__[0], typer.models.ArgumentInfo))
    return inspect.Signature(parameters)


def _typer_type(kind: type) -> Any:
    return list[str] if kind is tuple else kind


def _info(name: str, kind: type, description: Knob, default: object) -> Any:
    text = description.help + _details(description, default)
    if description.argument:
        return typer.Argument(help=text, metavar=description.metavar or name.upper(), show_default=False)
    flags = [*description.flags, flag_of(name)]
    if kind is bool:
        on = flag_of(name)
        flags = [*description.flags, f"{on}/--no-{on[2:]}" if default is None else on]
    return typer.Option(
        *flags,
        help=text,
        metavar=description.metavar or None,
        show_default=False,
        rich_help_panel=description.panel or None,
        envvar=description.environment or None,
        readable=False,  # the command itself tells why it can't read a path
    )


def _details(description: Knob, default: object) -> str:
    """Return what follows the help: the choices, and the default if there is one to speak of."""
    text = f" One of: {', '.join(description.choices)}." if description.choices else ""
    unspoken = default is None or default is False or default in ((), "") or default is REQUIRED
    return text if unspoken else f"{text} [default: {default}]"


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else Path(value) if isinstance(value, Path) else value
