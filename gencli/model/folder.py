"""A model folder: what it holds, how it is opened, how new weights are published into it.

It is a Hugging Face folder, so other tools open it as it is. Reading it needs no torch.

    config.json  generation_config.json          the shape, under Hugging Face's names
    tokenizer.model                              SentencePiece
    tokenizer.json  tokenizer_config.json        the same tokenizer for Hugging Face
    model.safetensors                            the best weights so far
    gencli.json                                  lineage: version, settings, digests, parent, scores
    calibration.json  ngrams.safetensors         how sure it may be, for these weights
    memory.jsonl  memory.safetensors             pairs that it learned from, to be looked up
    README.md                                    the model's card
    training/                                    checkpoints and metrics; only resuming needs it

An adapter's folder has adapter_config.json and adapter_model.safetensors instead of a shape and weights; the
base model, from which the rest comes, stays where it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gencli import storage
from gencli.errors import MachineError, ModelError, RunStateError
from gencli.model.adapter import ADAPTER, ADAPTER_CONFIG, Adapter, adapter_of
from gencli.model.shape import Shape
from gencli.model.task import Task, task_in
from gencli.model.tensors import TensorFile, open_tensors
from gencli.storage import (
    digest_of,
    remove_file,
    replace_file,
    staged_file,
    tensors_refused,
    told_as_machine_error,
)
from gencli.text.exchange import HUGGING_FACE_FILES, hugging_face_files
from gencli.text.json_lines import parsed_file, spelled
from gencli.text.magic import misnamed_kind
from gencli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG, GENERATION, WEIGHTS, LINEAGE, CARD = (
    "config.json", "generation_config.json", "model.safetensors", "gencli.json", "README.md",
)  # fmt: skip
TOKENIZER = "tokenizer.model"
TRAINING = "training"
CONTINUED = "text"  # inside: the run, and the model, of a base that read on before it was taught pairs
_DIGESTED = (TOKENIZER, *HUGGING_FACE_FILES)  # and the weights, and what describes them
FORMAT = 1
_MOST_JSON_BYTES = 8 << 20

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".distcp")

Arrays = Mapping[str, "NDArray[np.float32]"]


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder. Its parts are read when they are asked for."""

    path: Path
    shape: Shape
    lineage: dict[str, object]
    cache: Path | None = None  # remembers which tokenizers were tried
    adapter: Adapter | None = None
    base: ModelFolder | None = None  # of an adapter

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Open the tokenizer; raises RunStateError when it is not the one that the model was trained with."""
        if self.base is not None and not (self.path / TOKENIZER).is_file():
            return self.base.tokenizer
        tokenizer = Tokenizer.open(self.path / TOKENIZER, self.cache)
        expected = self.lineage.get("tokenizer_sha256")
        if expected and expected != tokenizer.digest:
            raise RunStateError(
                "the tokenizer in this folder is not the one that the model was trained with",
                where=str(self.path / TOKENIZER),
                hint=f"put back the tokenizer.model whose sha256 begins with {str(expected)[:12]}",
            )
        if tokenizer.vocabulary != self.shape.vocabulary:
            raise ModelError(
                f"the tokenizer has {tokenizer.vocabulary} pieces, the model {self.shape.vocabulary}",
                where=str(self.path),
            )
        return tokenizer

    @property
    def is_chat(self) -> bool:
        """Tell whether the model was fine-tuned on turns, so that prompts are wrapped in theirs."""
        return self.lineage.get("kind") == "finetuned"

    @property
    def task(self) -> Task:
        """Return what the model answers with: free text, or labels. Raises ModelError if that is garbled."""
        return task_in(self.lineage, str(self.path / LINEAGE))

    def weights(self) -> Arrays:
        """Return all tensors by name, float32; vectors have one dimension. Raises ModelError if any is off.

        An adapter's updates are added to the base's tensors.
        """
        arrays = dict(self._tensors().arrays())
        if self.adapter is None or self.base is None:
            return arrays
        return self.adapter.merged(self.base.weights(), arrays, self.shape)

    def check(self) -> None:
        """Raise ModelError unless the file of the weights holds the tensors that the shape asks for.

        It reads no more than a header: a shape that nothing stands behind never makes anything large.
        """
        self._tensors()

    def _tensors(self) -> TensorFile:
        if self.adapter is not None:
            return self.adapter.open(self.path / ADAPTER, self.shape)
        file = open_tensors(self.path / WEIGHTS)
        sizes = self.shape.tensors().items()
        file.check({name: (rows, columns) if rows > 1 else (columns,) for name, (rows, columns) in sizes})
        return file


def weights_file(path: Path) -> Path:
    """Return the file of a model folder that training replaces: its weights, or those of an adapter."""
    is_adapter = (path / ADAPTER).exists() and not (path / WEIGHTS).exists()
    return path / (ADAPTER if is_adapter else WEIGHTS)


def open_model(path: Path, cache: Path | None = None) -> ModelFolder:
    """Open a model folder for use. Raises ModelError saying what is missing and which models there are.

    An adapter opens with its base model, where it says that it is or where it stood beside it.
    """
    if weights_file(path).name == ADAPTER:
        return _open_adapter(path, cache)
    missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (path / name).is_file()]
    if missing:
        raise _not_a_model(path, missing)
    config = read_json(path / CONFIG)
    try:
        shape = Shape.from_config(config)
    except ModelError as error:
        raise ModelError(error.message, where=str(path / CONFIG)) from error
    folder = ModelFolder(path, shape, _lineage_in(path), cache)
    folder.check()
    return folder


def _lineage_in(path: Path) -> dict[str, object]:
    """Return what gencli.json says. Raises RunStateError if it is of another format."""
    lineage = read_json(path / LINEAGE) if (path / LINEAGE).exists() else {}
    made = lineage.get("format", FORMAT)
    if made != FORMAT:
        raise RunStateError(
            f"this gencli reads models of the format {FORMAT}, and this one says {spelled(made)}",
            where=str(path / LINEAGE),
            kept="nothing was touched",
            hint="use the version of gencli that made it, or a newer one",
        )
    return lineage


def _open_adapter(path: Path, cache: Path | None) -> ModelFolder:
    if not (path / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{path} has no {ADAPTER_CONFIG}", hint=_next_step(path))
    adapter = adapter_of(read_json(path / ADAPTER_CONFIG), str(path / ADAPTER_CONFIG))
    lineage = _lineage_in(path)
    parent = lineage.get("parent")
    parent = parent if isinstance(parent, dict) else {}
    places = [Path(adapter.base), path / str(parent.get("beside", "."))]
    place = next((place for place in places if (place / WEIGHTS).is_file() and place != path), None)
    if place is None:
        raise ModelError(
            "the base model of this adapter is not there",
            where=adapter.base,
            hint=f"put it back, or name its place under base_model_name_or_path in {path / ADAPTER_CONFIG}",
        )
    base = open_model(place, cache)
    expected = parent.get("weights")
    if expected and expected != digest_of(place / WEIGHTS):
        raise RunStateError(
            "the base model of this adapter is not the one that it was taught with",
            where=str(place / WEIGHTS),
            hint=f"put back the {WEIGHTS} whose sha256 begins with {str(expected)[:12]}",
        )
    folder = ModelFolder(path, base.shape, lineage or base.lineage, cache, adapter, base)
    folder.check()
    return folder


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Make sure that a model may be written into the folder `path` without harm to what others put there.

    Raises RunStateError for the root and the home folder, and where files that are not gencli's would be
    replaced, unless that is asked for.
    """
    place, home = path.resolve(), os.environ.get("HOME")
    if place == Path(place.anchor) or (home and place == Path(home).resolve()):
        raise RunStateError(
            "a model needs a folder of its own",
            where=str(path),
            kept="nothing was touched",
            hint=f"name a folder inside: -m {path / 'models' / 'tale'}",
        )
    ours = any((path / name).exists() for name in (LINEAGE, TOKENIZER, TRAINING))
    written = (CONFIG, GENERATION, WEIGHTS, CARD, ADAPTER_CONFIG, ADAPTER, *HUGGING_FACE_FILES)
    in_the_way = [name for name in written if (path / name).exists()]
    if in_the_way and not ours and not overwrite:
        raise RunStateError(
            f"{in_the_way[0]} in this folder is not gencli's, and would be replaced",
            where=str(path),
            kept="nothing was touched",
            hint="another folder; --overwrite replaces it",
        )


