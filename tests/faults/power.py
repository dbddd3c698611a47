"""Power loss: every state that the disk may be in after it, worked out from the order of writes and flushes.

What a file system promises is little: a file's bytes are there once it was flushed, a name is there once its
folder was. Whatever came after may be there or not, in any order.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gencli import storage
from gencli.errors import GencliError
from gencli.model.folder import WEIGHTS, open_model
from gencli.training import checkpoint
from tests.faults.trial import Place

Figure = dict[str, object]
Tree = dict[str, "bytes | Tree"]
MOST_SUBSETS = 48  # of what is not yet sure, at one moment
CUTS = ("whole", "empty", "half", "zeros")


@dataclass
class File:
    """A file's bytes: those that are sure to be on the disk, and those that were written."""

    written: bytes = b""
    flushed: bytes | None = None


@dataclass
class Folder:
    """A folder's names: those that are sure to be on the disk, and what was done since."""

    sure: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[str | None, str | None, File | Folder | None]] = field(default_factory=list)

    def now(self) -> dict[str, File | Folder]:
        """Return the names as programs see them."""
        return _applied(self.sure, self.pending)


def _applied(
    names: dict[str, File | Folder], changes: list[tuple[str | None, str | None, File | Folder | None]]
) -> dict[str, File | Folder]:
    """Return the names after some changes: (name that goes, name that comes, what it names)."""
    result = dict(names)
    for gone, come, what in changes:
        if gone is not None:
            result.pop(gone, None)
        if come is not None and what is not None:
            result[come] = what
    return result


class Disk:
    """A model of the disk below a folder, kept up to date by what `storage.watch` tells."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = Folder()
        self.states: list[tuple[int, Tree]] = []
        self.announced = 0
        self._draw = random.Random(1)

    def watch(self, operation: str, path: Path, target: Path | None = None) -> None:
        """Take in an operation that is about to happen, after noting the states before it."""
        if self.root not in path.parents and (path != self.root or operation != "flush folder"):
            return
        self.note()
        if operation == "flush folder":
            here = self._folder(path)
            here.sure, here.pending = here.now(), []
            return
        folder = self._folder(path.parent)
        if operation == "write":
            folder.pending.append((None, path.name, File()))
        elif operation == "flush":
            self._flush(folder, path)
        elif operation == "make folder":
            folder.pending.append((None, path.name, Folder()))
        elif operation == "rename" and target is not None:
            folder.pending.append((path.name, target.name, folder.now()[path.name]))
        elif operation == "remove":
            folder.pending.append((path.name, None, None))

    def _flush(self, folder: Folder, path: Path) -> None:
        file = folder.now().get(path.name)
        if not isinstance(file, File):
            folder.pending.append((None, path.name, file := File()))
        file.written = file.flushed = path.read_bytes()

    def note(self) -> None:
        """Keep the states that the disk may be in at this moment."""
        for cut in CUTS:
            self.states += [(self.announced, tree) for tree in self._trees(self.top, cut)]

    def _folder(self, path: Path) -> Folder:
        """Return the folder that stands under a path now."""
        folder = self.top
        for part in path.relative_to(self.root).parts:
            found = folder.now()[part]
            assert isinstance(found, Folder)
            folder = found
        return folder

    def _trees(self, folder: Folder, cut: str) -> Iterator[Tree]:
        """Yield what may stand in a folder, for some of the subsets of its pending changes."""
        count = len(folder.pending)
        subsets = list(itertools.islice(itertools.product((False, True), repeat=count), MOST_SUBSETS))
        subsets += [
            tuple(self._draw.random() < 0.5 for _ in range(count))
            for _ in range(MOST_SUBSETS if count > 5 else 0)
        ]
        subsets += [tuple(place < length for place in range(count)) for length in range(count + 1)]
        for subset in dict.fromkeys(subsets):
            changes = [change for change, done in zip(folder.pending, subset, strict=True) if done]
            names = _applied(folder.sure, changes)
            parts = [self._contents(what, cut) for what in names.values()]
            for contents in itertools.islice(itertools.product(*parts), MOST_SUBSETS):
                yield dict(zip(names, contents, strict=True))

    def _contents(self, what: File | Folder, cut: str) -> list[bytes | Tree]:
        if isinstance(what, Folder):
            return list(self._trees(what, cut))
        if what.flushed is not None:
            return [what.flushed]
        data = what.written or b"something that was written"
        return [{"whole": data, "empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))}[cut]]


def power_loss(root: Path, *, trials: int) -> Figure:
    """Record a run, and load from every state that a power loss could have left; `trials` limits how many."""
    place = Place(root / "recorded")
    place.finished(steps=2)  # the tokenizer and its cache are there
    shutil.rmtree(place.training)
    (place.model / WEIGHTS).unlink()
    place.model.mkdir(exist_ok=True)
    disk = _recorded(place)
    different = list({(announced, _key(tree)): (announced, tree) for announced, tree in disk.states}.values())
    chosen = different if trials >= len(different) else random.Random(2).sample(different, trials)
    older = refused = mixed = 0
    for announced, tree in chosen:
        model = root / "state"
        shutil.rmtree(model, ignore_errors=True)
        _write(model, tree)
        try:
            found, _ = checkpoint.newest(model / "training")
            older += (found.step if found is not None else 0) < announced
        except GencliError:
            refused += 1
        mixed += not _model_is_whole(model, place.model)
    return {
        "moments": len(disk.states), "states": len(different), "loaded": len(chosen), "last_announced": disk.announced,
        "older_than_announced": older, "none_loaded": refused, "models_not_whole": mixed,
        "ok": older == refused == mixed == 0 and disk.announced > 2,
    }  # fmt: skip


def _recorded(place: Place) -> Disk:
    """Return the model of the disk after a run in this process, with all the states on the way."""
    from gencli.cli.app import run

    disk, save = Disk(place.model), checkpoint.save
    for path in sorted(place.model.iterdir()):
        if path.is_file():
            disk.top.sure[path.name] = File(path.read_bytes(), path.read_bytes())

    def announcing(run: Path, step: int, **parts: object) -> Path:
        made = save(run, step, **parts)  # type: ignore[arg-type]
        disk.announced = step
        disk.note()
        return made

    before = storage.watch
    storage.watch, checkpoint.save = disk.watch, announcing
    try:
        code = run([part for part in place.arguments("--overwrite", steps=6) if part != "--json"])
    finally:
        storage.watch, checkpoint.save = before, save
    assert code == 0
    return disk


def _key(tree: Tree) -> tuple[object, ...]:
    """Return what is the same for the same state."""
    return tuple(
        (name, what if isinstance(what, bytes) else _key(what)) for name, what in sorted(tree.items())
    )


def _write(folder: Path, tree: Tree) -> None:
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if isinstance(content, dict):
            _write(folder / name, content)
        else:
            (folder / name).write_bytes(content)


def _model_is_whole(model: Path, finished: Path) -> bool:
    """Tell whether the published model, if there is one, is one that was published as a whole."""
    if not (model / WEIGHTS).exists():
        return True
    try:
        opened = open_model(model)
        return (
            opened.shape == open_model(finished).shape and bool(opened.weights()) and bool(opened.tokenizer)
        )
    except GencliError:
        return False
