"""Weights and optimizer state split among processes, for a model too large for one device (FSDP2).

Every process keeps a slice of the rows of every parameter, with its gradient and optimizer state. A block's
weights are put together just before they are used and dropped after (Zhao et al. 2023). What leaves the
run, a checkpoint or the published model, holds whole tensors, so any number of processes can go on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from gencli.errors import RunStateError
from gencli.model.gpt import GPT
from gencli.model.lora import learned
from gencli.training.optimizer import Optimizer, Rates

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Tell whether `shard` split the model."""
    return hasattr(next(model.parameters()), "full_tensor")


def shard(model: GPT, device: torch.device) -> None:
    """Split a model, the same in every process, and move it to the device a block at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)  # what is saved after scoring is split again


def load_weights(model: GPT, weights: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a model, sharded or not. Raises RuntimeError if they are another model's."""
    if not is_sharded(model):
        if learned(model).keys() != weights.keys():
            raise RuntimeError("the tensors are missing or unknown")
        model.load_state_dict(weights, strict=False)
        return
    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        raise RuntimeError("the tensors are missing or unknown")
    with torch.no_grad():
        for name, parameter in parameters.items():
            local(parameter).copy_(slice_like(parameter, weights[name]))


def whole(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return the tensors, the split ones put together in the CPU's memory, one after the other.

    Every process must call it; those that don't `keep` the result get nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        put_together = cast("DTensor", tensor).full_tensor() if hasattr(tensor, "full_tensor") else None
        if keep:
            kept[name] = tensor if put_together is None else put_together.detach().cpu()
    return kept


def local(parameter: Tensor) -> Tensor:
    """Return this process's slice of a split parameter, sharing its memory."""
    return cast("DTensor", parameter).to_local().detach()


def slice_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return the slice of a whole tensor that this process keeps of the parameter."""
    from torch.distributed.tensor import distribute_tensor

    split = cast("DTensor", parameter)
    if tensor.shape != split.shape:
        raise RuntimeError(f"the shape {tuple(tensor.shape)} is not {tuple(split.shape)}")
    there = tensor.to(split.device)
    return distribute_tensor(there, split.device_mesh, split.placements, src_data_rank=None).to_local()


class ShardedOptimizer(Optimizer):
    """The same updates on slices: each process holds the momenta and moments of its own slices alone.

    AdamW needs no more than a slice. Muon needs a matrix as a whole: its momentum is put together from the
    slices, orthogonalised by every process alike, and all but the own slice is dropped. That costs each
    step one all-gather of all matrices and, in every process, the arithmetic of a run that is not split.
    """

    def __init__(self, model: GPT, rates: Rates, *, dtype: torch.dtype = torch.float32) -> None:
        self._split = dict(model.named_parameters())
        super().__init__(_Slices(self._split), rates, dtype=dtype)

    def clip(self, limit: float) -> float:
        self._take_gradients()
        squares = [p.grad.square().sum() for p in self.parameters.values() if p.grad is not None]
        total = torch.stack(squares).sum()
        torch.distributed.all_reduce(total)
        norm = float(total.sqrt())
        if limit > 0:
            factor = min(1.0, limit / (norm + 1e-6))
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        return norm

    def step(self, multiplier: float) -> None:
        self._take_gradients()
        super().step(multiplier)

    def _take_gradients(self) -> None:
        """Move the gradients from the split parameters to their slices."""
        for name, parameter in self._split.items():
            if parameter.grad is not None:
                self.parameters[name].grad = local(parameter.grad)
                parameter.grad = None

    def direction(self, names: list[str], momenta: Tensor) -> Tensor:
        updates = []
        for name, momentum in zip(names, momenta, strict=True):
            matrix = self._as_split(name, momentum).full_tensor()
            update = super().direction([name], matrix.unsqueeze(0))[0]
            updates.append(slice_like(self._split[name], update))
        return torch.stack(updates)

    def state(self) -> dict[str, Tensor]:
        return {key: self._as_split(_name_in(key), t) if t.dim() else t for key, t in super().state().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        try:
            parts = {
                key: slice_like(self._split[_name_in(key)], tensor) if tensor.dim() else tensor
                for key, tensor in tensors.items()
            }
        except (KeyError, RuntimeError) as error:
            raise RunStateError(f"the optimizer's state does not fit the model: {error}") from error
        super().load_state(parts)

    def _as_split(self, name: str, part: Tensor) -> DTensor:
        from torch.distributed.tensor import DTensor

        parent = cast("DTensor", self._split[name])
        return DTensor.from_local(
            part, parent.device_mesh, parent.placements, shape=parent.shape, stride=parent.stride()
        )


class _Slices(nn.Module):
    """Slices of split parameters under the names that those have."""

    def __init__(self, split: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._slices = {name: local(parameter) for name, parameter in split.items()}

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self._slices.items())


def _name_in(key: str) -> str:
    """Return the parameter's name in a key of the optimizer's state, such as exp_avg.NAME."""
    return key.split(".", 1)[1]
