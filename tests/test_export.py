"""A GGUF file, read back by the library of the format; and by llama.cpp itself where llama-cpp-python is installed."""

from __future__ import annotations

import builtins
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli import storage
from gencli.errors import MachineError, ModelError, StoppedError
from gencli.model.folder import ModelFolder, open_model, publish
from gencli.model.gguf_file import write_gguf
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED, total_loss
from gencli.text.chat import Turn, chat_ids
from gencli.text.exchange import chat_template
from gencli.text.tokenizer import KINDS, Tokenizer, normalised
from tests.conftest import Cli, random_model, tiny_shape
from tests.test_exchange import ANY_TEXT, LOOKALIKES, PROBES, TIED_TEXT, TURNS, messages
from tests.trained import sentences, trained

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def published(path: Path, tokenizer: Tokenizer, *, kind: str = "pretrained", **shape: int) -> ModelFolder:
    """Return a folder with a random model."""
    made = tiny_shape(tokenizer.vocabulary, **shape)
    weights = random_model(made).weights()
    publish(path, weights, shape=made, tokenizer=tokenizer, lineage={"kind": kind}, card="# random\n")
    return open_model(path)


def their_name(name: str) -> str:
    """Return what llama.cpp calls one of our tensors."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        number, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{number}.{NAMES[part]}.weight"
    return f"{NAMES[stem]}.weight"


def facts_of(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("precision", ["float32", "float16", "q8_0"])
def test_the_tensors_are_those_of_the_model(precision: Any, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = published(tmp_path / "m", tokenizer)
    path = tmp_path / "m.gguf"
    assert write_gguf(folder, path, precision=precision) == path.stat().st_size
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    weights = folder.weights()
    assert set(found) == {their_name(name) for name in weights}
    for name, ours in weights.items():
        theirs = found[their_name(name)]
        assert tuple(int(size) for size in theirs.shape) == ours.shape[::-1]
        stored = theirs.tensor_type.name
        values = dequantize(theirs.data, theirs.tensor_type).reshape(ours.shape)
        if ours.ndim == 1 or precision == "float32":
            assert stored == "F32" and np.array_equal(values, ours)
        elif precision == "float16":
            assert stored == "F16" and np.array_equal(values, ours.astype(np.float16).astype(np.float32))
        else:
            blocks = ours.reshape(-1, 32)
            half_step = np.abs(blocks).max(axis=1, keepdims=True) / 127 / 2
            assert stored == "Q8_0"
            assert (np.abs(values.reshape(-1, 32) - blocks) <= 1.15 * half_step).all()


def test_a_matrix_that_has_no_whole_blocks_is_half_precision(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = published(tmp_path / "m", tokenizer, width=40, head_width=10)
    write_gguf(folder, tmp_path / "m.gguf", precision="q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.ffn_down.weight"] == "Q8_0"


@pytest.mark.parametrize(("kind", "model"), [("bpe", "llama"), ("char", "llama"), ("unigram", "t5")])
def test_the_facts_are_those_of_the_model(kind: str, model: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    folder = published(tmp_path / "이야기", tokenizer)
    write_gguf(folder, tmp_path / "m.gguf", precision="q8_0")
    facts, shape = facts_of(GGUFReader(tmp_path / "m.gguf")), folder.shape
    pieces = tokenizer.model.pieces
    tokenized = {
        "model": model, "tokens": [piece.text for piece in pieces], "token_type": [piece.role for piece in pieces],
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 3, "add_bos_token": True,
        "add_eos_token": False, "add_space_prefix": False, "remove_extra_whitespaces": False,
    }  # fmt: skip
    shaped = {
        "vocab_size": shape.vocabulary, "context_length": 64, "embedding_length": 32, "block_count": 2,
        "feed_forward_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2,
        "attention.key_length": 8, "attention.value_length": 8, "rope.dimension_count": 8,
        "rope.freq_base": 10_000.0,
    }  # fmt: skip
    general = {"architecture": "qwen3", "name": "이야기", "file_type": 7, "quantization_version": 2}
    for group, expected in (("tokenizer.ggml", tokenized), ("qwen3", shaped), ("general", general)):
        assert {key: facts[f"{group}.{key}"] for key in expected} == expected
    assert facts["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert facts["tokenizer.ggml.scores"] == pytest.approx([piece.score for piece in pieces])
    assert "tokenizer.chat_template" not in facts


def test_only_a_fine_tuned_model_has_a_template_and_it_renders_its_turns(tmp_path: Path) -> None:
    folder = published(tmp_path / "m", trained(), kind="finetuned")
    write_gguf(folder, tmp_path / "m.gguf")
    template = facts_of(GGUFReader(tmp_path / "m.gguf"))["tokenizer.chat_template"]
    rendered = jinja2.Environment().from_string(template).render(
        messages=messages(TURNS[:2]), add_generation_prompt=True
    )  # fmt: skip
    assert rendered == "<s><|system|>도와 줍니다.<|user|> hi\n\n there<|assistant|>"
    whole = jinja2.Environment().from_string(template).render(messages=messages(TURNS))
    assert whole.endswith("<|user|>또?<|assistant|> 끝 </s>")
    assert "generation %}" in chat_template()


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shape = tiny_shape(tokenizer.vocabulary)
    weights = random_model(shape).weights()
    weights["lm_head.weight"][3, 3] = 70_000
    publish(tmp_path / "m", weights, shape=shape, tokenizer=tokenizer, lineage={}, card="")
    for precision in ("float16", "q8_0"):
        with pytest.raises(ModelError, match=r"lm_head\.weight holds numbers too large") as caught:
            write_gguf(open_model(tmp_path / "m"), tmp_path / "m.gguf", precision=precision)
        assert "float32" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["m"]


def test_the_command_names_the_file_and_does_not_replace_it_unasked(
    cli: Cli, model_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "tale"
    shutil.copytree(model_folder, model)
    done = cli("export", "-m", model, "--to", "gguf", "--precision", "float16")
    path = tmp_path / "tale-float16.gguf"
    assert (done.code, done.out) == (0, f"{path}\n") and path.is_file()
    before = path.read_bytes()
    refused = cli("export", "-m", model, "--precision", "float16")
    assert refused.code == 5 and "--overwrite" in refused.err and path.read_bytes() == before
    record = cli("export", "-m", model, "--overwrite", "-o", path, "--json", "-q").records[0]
    assert record["file"] == str(path) and record["bytes"] == path.stat().st_size > len(before)
    assert record["parameters"] == open_model(model).shape.parameters


PLACES: list[tuple[str, Callable[[Path], object], int, str]] = [
    ("a folder", lambda path: path.mkdir(), 5, "this is a folder"),
    ("another file", lambda path: path.write_bytes(b"mine"), 5, "no GGUF file"),
    ("a device", lambda path: path.symlink_to("/dev/null"), 5, "not a regular file"),
    ("under a file", lambda path: path.parent.write_bytes(b""), 4, "can't write"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_a_place_that_is_not_for_such_a_file_is_left_alone(
    place: tuple[str, Callable[[Path], object], int, str], cli: Cli, model_folder: Path, tmp_path: Path
) -> None:
    what, make, code, told = place
    path = tmp_path / ("x/y" if what == "under a file" else "x")
    make(path)
    outcome = cli("export", "-m", model_folder, "-o", path, "--overwrite")
    assert outcome.code == code and told in outcome.err, outcome.err
    assert what != "another file" or path.read_bytes() == b"mine"


def test_a_model_in_the_current_folder_has_a_name(
    cli: Cli, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model_folder, tmp_path / "tale")
    monkeypatch.chdir(tmp_path / "tale")
    assert cli("export", "-m", ".", "-q").out == f"{tmp_path / 'tale-float32.gguf'}\n"


def test_stdout_is_no_place(cli: Cli, model_folder: Path) -> None:
    outcome = cli("export", "-m", model_folder, "-o", "-")
    assert outcome.code == 2 and "-o tale.gguf" in outcome.err


def test_without_the_library_the_way_to_install_it_is_told(
    cli: Cli, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "gguf":
            raise ModuleNotFoundError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    outcome = cli("export", "-m", model_folder, "-o", tmp_path / "m.gguf")
    assert outcome.code == 4 and "pip install gguf" in outcome.err
    assert not (tmp_path / "m.gguf").exists()


def test_a_full_disk_is_told_before_anything_is_written(
    cli: Cli, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 10, 10))
    outcome = cli("export", "-m", model_folder, "-o", tmp_path / "m.gguf")
    assert outcome.code == 4 and "too full" in outcome.err and not (tmp_path / "m.gguf").exists()


def test_a_signal_leaves_nothing_behind(tmp_path: Path, model_folder: Path) -> None:
    def stop(_: int) -> None:
        raise StoppedError(15)

    (tmp_path / "o").mkdir()
    with pytest.raises(StoppedError):
        write_gguf(open_model(model_folder), tmp_path / "o" / "m.gguf", progress=stop)
    assert list((tmp_path / "o").iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(open_model(model_folder), path)
    before = path.read_bytes()

    def fails(operation: str, *_: object) -> None:
        if operation == "rename":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "watch", fails)
    with pytest.raises(MachineError):
        write_gguf(open_model(model_folder), path, precision="float16", overwrite=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.glob("*.gguf*")] == ["m.gguf"]


def llama_of(path: Path, **options: Any) -> Any:
    """Return llama.cpp's model of a GGUF file; skip the test where llama-cpp-python is not installed."""
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python (the extra benchmarks) is not installed"
    )
    return llama_cpp.Llama(str(path), verbose=False, **options)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_gives_the_same_ids(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    write_gguf(published(tmp_path / "m", tokenizer), tmp_path / "m.gguf")
    theirs = llama_of(tmp_path / "m.gguf", vocab_only=True)
    known = {character for piece in tokenizer.model.pieces[264:] for character in piece.text} | {" ", "\n"}

    @settings(deadline=None, max_examples=200)
    @given(ANY_TEXT | TIED_TEXT | st.sampled_from([*PROBES, sentences(100, seed=9)]))
    def ids_are_equal(text: str) -> None:
        text = normalised(text)
        if kind == "unigram":  # it spells nothing in bytes there
            text = "".join(character for character in text if character in known)
        ids = theirs.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == tokenizer.encode(text)
        assert theirs.tokenize(text.encode(), special=False) == [1, *ids]
        assert theirs.detokenize(ids).decode() == text.replace("\u2581", " ")

    ids_are_equal()


@pytest.mark.peers
def test_llama_cpp_takes_typed_markers_for_text(tmp_path: Path) -> None:
    write_gguf(published(tmp_path / "m", trained()), tmp_path / "m.gguf")
    theirs = llama_of(tmp_path / "m.gguf", vocab_only=True)
    assert theirs.tokenize(LOOKALIKES.encode(), add_bos=False, special=False) == trained().encode(LOOKALIKES)
    assert theirs.tokenize(b"<|user|>", add_bos=False, special=True) == [5]


def learned(path: Path, kind: str, rows: list[list[int]], tokenizer: Tokenizer) -> ModelFolder:
    """Return a folder with a model that was taught these ids for a moment."""
    shape = tiny_shape(tokenizer.vocabulary, width=64, head_width=16)
    model = GPT(shape).initialise(torch.Generator().manual_seed(0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    length = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.pad] * (length - len(row)) for row in rows])
    targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == tokenizer.pad, IGNORED)
    for _ in range(40):
        optimizer.zero_grad()
        total_loss(model, tokens[:, :-1], targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    publish(path, model.weights(), shape=shape, tokenizer=tokenizer, lineage={"kind": kind}, card="")
    return open_model(path)


@pytest.mark.peers
def test_llama_cpp_writes_the_same_text(cli: Cli, tmp_path: Path) -> None:
    tokenizer = trained()
    lines = [tokenizer.encode(line + "\n")[:60] for line in sentences(24, seed=5).splitlines() if line]
    rows = [[tokenizer.bos, *line, tokenizer.eos] for line in lines]
    folder = learned(tmp_path / "m", "pretrained", rows, tokenizer)
    write_gguf(folder, tmp_path / "m.gguf")
    theirs = llama_of(tmp_path / "m.gguf", n_ctx=256)
    texts = set()
    for prompt in ("나는 ", "the old", "오늘 학교에", "\n\n", "너는 바다로 3.14"):
        ours = cli("generate", prompt, "-m", folder.path, "-t", 0, "-n", 30, "--json", "-q").records[0]
        assert theirs(prompt, max_tokens=30, temperature=0)["choices"][0]["text"] == ours["text"]
        texts.add(ours["text"])
    assert len(texts) > 2


@pytest.mark.peers
def test_llama_cpp_answers_the_same_in_turns(cli: Cli, tmp_path: Path) -> None:
    tokenizer = trained()
    asked = [f"{n} 더하기 1은?" for n in range(9)]
    pairs = [[Turn("user", text), Turn("assistant", f"답은 {n + 1}")] for n, text in enumerate(asked)]
    rows = [chat_ids(tokenizer, pair, answer=True)[0] for pair in pairs]
    folder = learned(tmp_path / "qa", "finetuned", rows, tokenizer)
    write_gguf(folder, tmp_path / "qa.gguf")
    theirs = llama_of(tmp_path / "qa.gguf", n_ctx=256)
    for prompt in (*asked[:3], "안녕"):
        ours = cli("generate", prompt, "-m", folder.path, "-t", 0, "-n", 30, "--json", "-q").records[0]
        said = theirs.create_chat_completion(
            [{"role": "user", "content": prompt}], max_tokens=30, temperature=0
        )
        assert said["choices"][0]["message"]["content"] == ours["text"] != ""
        assert ours["finish"] == "stop"


@pytest.mark.peers
@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-4), ("float16", 0.05), ("q8_0", 0.5)])
def test_llama_cpp_computes_the_same_logits(
    precision: Any, close: float, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    from gencli.decoding.cpu_engine import CpuEngine

    folder = published(tmp_path / "m", tokenizer, width=64, head_width=16)
    write_gguf(folder, tmp_path / "m.gguf", precision=precision)
    exact = {"type_k": 0, "type_v": 0}  # the cache in float32 too
    theirs = llama_of(tmp_path / "m.gguf", n_ctx=256, logits_all=True, **exact)
    ids = [1, *tokenizer.encode("강 산 그리고 바다.\nThe sea is")]
    theirs.eval(ids)
    ours = CpuEngine(folder.shape, folder.weights()).start([ids], slots=64)[0]
    assert np.abs(theirs.scores[len(ids) - 1] - ours).max() < close
