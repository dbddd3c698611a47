"""A tiny model that was taught two labels, for the tests of what tells labels and confidence."""

from __future__ import annotations

from pathlib import Path

from gencli.model.folder import publish
from gencli.text.tokenizer import Tokenizer
from tests.conftest import random_model, tiny_shape

LABELS = ["강", "산"]


def labeller(path: Path, tokenizer: Tokenizer, *, task: object = None, seed: int = 3) -> Path:
    """Write a random model into a folder that says it was fine-tuned on the two labels, or on another task."""
    shape = tiny_shape(tokenizer.vocabulary)
    lineage = {"kind": "finetuned", "task": task or {"kind": "label", "labels": LABELS}}
    weights = random_model(shape, seed=seed).weights()
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage=lineage, card="# labeller\n")
    return path
