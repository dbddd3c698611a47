"""Where gencli keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of token files: GENCLI_CACHE, or gencli inside the user's cache folder."""
    own = os.environ.get("GENCLI_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gencli"