def publish(
    path: Path,
    weights: Arrays,
    *,
    shape: Shape,
    tokenizer: Tokenizer,
    lineage: Mapping[str, object],
    card: str,
    adapter: Adapter | None = None,
) -> None:
    """Make `weights` the model in `path`: every file is replaced whole, the weights by one rename.

    With an `adapter` they are its updates, and the rest of the model stays in its base's folder.
    """
    chat = lineage.get("kind") == "finetuned"
    special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    files = {
        CONFIG: _json({**shape.to_config(), **special}),
        GENERATION: _json({**special, "do_sample": True, "temperature": 0.8, "top_k": 50}),
    }
    config, target = CONFIG, path / WEIGHTS
    others: tuple[str, ...] = (ADAPTER_CONFIG, ADAPTER)
    if adapter is not None:
        files = {ADAPTER_CONFIG: _json(adapter.to_config())}
        config, target = ADAPTER_CONFIG, path / ADAPTER
        others = (WEIGHTS, CONFIG, GENERATION)
    with told_as_machine_error(path):
        for name in others:
            remove_file(path / name)
        if _is_other(path / config, files[config].encode()) or _is_other(
            path / TOKENIZER, tokenizer.model_bytes
        ):
            # Weights of another shape or vocabulary must never stand beside the new ones' description.
            remove_file(target)
    for name, text in files.items():
        _replace_if_other(path / name, text.encode("utf-8"))
    write_tokenizer(path, tokenizer, chat=chat, context=shape.context)
    before = digest_of(target) if target.is_file() else None
    with staged_file(target) as staging:
        _save_arrays(staging, weights)
        files_now = {name: digest_of(path / name) for name in (config, *_DIGESTED)}
        about = {
            "format": FORMAT, **lineage, "tokenizer_sha256": tokenizer.digest,
            "files": {**files_now, target.name: digest_of(staging)}, "weights_before": before,
        }  # fmt: skip
        # It comes first: between two renames the old weights stand, and are known by `weights_before`.
        replace_file(path / LINEAGE, _json(about))
    replace_file(path / CARD, card)


