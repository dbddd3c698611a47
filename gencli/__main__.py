"""`gencli` and `python -m gencli`."""

from __future__ import annotations

import os
import sys
import time

BEGAN = time.monotonic()

# How long an idle OpenMP thread spins before it sleeps. The default spins for so long that one other busy
# program on the machine makes training many times slower; this costs a few percent when nothing else runs.
SPINS = "5000"


def main() -> None:
    """Run the command line and exit with its code."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from gencli.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
