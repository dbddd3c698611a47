"""An adapter: updates of low rank to the matrices of a base model, in the layout of the PEFT library.

    adapter_config.json          rank, alpha, which matrices, where the base model is
    adapter_model.safetensors    for each of them A (rank, columns) and B (rows, rank)

The model's matrix is that of the base plus alpha / rank times B A (Hu et al. 2021). Reading needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gencli.errors import ModelError
from gencli.model.shape import Shape
from gencli.model.tensors import TensorFile, open_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MOST_RANK = 1024
_PREFIX = "base_model.model."
# What PEFT can do and gencli can't: each key must be away, empty, or say this.
_PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "fan_in_fan_out": False, "lora_bias": False}
_EMPTY = ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "target_parameters")


@dataclass(frozen=True)
class Adapter:
    """An adapter's numbers; `base` is where the base model is said to be."""

    base: str
    rank: int
    alpha: float
    matrices: tuple[str, ...] = MATRICES

    @property
    def scale(self) -> float:
        """Return by what B A is multiplied."""
        return self.alpha / self.rank

    def to_config(self) -> dict[str, object]:
        """Return what adapter_config.json says, as PEFT reads it."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": list(self.matrices),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }

    def pairs(self, shape: Shape) -> dict[str, tuple[str, str]]:
        """Return for each matrix that is updated, by the model's name, the names of its A and B."""
        names = [name for name in shape.tensors() if name.split(".")[-2] in self.matrices]
        return {name: (stored(name, "A"), stored(name, "B")) for name in names}

    def tensors(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor that the adapter's file must hold."""
        sizes = shape.tensors()
        expected: dict[str, tuple[int, ...]] = {}
        for name, (a, b) in self.pairs(shape).items():
            rows, columns = sizes[name]
            expected |= {a: (self.rank, columns), b: (rows, self.rank)}
        return expected

    def open(self, path: Path, shape: Shape) -> TensorFile:
        """Open the file of an adapter for a base of this shape. Raises ModelError if it is not one."""
        file = open_tensors(path)
        file.check(self.tensors(shape))
        return file

    def merged(
        self,
        base: Mapping[str, NDArray[np.float32]],
        updates: Mapping[str, NDArray[np.float32]],
        shape: Shape,
    ) -> dict[str, NDArray[np.float32]]:
        """Return the base's tensors with the updates added."""
        tensors = dict(base)
        for name, (a, b) in self.pairs(shape).items():
            tensors[name] = base[name] + np.float32(self.scale) * (updates[b] @ updates[a])
        return tensors


def stored(name: str, part: str) -> str:
    """Return PEFT's name for part A or B of a matrix's update."""
    return f"{_PREFIX}{name.removesuffix('.weight')}.lora_{part}.weight"


def adapter_of(config: Mapping[str, object], where: str) -> Adapter:
    """Return the adapter that an adapter_config.json describes. Raises ModelError for what gencli can't use."""
    if config.get("peft_type") != "LORA":
        raise ModelError("gencli reads adapters of the type LORA alone", where=where)
    odd = [name for name, plain in _PLAIN.items() if config.get(name) not in (None, plain)]
    odd += [name for name in _EMPTY if config.get(name)]
    if odd:
        raise ModelError(
            f"gencli can't use an adapter with {odd[0]}",
            where=where,
            hint="merge it with the tool that made it",
        )
    rank, alpha, base = config.get("r"), config.get("lora_alpha"), config.get("base_model_name_or_path")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_RANK:
        raise ModelError(f"the rank r must be from 1 to {MOST_RANK}", where=where)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 1e6:
        raise ModelError("lora_alpha must be a number above 0", where=where)
    if not isinstance(base, str) or not base:
        raise ModelError("base_model_name_or_path does not say where the base model is", where=where)
    matrices = config.get("target_modules")
    if not isinstance(matrices, list) or not matrices or not set(map(str, matrices)) <= set(MATRICES):
        raise ModelError(f"target_modules must be some of {', '.join(MATRICES)}", where=where)
    return Adapter(base, rank, float(alpha), tuple(name for name in MATRICES if name in matrices))
