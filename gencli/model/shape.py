"""The shape of a GPT: its numbers, its presets, its limits, and its form in a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from gencli.errors import ModelError
from gencli.text.json_lines import spelled

# layers, width, heads, key-value heads, context; the widths of a head stay between 32 and 64
PRESETS: dict[str, tuple[int, int, int, int, int]] = {
    "nano": (4, 128, 4, 4, 128),
    "micro": (4, 192, 6, 6, 256),
    "tiny": (4, 256, 8, 8, 256),
    "small": (6, 384, 6, 6, 512),
    "base": (12, 768, 12, 12, 1024),
}

_LIMITS = {
    "vocabulary": (2, 1 << 20),
    "layers": (1, 256),
    "width": (8, 16_384),
    "heads": (1, 256),
    "kv_heads": (1, 256),
    "head_width": (2, 1024),
    "hidden": (8, 131_072),
    "context": (8, 1 << 20),
}

# our name → the key that Hugging Face's Qwen3 configuration uses
_CONFIG_KEYS = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "hidden": "intermediate_size",
    "context": "max_position_embeddings",
}


_LARGEST_TABLE = 1 << 26  # angles of all positions: the one table that no weight stands for

# What gencli's models do one way only, so that a configuration may not ask for another
_FIXED = {
    "tie_word_embeddings": False,
    "attention_bias": False,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "rope_scaling": None,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large each part of the model is. Raises ModelError for numbers that make no model.

    `width` is the length of a token's vector, `head_width` that of one attention head, `hidden` that of
    the MLP's inner layer, `context` the number of tokens that the model can look back on.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            _check_limits(f"a model's {name}", getattr(self, name), least, most)
        if self.heads % self.kv_heads:
            raise ModelError(f"{self.heads} heads can't share {self.kv_heads} key-value heads evenly")
        if self.head_width % 2:
            raise ModelError(f"the width of a head must be even for rotary positions, not {self.head_width}")
        if self.context * self.head_width > _LARGEST_TABLE:
            raise ModelError(f"a context of {self.context} is too long for heads of width {self.head_width}")
        for name in ("rope_theta", "norm_epsilon"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0 < value < 1e12:
                raise ModelError(f"a model's {name} must be a positive number, not {spelled(value)}")

    @property
    def parameters(self) -> int:
        """Return the number of weights."""
        return sum(rows * columns for rows, columns in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, int]]:
        """Return the name and [rows, columns] of every tensor; vectors count as one row.

        The names are Hugging Face's for Qwen3.
        """
        attention, shared = self.heads * self.head_width, self.kv_heads * self.head_width
        layer = {
            "input_layernorm.weight": (1, self.width),
            "self_attn.q_proj.weight": (attention, self.width),
            "self_attn.k_proj.weight": (shared, self.width),
            "self_attn.v_proj.weight": (shared, self.width),
            "self_attn.q_norm.weight": (1, self.head_width),
            "self_attn.k_norm.weight": (1, self.head_width),
            "self_attn.o_proj.weight": (self.width, attention),
            "post_attention_layernorm.weight": (1, self.width),
            "mlp.gate_proj.weight": (self.hidden, self.width),
            "mlp.up_proj.weight": (self.hidden, self.width),
            "mlp.down_proj.weight": (self.width, self.hidden),
        }
        layers = {
            f"model.layers.{i}.{name}": size for i in range(self.layers) for name, size in layer.items()
        }
        return {
            "model.embed_tokens.weight": (self.vocabulary, self.width),
            **layers,
            "model.norm.weight": (1, self.width),
            "lm_head.weight": (self.vocabulary, self.width),
        }

    def to_config(self) -> dict[str, object]:
        """Return the shape under the names of a Hugging Face Qwen3 config.json."""
        numbers = asdict(self)
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **{theirs: numbers[ours] for ours, theirs in _CONFIG_KEYS.items()},
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_epsilon,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "dtype": "float32",
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Shape:
        """Read the shape from a config.json. Raises ModelError for another architecture or a missing key."""
        if config.get("model_type") != "qwen3":
            raise ModelError(f"this is a {spelled(config.get('model_type'))} model; gencli runs qwen3 models")
        for key, ours in _FIXED.items():
            if config.get(key, ours) != ours:
                raise ModelError(f"{key} is {spelled(config[key])}; gencli's models have {ours!r}")
        missing = [theirs for theirs in _CONFIG_KEYS.values() if theirs not in config]
        if missing:
            raise ModelError(f"config.json lacks {', '.join(missing)}")
        numbers = {ours: config[theirs] for ours, theirs in _CONFIG_KEYS.items()}
        for ours, theirs in _CONFIG_KEYS.items():
            _check_limits(theirs, numbers[ours], *_LIMITS[ours])
        rope = config.get("rope_parameters")
        theta = config.get("rope_theta")
        if isinstance(rope, Mapping):
            theta = rope.get("rope_theta")
            if rope.get("rope_type", "default") != "default":
                raise ModelError(f"rope_type is {spelled(rope['rope_type'])}; gencli's models have 'default'")
        return cls(**numbers, rope_theta=_float(theta), norm_epsilon=_float(config.get("rms_norm_eps")))  # type: ignore[arg-type]


def preset(name: str, vocabulary: int) -> Shape:
    """Return the shape called `name` (a key of PRESETS) for a vocabulary of that many pieces."""
    layers, width, heads, kv_heads, context = PRESETS[name]
    return Shape(
        vocabulary=vocabulary, layers=layers, width=width, heads=heads, kv_heads=kv_heads,
        head_width=width // heads, hidden=hidden_for(width), context=context,
    )  # fmt: skip


def hidden_for(width: int) -> int:
    """Return the inner width of a SwiGLU MLP: 8/3 of the model's, up to a multiple of 64 (Shazeer 2020)."""
    return -(-width * 8 // 3 // 64) * 64


def reshaped(
    shape: Shape,
    *,
    layers: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    context: int | None = None,
) -> Shape:
    """Return `shape` with the given numbers changed and all that follows from them made to fit."""
    new_width, new_heads = width or shape.width, heads or (shape.heads if width is None else 0)
    if not new_heads:
        new_heads = max(1, new_width // max(32, min(64, shape.head_width)))
    if new_width % new_heads:
        raise ModelError(f"a width of {new_width} can't be split into {new_heads} heads of equal width")
    return replace(
        shape,
        layers=layers or shape.layers,
        width=new_width,
        heads=new_heads,
        kv_heads=kv_heads or new_heads,
        head_width=new_width // new_heads,
        hidden=hidden_for(new_width),
        context=context or shape.context,
    )


def _check_limits(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ModelError(f"{name} must be a whole number from {least} to {most}, not {spelled(value)}")


def _float(value: object) -> float:
    """Return a number from JSON, NaN for anything else and for what no float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan
