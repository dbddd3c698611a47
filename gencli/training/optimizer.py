"""Muon for the matrices of the blocks, AdamW for everything else; learning rates as pure functions.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, found by a
Newton-Schulz iteration, so that every direction of the update has the same length. Matrices of one shape
are stacked and treated at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencli.errors import RunStateError
from gencli.model.lora import learned

# Coefficients of the quintic iteration x <- a x + b x^3 + c x^5 on singular values (Jordan et al. 2024)
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rates of the kinds of parameters, and what else the updates need."""

    matrices: float = 0.02
    embedding: float = 0.03
    head: float = 0.003
    adapter: float = 0.004  # of updates of low rank
    momentum: float = 0.9
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.8, 0.95)
    epsilon: float = 1e-10
    average: float = 0.0  # how much of the running mean of the parameters stays at a step; 0: there is none


def rate_multiplier(step: int, progress: float, *, warmup: int, decay: float) -> float:
    """Return the share of the peak learning rate at `step`, when `progress` (0 to 1) of the run is done.

    Rises linearly over the first `warmup` steps, stays at 1, and falls linearly to 0 over the last
    `decay` share of the run (Zhai et al. 2022; Hägele et al. 2024).
    """
    rising = (step + 1) / warmup if step < warmup else 1.0
    falling = (1.0 - min(1.0, progress)) / decay if decay > 0 else 1.0
    return min(1.0, rising, falling)


def orthogonalised(stack: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Return matrices (K, R, C) with about the same singular vectors and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    tall = stack.size(-2) > stack.size(-1)
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class AdamW:
    """Adam (Kingma and Ba 2015) for some parameters at one rate, by torch's fused kernel, without decay.

    torch.optim's own class calls the same kernel, but loads a compiler first, for a second of every run.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rate: float, rates: Rates) -> None:
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.rate, self.rates = rate, rates
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    def step(self, multiplier: float) -> None:
        """Apply the gradients at `multiplier` times the rate."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_add_(self.steps, 1)
        torch._fused_adamw_(
            self.parameters, gradients, self.means, self.squares, [], self.steps,
            lr=multiplier * self.rate, beta1=self.rates.betas[0], beta2=self.rates.betas[1], weight_decay=0.0,
            eps=self.rates.epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the next step depends on, by what they are and of which parameter."""
        slots = {"step": self.steps, "exp_avg": self.means, "exp_avg_sq": self.squares}
        return {
            f"{slot}.{name}": tensor
            for slot, tensors in slots.items()
            for name, tensor in zip(self.names, tensors, strict=True)
        }


class Optimizer:
    """Applies gradients to a model's parameters; its state is a flat mapping of named tensors."""

    def __init__(self, model: nn.Module, rates: Rates, *, dtype: torch.dtype = torch.float32) -> None:
        self.rates, self.dtype = rates, dtype
        self.parameters = learned(model)
        self._stacks: list[tuple[list[str], Tensor]] = []  # parameter names and their momenta (K, R, C)
        by_size: dict[torch.Size, list[str]] = {}
        others: dict[str, float] = {}
        for name, parameter in self.parameters.items():
            if ".lora_" in name:
                others[name] = rates.adapter
            elif parameter.dim() == 2 and ".layers." in name:
                by_size.setdefault(parameter.shape, []).append(name)
            else:
                others[name] = rates.embedding if "embed" in name else rates.head
        for size, names in by_size.items():
            momenta = torch.zeros(len(names), *size, device=self.parameters[names[0]].device)
            self._stacks.append((names, momenta))
        by_rate: dict[float, list[str]] = {}
        for name, rate in others.items():
            by_rate.setdefault(rate, []).append(name)
        self._groups = [
            AdamW({name: self.parameters[name] for name in names}, rate, rates)
            for rate, names in by_rate.items()
        ]
        self._averages = [p.detach().clone() for p in self.parameters.values()] if rates.average else []
        self._averaged = torch.zeros(())  # steps

    def clip(self, limit: float) -> float:
        """Scale the gradients down to a joint norm of at most `limit`; return the norm they had."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit if limit > 0 else math.inf)
        return float(norm)

    @torch.no_grad()
    def step(self, multiplier: float) -> None:
        """Apply the gradients at `multiplier` times the peak learning rates, then forget them."""
        for names, momenta in self._stacks:
            self._muon(names, momenta, multiplier * self.rates.matrices)
        for group in self._groups:
            group.step(multiplier)
        if self._averages:
            self._averaged += 1
            weight = max(1 - self.rates.average, 1 / float(self._averaged))  # a plain mean at the beginning
            torch._foreach_lerp_(self._averages, list(self.parameters.values()), weight)
        for parameter in self.parameters.values():
            parameter.grad = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be their running means, if there are any, until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters.values(), self._averages, strict=False):
            own = parameter.clone()
            parameter.copy_(average)
            average.copy_(own)

    def _muon(self, names: list[str], momenta: Tensor, rate: float) -> None:
        parameters: list[Tensor] = [self.parameters[name] for name in names]
        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])  # (K, R, C)
        momenta.lerp_(gradients, 1 - self.rates.momentum)
        nesterov = gradients.lerp(momenta, self.rates.momentum)
        update = self.direction(names, nesterov)
        torch._foreach_mul_(parameters, 1 - rate * self.rates.weight_decay)
        torch._foreach_add_(parameters, list(update.unbind()), alpha=-rate)

    def direction(self, names: list[str], momenta: Tensor) -> Tensor:
        """Return the update at rate 1 for the momenta (K, R, C) of the matrices of these names."""
        rows, columns = momenta.shape[-2:]
        return orthogonalised(momenta.to(self.dtype)).float() * math.sqrt(max(1.0, rows / columns))

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on besides parameters and gradients."""
        tensors: dict[str, Tensor] = {}
        for names, momenta in self._stacks:
            tensors |= {f"momentum.{name}": momentum for name, momentum in zip(names, momenta, strict=True)}
        for group in self._groups:
            tensors |= group.state()
        return tensors | self._mean()

    def _mean(self) -> dict[str, Tensor]:
        """Return the running means by name, and of how many steps they are; nothing if there are none."""
        if not self._averages:
            return {}
        means = zip(self.parameters, self._averages, strict=True)
        return {"average.steps": self._averaged, **{f"average.{name}": mean for name, mean in means}}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned. Raises RunStateError if it belongs to another model."""
        try:
            for names, momenta in self._stacks:
                for name, momentum in zip(names, momenta, strict=True):
                    momentum.copy_(tensors[f"momentum.{name}"])
            for group in self._groups:
                for name, own in group.state().items():
                    own.copy_(tensors[name])
            for name, own in self._mean().items():
                own.copy_(tensors[name])
        except (KeyError, RuntimeError) as error:
            raise RunStateError(f"the optimizer's state does not fit the model: {error}") from error
