"""gencli verify: what is whole is said to be, what is damaged is named, and a run is made again bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gencli.storage import digest_of
from gencli.training import checkpoint
from tests.conftest import Cli, tiny_text

TOY = ["--layers", "2", "--width", "32", "--context", "32", "--threads", "1", "-q"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    (folder / "corpus.txt").write_text(tiny_text(60), encoding="utf-8")
    rows = [json.dumps({"prompt": f"강 {n}?", "completion": "river"}) for n in range(20)]
    (folder / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def model(workplace: Path, cli: Cli) -> Path:
    """Return a model with checkpoints of steps 15 and 20, made once for the module."""
    path = workplace / "model"
    if not path.exists():
        outcome = cli(
            "pretrain", workplace / "corpus.txt", "-m", path, "--steps", 20, "--save-every", 5, "--vocab-size", 400,
            "--dropout", 0.1, *TOY,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    return path


def test_a_whole_model_is_said_to_be_whole(model: Path, cli: Cli) -> None:
    outcome = cli("verify", model, "--json")
    assert outcome.code == 0, outcome.err
    places = {str(record["place"]): record["damaged"] for record in outcome.records}
    expected = {
        "model.safetensors",
        "config.json",
        "tokenizer.model",
        "tokenizer.json",
        "training/step-00000020",
    }
    assert expected <= set(places) and not any(places.values())
    assert "step-00000015" in cli("verify", "-m", model).out


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.model", "tokenizer.json", "training/step-00000015/state.json",
     "training/step-00000020/optimizer.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("gone", [False, True])
def test_what_is_damaged_is_named(model: Path, cli: Cli, name: str, gone: bool) -> None:
    file = model / name
    data = file.read_bytes()
    try:
        file.unlink()
        if not gone:
            file.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        outcome = cli("verify", model, "--json")
    finally:
        file.write_bytes(data)
    assert outcome.code == 3
    told = [f"{r['place']} {r['verdict']}" for r in outcome.records if r.get("damaged")]
    assert any(file.name in line for line in told), outcome.out
    assert cli("verify", model).code == 0


def test_weights_of_before_an_interrupted_publication_are_known(model: Path, cli: Cli) -> None:
    lineage = model / "gencli.json"
    text = lineage.read_text("utf-8")
    about = json.loads(text)
    about["weights_before"], about["files"]["model.safetensors"] = (
        about["files"]["model.safetensors"],
        "0" * 64,
    )
    lineage.write_text(json.dumps(about), "utf-8")
    outcome = cli("verify", model)
    lineage.write_text(text, "utf-8")
    assert outcome.code == 0 and "cut short" in outcome.out


def test_a_run_is_made_again_bit_by_bit(model: Path, cli: Cli) -> None:
    before = sorted(model.rglob("*"))
    part = cli("verify", model, "--resume-exact", 3, "--json").records[-1]
    assert (part["start"], part["steps"], part["tensors"], part["difference"]) == (15, 3, 0, None)
    whole = cli("verify", model, "--resume-exact", 99)
    assert whole.code == 0 and "5 steps after step 15: bit-identical" in whole.err
    assert sorted(model.rglob("*")) == before


def test_a_fine_tuned_run_is_made_again_too(workplace: Path, model: Path, cli: Cli) -> None:
    tuned = workplace / "tuned"
    outcome = cli(
        "finetune", workplace / "pairs.jsonl", "-m", model, "-o", tuned, "--steps", 6, "--save-every", 2, "--threads",
        1, "-q",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "2 steps after step 4: bit-identical" in cli("verify", tuned, "--resume-exact", 2).err


@pytest.mark.parametrize("part", ["log", "tensor"])
def test_the_first_difference_is_named(model: Path, cli: Cli, part: str) -> None:
    log, newest = model / "training" / "metrics.jsonl", model / "training" / "step-00000020"
    weights, manifest = newest / checkpoint.WEIGHTS, newest / checkpoint.MANIFEST
    before = {path: path.read_bytes() for path in (log, weights, manifest)}
    try:
        if part == "log":
            lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
            for line in lines:
                if line["event"] == "step" and line["step"] == 17:
                    line["loss"] = np.nextafter(line["loss"], 9)
            log.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        else:
            tensors = load_file(weights)
            tensors["model.norm.weight"] = np.nextafter(tensors["model.norm.weight"], np.float32(9))
            save_file(tensors, weights)
            listed = json.loads(manifest.read_text("utf-8"))
            listed["files"][weights.name] = {
                "bytes": weights.stat().st_size, "sha256": digest_of(weights)
            }  # fmt: skip
            manifest.write_text(json.dumps(listed), "utf-8")
        outcome = cli("verify", model, "--resume-exact", 9)
    finally:
        for path, data in before.items():
            path.write_bytes(data)
    assert outcome.code == 5
    assert ("step 17: loss" if part == "log" else "step 20: tensor model.norm.weight") in outcome.err
