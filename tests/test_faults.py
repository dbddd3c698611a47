"""What no fault may destroy: a fast selection each time, and the full one with `-m full`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import FAULTS

ROOT = Path(__file__).parent.parent


def injected(*arguments: str, seconds: float) -> dict[str, dict[str, object]]:
    """Run the faults in a process of their own, which forks its trials; return the figures by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=seconds, check=False,
    )  # fmt: skip
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert figures and done.returncode in (0, 1), done.stderr[-4000:]
    return {figure["fault"]: figure for figure in figures}


@pytest.fixture(scope="module")
def fast() -> dict[str, dict[str, object]]:
    """Inject the fast selection once."""
    return injected(seconds=240)


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.fast])
def test_nothing_is_lost(name: str, fast: dict[str, dict[str, object]]) -> None:
    assert name in fast, f"only {list(fast)} came to an end"
    assert fast[name]["ok"], fast[name]


@pytest.mark.full
@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_nothing_is_lost_in_the_full_run(name: str) -> None:
    figure = injected("--full", name, seconds=3600)[name]
    sys.stdout.write(json.dumps(figure) + "\n")
    assert figure["ok"], figure
