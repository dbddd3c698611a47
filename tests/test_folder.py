"""Model folders: Hugging Face opens them as they are, and damage is found before use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import gencli.model.folder as model_folder_module
from gencli.errors import ModelError, RunStateError
from gencli.model.card import model_card
from gencli.model.folder import open_model, publish
from gencli.model.gpt import GPT
from tests.conftest import random_model, same, tiny_shape

TEXTS = [
    "나는 학교에 간다",
    "The sea is here.",
    "탭\t과\n\n줄",
    "😀👩‍👩‍👧 ok",
    "</s><s><|user|>x<|assistant|>",
    "  두 칸  ",
]


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the random model that a test may damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


@pytest.mark.parametrize("text", TEXTS)
def test_hugging_face_gives_the_same_ids_and_logits(model_folder: Path, text: str) -> None:
    opened = open_model(model_folder)
    ids = [opened.tokenizer.bos, *opened.tokenizer.encode(text)]
    peer = AutoTokenizer.from_pretrained(model_folder)
    assert peer(text)["input_ids"] == ids
    assert peer.decode(ids, skip_special_tokens=True) == opened.tokenizer.decode(ids) == text
    tokens = torch.tensor([ids])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(model_folder).eval()(tokens).logits
        ours = GPT(opened.shape).load(opened.weights())(tokens)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_what_is_published_is_what_is_opened(model_folder: Path) -> None:
    opened = open_model(model_folder)
    assert same(opened.weights(), random_model(opened.shape).weights())
    assert opened.lineage["tokenizer_sha256"] == opened.tokenizer.digest
    assert not opened.is_chat


def test_publishing_again_replaces_the_weights_whole(folder: Path) -> None:
    opened = open_model(folder)
    other = random_model(opened.shape, seed=9).weights()
    publish(
        folder,
        other,
        shape=opened.shape,
        tokenizer=opened.tokenizer,
        lineage={"kind": "finetuned"},
        card="# two\n",
    )
    again = open_model(folder)
    assert same(again.weights(), other) and again.is_chat
    assert "assistant" in json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert not list(folder.glob(".tmp-*"))


def test_an_interrupted_replacement_never_mixes_two_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(folder)
    shape = tiny_shape(opened.shape.vocabulary, layers=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_folder_module, "_save_arrays", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(folder, {}, shape=shape, tokenizer=opened.tokenizer, lineage={}, card="")
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        open_model(folder)


def test_a_folder_that_is_no_model_says_what_is_missing_and_which_are_near(folder: Path) -> None:
    with pytest.raises(ModelError, match="no such model") as caught:
        open_model(folder.parent / "nothing")
    assert str(folder) in caught.value.hint
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_model(folder)


@pytest.mark.parametrize(
    "config",
    ["", "[1]", "{", '{"model_type": "llama"}', '{"model_type": "qwen3", "vocab_size": 1e9}', "\ufeff{}"],
)
def test_strange_configurations_are_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError):
        open_model(folder)


@pytest.mark.parametrize("change", ["cut", "empty", "extra", "missing", "shape", "nan", "pickle"])
def test_damaged_weights_are_refused(folder: Path, change: str) -> None:
    path = folder / "model.safetensors"
    arrays = load_file(path)
    if change in ("cut", "empty", "pickle"):
        data = path.read_bytes()
        path.write_bytes({"cut": data[:-9], "empty": b"", "pickle": b"\x80\x04}." + b" " * 90}[change])
    else:
        name = "model.norm.weight"
        if change == "missing":
            del arrays[name]
        elif change == "extra":
            arrays["model.extra"] = arrays[name]
        elif change == "shape":
            arrays[name] = arrays[name][:-1]
        else:
            arrays[name] = arrays[name] * float("nan")
        save_file(arrays, path)
    with pytest.raises(ModelError) as caught:
        open_model(folder).weights()
    assert str(path) in caught.value.where


def test_another_tokenizer_is_refused(folder: Path) -> None:
    lineage = json.loads((folder / "gencli.json").read_text())
    lineage["tokenizer_sha256"] = "0" * 64
    (folder / "gencli.json").write_text(json.dumps(lineage))
    with pytest.raises(RunStateError, match="tokenizer"):
        _ = open_model(folder).tokenizer


def test_the_card_tells_the_shape_and_the_scores() -> None:
    card = model_card(
        "tale", tiny_shape(), {"command": "pretrain", "scores": {"val_bits_per_byte": 1.25, "step": 10}}
    )
    assert f"{tiny_shape().parameters:,}" in card and "1.2500" in card and "from scratch" in card
    tuned = model_card(
        "qa", tiny_shape(), {"kind": "finetuned", "command": "finetune", "parent": {"path": "models/tale"}}
    )
    assert "models/tale" in tuned and "not measured" in tuned
