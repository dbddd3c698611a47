"""A model that learns updates of low rank: its own weights stay as they are (Hu et al. 2021)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencli.model.adapter import MATRICES, Adapter, stored
from gencli.model.gpt import GPT


class Adapted(nn.Module):
    """A linear layer whose weight is a frozen matrix plus scale times B A; B is zero at first."""

    frozen: Tensor

    def __init__(self, layer: nn.Linear, adapter: Adapter, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = layer.weight.shape
        self.register_buffer("frozen", layer.weight.detach())
        self.scale = adapter.scale
        bound = 1 / math.sqrt(columns)
        self.lora_A = nn.Parameter(
            torch.empty(adapter.rank, columns).uniform_(-bound, bound, generator=generator)
        )
        self.lora_B = nn.Parameter(torch.zeros(rows, adapter.rank))

    @property
    def weight(self) -> Tensor:
        """Return the weight (rows, columns) with the update."""
        return self.frozen + self.scale * (self.lora_B @ self.lora_A)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def adapt(model: GPT, adapter: Adapter, *, seed: int) -> GPT:
    """Put updates of low rank beside the matrices of a model's blocks, and let nothing else of it learn."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    layers = {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in MATRICES}
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Adapted(cast(nn.Linear, layer), adapter, generator))
    return model


def learned(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what a model learns: its updates of low rank if it has any, else all of its parameters."""
    parameters = dict(model.named_parameters())
    return {name: p for name, p in parameters.items() if ".lora_" in name} or parameters


def merged(model: GPT) -> dict[str, Tensor]:
    """Return the tensors of the model by name, with what was learned in them."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}
    tensors: dict[str, Tensor] = {
        f"{name}.weight": module.weight.detach() for name, module in adapted.items()
    }
    return tensors | {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[0] not in adapted
    }


def updates(model: GPT) -> dict[str, Tensor]:
    """Return A and B of every update, by PEFT's names."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            weight = f"{name}.weight"
            found |= {stored(weight, "A"): module.lora_A, stored(weight, "B"): module.lora_B}
    return found
