"""The command line: its commands, and the one place where an error becomes lines and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

import gencli
from gencli.errors import ClosedPipeError, GencliError, MachineError, is_memory_full

app = typer.Typer(
    name="gencli",
    help="Train a small GPT on your own text, and get text out of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the list of commands is plain, and there at once
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=True,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gencli {gencli.__version__}")
        raise typer.Exit


@app.callback(epilog="gencli demo shows the whole way in two minutes.")
def gencli_(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train a small GPT on your own text, and get text out of it.

    text → tokenize → pretrain → finetune → generate
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code. Errors become lines on stderr, never a traceback."""
    from gencli.cli.commands import load
    from gencli.ui import Screen

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        load(words)
        result = app(words, standalone_mode=False, prog_name="gencli")
    except ClosedPipeError as error:
        # Keep the interpreter from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.exit_code
    except GencliError as error:
        Screen().error(error.lines())
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            return _shown_by_typer(error)
        Screen().error(refusal.lines())
        return refusal.exit_code
    return result if isinstance(result, int) else 0


def _refusal(error: Exception) -> MachineError | None:
    """Return what to tell if it was the machine that refused; None for an error of any other kind."""
    if is_memory_full(error):
        return MachineError(
            "the machine's memory is full", hint="a smaller --batch-size, --context or --size"
        )
    if isinstance(error, OSError):  # one that no command foresaw: whatever touches a path may be refused
        return MachineError(
            (error.strerror or str(error)).lower(),
            where=str(error.filename or ""),
            hint="check the path and the disk",
        )
    return None


def _shown_by_typer(error: Exception) -> int:
    """Show a usage error as Typer words it; anything else is a bug and keeps its traceback.

    All processes that torchrun starts on a machine read the same line: the first of them tells, and the
    others give it the time to, because torchrun ends all when one has ended.
    """
    show = getattr(error, "show", None)
    if show is None or not hasattr(error, "exit_code"):
        raise error
    if os.environ.get("LOCAL_RANK", "0") == "0":
        from gencli.ui import show as safe

        words = io.StringIO()
        show(words)
        sys.stderr.write(safe(words.getvalue()))
    else:
        time.sleep(1)
    return int(error.exit_code)
