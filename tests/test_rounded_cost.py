"""`evaluate --precision int8` scores what the CPU engine computes with int8 weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gencli.decoding.cpu_engine import CpuEngine
from gencli.model.folder import open_model
from tests.conftest import Cli, tiny_text


def test_a_text_costs_what_its_tokens_do_one_by_one(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "held-out.txt"
    text.write_text(tiny_text(12), encoding="utf-8")
    folder = open_model(model_folder)
    record = cli("evaluate", text, "-m", model_folder, "--precision", "int8", "--json", "-q").records[0]
    ids: list[int] = []
    for document in tiny_text(12).strip().split("\n\n"):
        ids += [1, *folder.tokenizer.encode(document), 2]
    engine, nats = CpuEngine(folder.shape, folder.weights(), precision="int8"), 0.0
    for first in range(0, len(ids) - 1, folder.shape.context):
        window = ids[first : first + folder.shape.context + 1]
        logits = engine.start([window[:1]], slots=len(window))[0]
        for place, target in enumerate(window[1:]):
            exact = logits.astype(np.float64)
            nats += math.log(np.exp(exact - exact.max()).sum()) + exact.max() - exact[target]
            if place + 2 < len(window):
                logits = engine.step([target])[0]
    assert record["tokens"] == len(ids) - 1
    bits = nats / math.log(2) / text.stat().st_size
    assert float(str(record["bits_per_byte"])) == pytest.approx(bits, rel=1e-4)
    plain = cli("evaluate", text, "-m", model_folder, "--json", "-q").records[0]
    assert record["bits_per_byte"] != plain["bits_per_byte"]
    assert float(str(plain["bits_per_byte"])) == pytest.approx(bits, rel=0.02)


def test_pairs_are_scored_and_answered_with_int8_weights(
    cli: Cli, model_folder: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"prompt": "강 {n}", "completion": "산 {n}"}}\n' for n in range(8)))
    arguments = ["evaluate", pairs, "-m", model_folder, "--json", "-q"]
    rounded = cli(*arguments, "--precision", "int8").records[0]
    plain = cli(*arguments).records[0]
    assert (rounded["pairs"], rounded["tokens"]) == (plain["pairs"], plain["tokens"])
    assert rounded["loss"] != plain["loss"]
    assert float(str(rounded["loss"])) == pytest.approx(float(str(plain["loss"])), rel=0.02)
