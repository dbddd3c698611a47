"""A model folder: what it holds, how it is opened, how new weights are published into it.

It is a Hugging Face folder, so other tools open it as it is. Reading it needs no torch.

    config.json  generation_config.json          the shape, under Hugging Face's names
    tokenizer.model                              SentencePiece
    tokenizer.json  tokenizer_config.json        the same tokenizer for Hugging Face
    model.safetensors                            the best weights so far
    gencli.json                                  lineage: version, settings, digests, parent, scores
    README.md                                    the model's card
    training/                                    checkpoints and metrics; only resuming needs it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gencli.errors import ModelError, RunStateError
from gencli.model.shape import Shape
from gencli.storage import replace_file, staged_file, tensors_refused, told_as_machine_error
from gencli.text.exchange import hugging_face_files
from gencli.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from safetensors import safe_open

CONFIG, GENERATION, WEIGHTS, LINEAGE, CARD = (
    "config.json", "generation_config.json", "model.safetensors", "gencli.json", "README.md",
)  # fmt: skip
TOKENIZER = "tokenizer.model"
TRAINING = "training"
FORMAT = 1
_MOST_JSON_BYTES = 8 << 20

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder. Its parts are read when they are asked for."""

    path: Path
    shape: Shape
    lineage: dict[str, object]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Open the tokenizer; raises RunStateError when it is not the one that the model was trained with."""
        tokenizer = Tokenizer.open(self.path / TOKENIZER)
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

    def weights(self) -> Arrays:
        """Return all tensors by name, float32; vectors have one dimension. Raises ModelError if any is off."""
        path = self.path / WEIGHTS
        with _open_tensors(path) as file:
            expected = self.shape.tensors()
            names = set(file.keys())
            if names != set(expected):
                odd = sorted(names ^ set(expected))[:5]
                raise ModelError(f"tensors are missing or unknown: {', '.join(odd)}", where=str(path))
            for name, (rows, columns) in expected.items():
                size = tuple(file.get_slice(name).get_shape())
                if size not in ((rows, columns), (columns,)):
                    raise ModelError(f"{name} has the shape {size}, not {(rows, columns)}", where=str(path))
            arrays = {name: np.asarray(file.get_tensor(name), dtype=np.float32) for name in expected}
        for name, array in arrays.items():
            if not np.isfinite(array.sum(dtype=np.float64)):
                raise ModelError(f"{name} holds numbers that are not finite", where=str(path))
        return arrays


def open_model(path: Path) -> ModelFolder:
    """Open a model folder for use. Raises ModelError saying what is missing and which models there are."""
    missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (path / name).is_file()]
    if missing:
        if not path.is_dir():
            raise ModelError("there is no such model folder", where=str(path), hint=_next_step(path))
        begun = TOKENIZER not in missing and WEIGHTS in missing
        hint = (
            f"it has a tokenizer, but no trained model yet: gencli pretrain CORPUS -m {path}" if begun else ""
        )
        raise ModelError(f"{path} has no {', '.join(missing)}", hint=hint or _next_step(path))
    config = read_json(path / CONFIG)
    try:
        shape = Shape.from_config(config)
    except ModelError as error:
        raise ModelError(error.message, where=str(path / CONFIG)) from error
    lineage = read_json(path / LINEAGE) if (path / LINEAGE).is_file() else {}
    return ModelFolder(path, shape, lineage)


def publish(
    path: Path,
    weights: Arrays,
    *,
    shape: Shape,
    tokenizer: Tokenizer,
    lineage: Mapping[str, object],
    card: str,
) -> None:
    """Make `weights` the model in `path`: every file is replaced whole, the weights by one rename."""
    chat = lineage.get("kind") == "finetuned"
    special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    files = {
        CONFIG: _json({**shape.to_config(), **special}),
        GENERATION: _json({**special, "do_sample": True, "temperature": 0.8, "top_k": 50}),
    }
    if _is_other(path / CONFIG, files[CONFIG].encode()) or _is_other(path / TOKENIZER, tokenizer.model_bytes):
        # Weights of another shape or vocabulary must never stand beside the new ones' description.
        with told_as_machine_error(path):
            (path / WEIGHTS).unlink(missing_ok=True)
    for name, text in files.items():
        _replace_if_other(path / name, text.encode("utf-8"))
    write_tokenizer(path, tokenizer, chat=chat, context=shape.context)
    replace_file(path / LINEAGE, _json({"format": FORMAT, **lineage, "tokenizer_sha256": tokenizer.digest}))
    _save_arrays(path / WEIGHTS, weights)
    replace_file(path / CARD, card)


def write_tokenizer(path: Path, tokenizer: Tokenizer, *, chat: bool, context: int) -> None:
    """Write the tokenizer into a folder, for gencli and for Hugging Face."""
    for name, text in hugging_face_files(tokenizer, chat=chat, context=context).items():
        _replace_if_other(path / name, text.encode("utf-8"))
    _replace_if_other(path / TOKENIZER, tokenizer.model_bytes)


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file. Raises ModelError for anything else, and for files of over 8 MB."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ModelError(f"{path.name} is too large to be what it should be", where=str(path))
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} can't be read: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} should hold an object", where=str(path))
    return value


def models_near(path: Path) -> list[Path]:
    """Return the model folders that lie beside or inside `path`."""
    roots = [root for root in (path, path.parent) if root.is_dir()]
    found = {entry.parent for root in roots for entry in root.glob(f"*/{WEIGHTS}")}
    return sorted(found - {path})


def _next_step(path: Path) -> str:
    near = models_near(path)
    if near:
        return "one of these: " + ", ".join(str(model) for model in near[:5])
    return f"train one: gencli pretrain CORPUS -m {path}"


def _open_tensors(path: Path) -> safe_open:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"the weights can't be read: {error}", where=str(path)) from error


def _save_arrays(path: Path, arrays: Arrays) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with staged_file(path) as staging:
        try:
            save_file(dict(arrays), staging, metadata={"format": "pt"})
        except SafetensorError as error:
            raise tensors_refused(path, error) from error


def _is_other(path: Path, content: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != content


def _replace_if_other(path: Path, content: bytes) -> None:
    if _is_other(path, content):
        replace_file(path, content)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