def write_tokenizer(path: Path, tokenizer: Tokenizer, *, chat: bool, context: int) -> None:
    """Write the tokenizer into a folder, for gencli and for Hugging Face."""
    for name, text in hugging_face_files(tokenizer, chat=chat, context=context).items():
        _replace_if_other(path / name, text.encode("utf-8"))
    _replace_if_other(path / TOKENIZER, tokenizer.model_bytes)


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file. Raises ModelError for anything else, and for files of over 8 MB."""
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path.name} is not a regular file", where=str(path))
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path.name} is too large to be what it should be", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MachineError(f"{path.name} can't be read: {reason}", where=str(path)) from error
    kind, hint = misnamed_kind(data)
    if kind:
        raise ModelError(f"this is {kind}, not {path.name}", where=str(path), hint=hint)
    return parsed_file(data, name=str(path), kind=ModelError)


def models_near(path: Path) -> list[Path]:
    """Return the model folders that lie beside or inside `path`."""
    roots = [root for root in (path, path.parent) if root.is_dir()]
    found = {entry.parent for root in roots for entry in root.glob(f"*/{WEIGHTS}")}
    return sorted(found - {path})


def _not_a_model(path: Path, missing: list[str]) -> ModelError:
    """Return the error to raise for a folder without these files, with what comes nearest to them."""
    if not path.is_dir():
        what = "this is a file, not a model folder" if path.exists() else "there is no such model folder"
        return ModelError(what, where=str(path), hint=_next_step(path))
    odd = [name for name in missing if (path / name).exists()]
    if odd:
        return ModelError(f"{odd[0]} is not a regular file", where=str(path))
    hint = ""
    if missing == [WEIGHTS]:
        others = sorted(file.name for file in path.iterdir() if file.suffix in _OTHER_WEIGHTS)
        if others:
            hint = f"gencli reads {WEIGHTS} alone: {others[0]} can run code when it is read"
        elif (path / f"{WEIGHTS}.index.json").exists():
            hint = f"gencli reads weights in one file, {WEIGHTS}, and here they are in several"
        else:
            hint = f"it has a tokenizer, but no trained model yet: gencli pretrain CORPUS -m {path}"
    return ModelError(f"{path} has no {', '.join(missing)}", hint=hint or _next_step(path))


def _next_step(path: Path) -> str:
    near = models_near(path)
    if near:
        return "one of these: " + ", ".join(str(model) for model in near[:5])
    return f"train one: gencli pretrain CORPUS -m {path}"


def _save_arrays(path: Path, arrays: Arrays) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    storage.watch("write", path)
    try:
        save_file(dict(arrays), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise tensors_refused(path, error) from error


def _is_other(path: Path, content: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != content


def _replace_if_other(path: Path, content: bytes) -> None:
    if _is_other(path, content):
        replace_file(path, content)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
