"""Where a model can run."""

from __future__ import annotations

import torch

from gencli.errors import MachineError


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if (name != "cuda" and name not in available) or (name == "cuda" and len(available) == 1):
        raise MachineError(
            f"there is no device {name!r} here", hint=f"--device with one of: auto, {', '.join(available)}"
        )
    return torch.device(name)
