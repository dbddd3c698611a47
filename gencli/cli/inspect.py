"""gencli inspect: what is in a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.settings.tools import InspectSettings

if TYPE_CHECKING:
    from pathlib import Path

    from gencli.model.folder import ModelFolder


@command(app, InspectSettings, example="gencli inspect -m models/tale\ngencli inspect -m models/tale --json")
def inspect(settings: InspectSettings) -> None:
    """Show what is in a model folder.

    Shape, tokenizer, lineage, scores and disk use.
    """
    from gencli.cli.places import cache_folder
    from gencli.model.folder import open_model
    from gencli.ui import Screen, emit

    folder = open_model(settings.model, cache_folder())
    facts = _facts(folder)
    if settings.json:
        emit({"event": "model", **facts})
        return
    screen = Screen(quiet=settings.quiet)
    for title, part in facts.items():
        if isinstance(part, Mapping) and part:
            screen.table(title, [(key, _plain(value)) for key, value in part.items()])


def _facts(folder: ModelFolder) -> dict[str, object]:
    lineage, shape, tokenizer = folder.lineage, folder.shape, folder.tokenizer
    parent = lineage.get("parent")
    return {
        "model": {
            "folder": str(folder.path),
            "kind": lineage.get("kind", "unknown"),
            "parameters": shape.parameters,
            "layers": shape.layers,
            "width": shape.width,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "hidden": shape.hidden,
            "context": shape.context,
        },
        "tokenizer": {
            "pieces": tokenizer.vocabulary,
            "sha256": tokenizer.digest,
            "sample": " ".join(
                tokenizer.piece(number) for number in range(263, min(275, tokenizer.vocabulary))
            ),
        },
        "scores": lineage.get("scores", {}),
        "lineage": {
            "made by": f"gencli {lineage.get('gencli', '?')} {lineage.get('command', '?')}",
            "created": lineage.get("created", "?"),
            "parent": parent.get("path") if isinstance(parent, Mapping) else None,
            "digests": lineage.get("digests", {}),
        },
        "calibration": _calibration(folder),
        "disk": _disk_use(folder.path),
    }


def _calibration(folder: ModelFolder) -> dict[str, object]:
    """Return what was fitted to tell how sure the model may be; nothing where nothing was."""
    from gencli.model.confidence import PARTS, read_calibration

    found, note = read_calibration(folder.path)
    if note:
        return {"not used": note}
    fits = {name: getattr(found, name) for name in PARTS}
    return {
        f"{name}, {field.replace('_', ' ')}": value
        for name, fit in fits.items()
        if fit
        for field, value in vars(fit).items()
    }


def _disk_use(path: Path) -> dict[str, int]:
    """Return the bytes of each entry of the folder, training checkpoints as one."""
    entries = sorted(path.iterdir())
    return {
        entry.name: entry.stat().st_size
        if entry.is_file()
        else sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        for entry in entries
    }


def _plain(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {str(part)[:12]}" for key, part in value.items())
    return "none" if value is None else str(value)
