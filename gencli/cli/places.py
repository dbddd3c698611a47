"""Where gencli keeps what it can make again, and where it finds a run that is to go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of token files: GENCLI_CACHE, or gencli inside the user's cache folder."""
    own = os.environ.get("GENCLI_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gencli"


_OF_ONE_COMMAND = {"config", "json", "quiet", "resume", "overwrite", "shard", "dry_run"}


def earlier_run(folder_knob: str) -> Callable[[dict[str, object]], dict[str, object]]:
    """Return a function of the flags typed: with --resume, the settings of the run in the folder of that knob."""

    def settings(given: dict[str, object]) -> dict[str, object]:
        if not given.get("resume") or folder_knob not in given:
            return {}
        from gencli.model.folder import TRAINING
        from gencli.training.run_record import read_record

        settings = read_record(Path(str(given[folder_knob])) / TRAINING).settings
        return {name: value for name, value in settings.items() if name not in _OF_ONE_COMMAND}

    return settings
