"""metrics.jsonl: every event of a run, one JSON object a line, without gap or repetition across resumes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path

from gencli.storage import replace_file, told_as_machine_error
from gencli.training.events import Event, Start

NAME = "metrics.jsonl"
ENDS = ("done", "stopped")
_LONGEST_LAST_LINE = 1 << 16


def recorded(events: Iterable[Event], path: Path, *, say: Callable[[str], None]) -> Iterator[Event]:
    """Pass the events on, each after it was written to `path`.

    A run that begins at step n first drops the lines of later steps, which a lost run had written. If the
    disk refuses a line the run goes on without the rest of them, and `say` is told so.
    """
    file: TextIOWrapper | None = None
    try:
        for event in events:
            if isinstance(event, Start):
                with told_as_machine_error(path):
                    replace_file(path, "".join(_lines_until(path, event.step)))
                    file = path.open("a", encoding="utf-8", buffering=1)
            if file is not None:
                try:
                    file.write(json.dumps(event.record(), ensure_ascii=False) + "\n")
                except OSError as error:
                    say(f"{path} can't be written ({error.strerror}): the run goes on without it")
                    with contextlib.suppress(OSError):
                        file.close()
                    file = None
            yield event
    finally:
        if file is not None:
            file.close()


def ended_in_order(path: Path) -> bool:
    """Tell whether the last event of a log is the end of its run, or there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LONGEST_LAST_LINE))
            last = file.read().splitlines()[-1:]
        return not last or json.loads(last[0])["event"] in ENDS
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _lines_until(path: Path, step: int) -> list[str]:
    """Return the whole lines about steps up to `step`; none for a run from the start."""
    if step == 0 or not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            at = json.loads(line).get("step", step + 1)
        except ValueError:
            continue
        if at <= step:
            kept.append(line + "\n")
    return kept
