"""`gencli` and `python -m gencli`."""

from __future__ import annotations

import sys
import time

BEGAN = time.monotonic()


def main() -> None:
    """Run the command line and exit with its code."""
    from gencli.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
