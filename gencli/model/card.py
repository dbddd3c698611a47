"""The README.md of a model folder: what the model is, where it comes from, how to use it."""

from __future__ import annotations

from collections.abc import Mapping

from gencli.model.shape import Shape

_MEMORY = """`memory.jsonl` holds the text of the pairs of its fine-tuning, so that `gencli generate --recall` can
say which one an answer is from. Without it and `memory.safetensors` the model answers by itself alone.
"""


def model_card(name: str, shape: Shape, about: Mapping[str, object]) -> str:
    """Return the card in Markdown; `about` is what gencli.json says."""
    scores = about.get("scores")
    scores = scores if isinstance(scores, Mapping) else {}
    tuned = about.get("kind") == "finetuned"
    parent = about.get("parent")
    origin = (
        f"fine-tuned from `{parent.get('path')}`" if isinstance(parent, Mapping) else "trained from scratch"
    )
    rows = {
        "parameters": f"{shape.parameters:,}",
        "layers × width": f"{shape.layers} × {shape.width}",
        "heads (key-value)": f"{shape.heads} ({shape.kv_heads})",
        "context": f"{shape.context:,} tokens",
        "vocabulary": f"{shape.vocabulary:,} pieces",
        "steps": f"{scores.get('step', 0):,}",
        "held-out loss": _figure(scores.get("val_loss"), "nats per token"),
        "held-out bits per byte": _figure(scores.get("val_bits_per_byte"), ""),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    wrapping = (
        "The prompt is wrapped in its turn; `--raw` leaves it as it is."
        if tuned
        else "The prompt is continued."
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [gencli, qwen3]
---

# {name}

A small GPT, {origin} with `gencli {about.get("command")}`.

| | |
|---|---|
{table}

    gencli generate -m {name} "..."

{wrapping} Hugging Face's `AutoModelForCausalLM` and `AutoTokenizer` open this folder as it is.

A model of this size writes plausible text, not facts: check what it says.
"""


def with_memory(card: str) -> str:
    """Return the card of a model that keeps the pairs that it learned from."""
    return card if _MEMORY in card else f"{card}\n{_MEMORY}"


def _figure(value: object, unit: str) -> str:
    return f"{value:.4f} {unit}".strip() if isinstance(value, int | float) else "not measured"
