"""A GPT: a decoder-only transformer with masked multi-head self-attention.

- pre-norm blocks with RMSNorm (Zhang & Sennrich 2019), no biases anywhere
- rotary positions (Su et al. 2021), queries and keys normalised per head (Dehghani et al. 2023)
- grouped-query attention (Ainslie et al. 2023), SwiGLU MLP (Shazeer 2020)
- embedding and head are two matrices

Together this is the architecture of Qwen3 (Yang et al. 2025); parameters carry the names that Hugging
Face gives them, so a state dict is a model file.

Shapes: B rows, T tokens, C width, H heads, G key-value heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gencli.model import compiled_norms
from gencli.model.cache import AnyCache
from gencli.model.fused import dropout, heads_in_place, masked_attention, rms_norm, swiglu
from gencli.model.places import Places, evened, up_to
from gencli.model.shape import Shape


class RMSNorm(nn.Module):
    """Divide a vector by its root mean square, then scale each component by a learned weight."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)

    def per_head(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return queries or keys (B, T, H, D) normalised and turned by their positions, (B, H, T, D)."""
        return heads_in_place(x, self.weight, self.epsilon, *rotation)


def joint_linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """Return what the layers make of x, side by side, by one matrix product for all."""
    return F.linear(x, torch.cat([layer.weight for layer in layers]))


class Attention(nn.Module):
    """Every token gathers from itself and the tokens before it; never from a later one."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        C, D = shape.width, shape.head_width
        self.layer, self.heads, self.kv_heads, self.head_width = layer, shape.heads, shape.kv_heads, D
        self.q_proj = nn.Linear(C, shape.heads * D, bias=False)
        self.k_proj = nn.Linear(C, shape.kv_heads * D, bias=False)
        self.v_proj = nn.Linear(C, shape.kv_heads * D, bias=False)
        self.o_proj = nn.Linear(shape.heads * D, C, bias=False)
        self.q_norm = RMSNorm(D, shape.norm_epsilon)
        self.k_norm = RMSNorm(D, shape.norm_epsilon)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: AnyCache | None, places: Places | None
    ) -> Tensor:
        joint = joint_linear(x, self.q_proj, self.k_proj, self.v_proj)
        if cache is None and compiled_norms.are_made_of(joint, self.q_norm.weight):
            q, k, v = self._compiled_heads(joint, rotation, places)
        else:
            q, k, v = self._heads(joint if places is None else places.spread(joint), rotation)
        if cache is None:
            y = masked_attention(q, *self._for_all_heads(k, v))
        else:
            mask = cache.mask(q.size(2))
            k, v = self._for_all_heads(*cache.append(self.layer, k, v))  # (B, H, S, D)
            y = F.scaled_dot_product_attention(q.to(k.dtype), k, v, attn_mask=mask)
        together = y.transpose(1, 2).flatten(2) if places is None else places.gathered(y)
        return self.o_proj(together)  # type: ignore[no-any-return]

    def _heads(self, joint: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, D), keys and values (B, G, T, D) from joint (B, T, (H + 2 G) D)."""
        B, T, _ = joint.shape
        H, G, D = self.heads, self.kv_heads, self.head_width
        q, k, v = joint.split([H * D, G * D, G * D], dim=-1)  # type: ignore[no-untyped-call]
        q = self.q_norm.per_head(q.view(B, T, H, D), rotation)
        k = self.k_norm.per_head(k.view(B, T, G, D), rotation)
        return q, k, v.view(B, T, G, D).transpose(1, 2)

    def _compiled_heads(
        self, joint: Tensor, rotation: tuple[Tensor, Tensor], places: Places | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same from joint (B, T, (H + 2 G) D), or (N, (H + 2 G) D) of some places."""
        B, T = joint.shape[:2] if places is None else (places.rows, places.length)
        at = torch.arange(B * T) if places is None else places.comes
        weights = torch.stack((self.q_norm.weight, self.k_norm.weight))
        size = (B, T, self.heads, self.kv_heads)
        return compiled_norms.heads(joint.flatten(0, -2), weights, self.q_norm.epsilon, rotation, at, size)

    def _for_all_heads(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, S, D) of every head, from those that heads share (B, G, S, D)."""
        if self.kv_heads < self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        return k, v


class MLP(nn.Module):
    """SwiGLU: one projection gates another, a third brings the product back to the model's width."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(joint_linear(x, self.gate_proj, self.up_proj)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then the MLP, each added to the stream that runs through the model."""

    def __init__(self, shape: Shape, layer: int, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_epsilon)
        self.mlp = MLP(shape)
        self.dropout = dropout

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: AnyCache | None, places: Places | None = None
    ) -> Tensor:
        """Return the stream (B, T, C) after the block; with `places`, from (N, C) those (M, C) that go out."""
        branch = self.drop(self.self_attn(self.input_layernorm(x), rotation, cache, places))
        x = (x if places is None else places.carried(x)) + branch
        return x + self.drop(self.mlp(self.post_attention_layernorm(x)))

    def drop(self, branch: Tensor) -> Tensor:
        return dropout(branch, self.dropout) if self.dropout and self.training else branch


class Trunk(nn.Module):
    """Embedding, blocks and the last norm: everything but the head."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape, layer, dropout) for layer in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_epsilon)


class GPT(nn.Module):
    """From token ids (B, T) to the logits (B, T, V) of the token that follows each of them."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: Shape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape, dropout)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        cosines, sines = rotary_table(shape)
        self.register_buffer("cosines", cosines, persistent=False)  # (context, D / 2)
        self.register_buffer("sines", sines, persistent=False)  # (context, D / 2)

    def forward(self, tokens: Tensor, cache: AnyCache | None = None, at: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V); with a cache, `tokens` continue what it holds and are added to it.

        With `at`, rising numbers of N places counted through all rows, only their logits (N, V) are made, and
        what they depend on. It can't be had with a cache.
        """
        return self.lm_head(self.hidden(tokens, cache) if at is None else self._hidden_at(tokens, at))  # type: ignore[no-any-return]

    def hidden(self, tokens: Tensor, cache: AnyCache | None = None) -> Tensor:
        """Return the vectors (B, T, C) that the head turns into logits."""
        T = tokens.size(1)
        if cache is None:
            rotation = self.cosines[:T], self.sines[:T]  # (T, D / 2)
        else:
            positions = cache.positions(T)
            rotation = (
                self.cosines[positions].unsqueeze(1),
                self.sines[positions].unsqueeze(1),
            )  # (B, 1, T, D / 2)
        x = self.model.embed_tokens(tokens)  # (B, T, C)
        for block in self.model.layers:
            x = block(x, rotation, cache)
        if cache is not None:
            cache.advance(T)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def _hidden_at(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Return the vectors (N, C) at some places of the batch."""
        tokens, at = evened(tokens, at, most=self.shape.context)
        B, T = tokens.shape
        rotation = self.cosines[:T], self.sines[:T]  # (T, D / 2)
        needed = up_to(at, B, T)
        x = self.model.embed_tokens(tokens.flatten()[needed])
        *before, last = self.model.layers
        places = Places(B, T, needed)
        for block in before:
            x = block(x, rotation, None, places)
        x = last(x, rotation, None, Places(B, T, needed, at))
        return self.model.norm(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> GPT:
        """Draw the weights of a model that has learned nothing.

        embedding                     normal, standard deviation 1
        o_proj, down_proj, head       zero: every block starts as the identity, every token equally likely
        other matrices                uniform in ±sqrt(3 / fan-in): variance 1 / fan-in
        norms                         one
        """
        for name, weight in self.named_parameters():
            if name.endswith("embed_tokens.weight"):
                weight.normal_(generator=generator)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
            elif weight.dim() == 2:
                bound = math.sqrt(3 / weight.size(1))
                weight.uniform_(-bound, bound, generator=generator)
        return self

    @torch.no_grad()
    def load(self, weights: Mapping[str, np.ndarray]) -> GPT:
        """Copy arrays into the parameters of the same names; they must be all there, in the right shapes."""
        for name, parameter in self.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(weights[name])))
        return self

    def weights(self) -> dict[str, np.ndarray]:
        """Return the parameters as float32 arrays, by name."""
        return {name: p.detach().float().cpu().numpy() for name, p in self.named_parameters()}


def rotary_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine (context, D / 2) of the angle by which each position turns each pair."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_width, 2) / shape.head_width)  # (D / 2,)
    angles = torch.outer(torch.arange(shape.context), frequencies)
    return angles.cos(), angles.sin()
