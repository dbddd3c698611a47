"""gencli bench: how fast this machine is with a model."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import MachineError
from gencli.knobs import seconds_of
from gencli.settings.decoding import BenchSettings

if TYPE_CHECKING:
    from gencli.decoding.decoder import Engine
    from gencli.model.folder import ModelFolder

_MOST_STARTS = 3
_Figure = dict[str, object]


@command(app, BenchSettings, example="gencli bench -m models/tale\ngencli bench -m models/tale --json")
def bench(settings: BenchSettings) -> None:
    """Measure how fast this machine is with a model.

    From the shell to the first token; how fast a prompt is read; how fast one text is written, and several
    together. With float32 weights and with int8 ones, where the engine has both.
    """
    from gencli.cli.places import cache_folder
    from gencli.model.folder import open_model
    from gencli.ui import Screen, emit

    screen = Screen(quiet=settings.quiet)
    folder = open_model(settings.model, cache_folder())
    _ = folder.tokenizer  # says what is wrong with it before anything is measured
    found: dict[str, dict[str, _Figure]] = {}
    for figure in _figures(settings, folder):
        engine = f"{figure['engine']}, {figure['precision']}"
        name = _name(figure)
        found.setdefault(engine, {})[name] = figure
        if settings.json:
            emit({"event": "figure", "model": str(settings.model), **figure})
        screen.note(f"{engine}: {name} {_value(figure)}", "dim")
    if not settings.json:
        names = list(dict.fromkeys(name for row in found.values() for name in row))
        rows = [
            [engine, *(_value(row[name]) if name in row else "" for name in names)]
            for engine, row in found.items()
        ]
        title = f"{settings.model}: {folder.shape.parameters:,} parameters"
        screen.table(title, rows, ["engine", *names])


def _figures(settings: BenchSettings, folder: ModelFolder) -> Iterator[_Figure]:
    """Yield all figures; each engine gets its share of the time."""
    from gencli.decoding.speed import speeds

    engines = list(_engines(settings, folder))
    seconds = seconds_of(settings.time) / len(engines)
    for precision, engine in engines:
        about: _Figure = {"engine": engine.name, "precision": precision}
        yield {**about, "figure": "start", "seconds": _start(settings, engine.name, precision, seconds / 2)}
        for speed in speeds(engine, folder.tokenizer, batch=settings.batch_size, seconds=seconds / 2):
            yield {**about, **asdict(speed), "tokens_per_second": round(speed.tokens_per_second, 1)}


def _engines(settings: BenchSettings, folder: ModelFolder) -> Iterator[tuple[str, Engine]]:
    """Yield the engine that was asked for with each precision that it has, or with the one asked for."""
    from gencli.decoding.engines import open_engine

    def opened(precision: str) -> Engine:
        return open_engine(folder, engine=settings.engine, device=settings.device, precision=precision)

    wanted = "float32" if settings.precision == "auto" else settings.precision
    engine = opened(wanted)
    yield wanted, engine
    if settings.precision == "auto" and engine.name == "cpu":
        yield "int8", opened("int8")


def _start(settings: BenchSettings, engine: str, precision: str, seconds: float) -> float:
    """Return the median seconds of `gencli generate` with one token, after one run that does not count."""
    command = [
        sys.executable, "-m", "gencli", "generate", "", "-m", str(settings.model), "-n", "1", "-q",
        "--engine", engine, "--device", settings.device, "--precision", precision,
    ]  # fmt: skip
    deadline = time.perf_counter() + seconds
    _run(command)
    found: list[float] = []
    while not found or (len(found) < _MOST_STARTS and time.perf_counter() + found[-1] < deadline):
        began = time.perf_counter()
        _run(command)
        found.append(time.perf_counter() - began)
    return round(statistics.median(found), 3)


def _run(command: list[str]) -> None:
    """Run a command in silence. Raises MachineError with its last words if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines() or [
            f"exit code {done.returncode}"
        ]
        raise MachineError("gencli generate, run to be measured, failed", where=words[0])


def _name(figure: _Figure) -> str:
    """Return what a figure is called on the screen, with its unit."""
    if figure["figure"] == "start":
        return "start, s"
    if figure["figure"] == "prefill":
        return "prompt, tokens/s"
    return f"batch {figure['batch']}, tokens/s"


def _value(figure: _Figure) -> str:
    if "seconds" in figure:
        return f"{figure['seconds']:.2f}"
    return f"{figure['tokens_per_second']:,.0f}"
