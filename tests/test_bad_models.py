"""Model folders from strangers: whatever in them is not a model of gencli's is refused before it is used."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gencli.model.folder import Arrays, open_model
from gencli.model.tensors import TensorFile
from tests.bad_inputs import Row, met, row
from tests.conftest import Cli

INSPECT = "inspect -m {bad}"
GENERATE = "generate x -m {bad} -n 1 -s 1 -q --json"
EVALUATE = "evaluate {text} -m {bad} -q --json"
NORM = "model.norm.weight"
RUNS_CODE = b"\x80\x02cos\nsystem\n(S'touch canary'\ntR."  # a pickle that would make a file
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
PAGE = b"<!DOCTYPE html><html>404 Not Found</html>"

Header = dict[str, object]
Change = Callable[[Header], object]


def weights(name: str, content: bytes | Callable[[bytes], bytes], *told: str, command: str = INSPECT) -> Row:
    """Return a row with another file of weights, made of the whole one by a function or given."""

    def make(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return row(name, make, command, 3, "model.safetensors", *told, file="copy")


def header(name: str, change: Change, *told: str) -> Row:
    """Return a row with a changed header; `change` changes it or returns another text for it."""

    def changed(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        value = json.loads(data[8 : 8 + length])
        text = change(value)
        return framed(text if isinstance(text, bytes) else json.dumps(value).encode(), data[8 + length :])

    return weights(name, changed, *told)


def entry(name: str, *told: str, **change: object) -> Row:
    """Return a row with other things said of one tensor."""
    return header(name, lambda value: value[NORM].update(change), *told)  # type: ignore[attr-defined]


def tensors(
    name: str,
    change: Callable[[dict[str, np.ndarray]], object],
    *told: str,
    code: int = 3,
    command: str = GENERATE,
) -> Row:
    """Return a row with other tensors, written as the library writes them."""

    def make(folder: Path) -> None:
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")

    return row(name, make, command, code, *told, file="copy")


def config(name: str, content: bytes | Header, code: int, *told: str, command: str = INSPECT) -> Row:
    """Return a row with another config.json: the bytes given, or the whole one with other values."""

    def make(folder: Path) -> None:
        path = folder / "config.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **content}))

    return row(name, make, command, code, *told, file="copy")


def framed(text: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def renamed(target: str, content: bytes = RUNS_CODE) -> Callable[[Path], None]:
    """Return what puts another file in the place of the weights."""

    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / target).write_bytes(content)

    return make


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what puts something else than a file in the place of the file called `name`."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def as_folder(path: Path) -> None:
    path.mkdir()


def lineage(**change: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "gencli.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return make


def wrapped(prefix: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for name in list(arrays):
            arrays[prefix + name] = arrays.pop(name)

    return change


def put(name: str, *values: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Return what writes values over the first numbers of a tensor."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name].reshape(-1)[: len(values)] = values

    return change


def called(name: str) -> Change:
    """Return what gives a tensor another name."""
    return lambda value: value.update({name: value.pop(NORM)})


def of_type(kind: str) -> Callable[[dict[str, np.ndarray]], None]:
    """Return what stores a tensor as numbers of another type."""
    return lambda arrays: arrays.update({NORM: arrays[NORM].astype(kind)})


def twin(value: Header) -> bytes:
    text = json.dumps(value)
    return f'{text[:-1]}, "{NORM}": {json.dumps(value[NORM])}}}'.encode()


def spread(value: Header) -> None:
    value[f"{NORM}2"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def many(value: Header) -> None:
    value.update({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)})


WEIGHTS = [
    *(
        row(f"K01{Path(name).suffix}", renamed(name), INSPECT, 3, "has no model.safetensors", told, file="copy")
        for name, told in [
            ("pytorch_model.bin", "can run code"), ("model.pt", "can run code"), ("model.pth", "can run code"),
            ("last.ckpt", "can run code"), ("model.pkl", "can run code"), ("__0_0.distcp", "can run code"),
            ("model.npz", "try:"), ("model.npy", "try:"),
        ]
    ),
    weights("K02-pickle", RUNS_CODE, "a Python pickle", "can run code"),
    weights("K02-zip", b"PK\x03\x04" + bytes(90), "a zip archive", "can run code"),
    weights("K02-pointer", POINTER, "git lfs pull"),
    weights("K02-page", PAGE, "a web page", "download the file itself"),
    weights("K03-zip-behind", lambda data: data + b"PK\x03\x04" + bytes(90), "the file was damaged"),
    weights("K04-empty", b"", "is empty"),
    weights("K04-four-bytes", bytes(4), "no safetensors file"),
    weights("K04-cut", lambda data: data[:-1], "the file was damaged"),
    weights("K04-longer", lambda data: data + b"\0", "the file was damaged"),
    weights("K05-endless-header", struct.pack("<Q", 1 << 63) + b"{}", "too many"),
    weights("K05-large-header", struct.pack("<Q", 101 << 20) + b"{}", "105,906,176 bytes: too many"),
    weights("K05-past-the-end", struct.pack("<Q", 999) + b"{}", "cut short"),
    header("K06-no-utf-8", lambda _: b'{"\xff": 1}', "not UTF-8", "byte 2"),
    header("K06-no-json", lambda _: b"{nonsense", "not JSON", "(header):1:2"),
    header("K06-a-list", lambda _: b"{} []", "text after the JSON object"),
    header("K06-deep", lambda _: b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    header("K06-no-object", lambda value: value.update({NORM: 7}), f"the tensor {NORM} is not described"),
    entry("K07-overlap", "does not begin where", data_offsets=[0, 128]),
    entry("K07-gap", "does not begin where", data_offsets=[10**6, 10**6 + 128]),
    entry("K07-backwards", "which is not what its shape", data_offsets=[128, 0]),
    entry("K07-other-size", "which is not what its shape", shape=[33]),
    entry("K07-giant", "which is not what its shape", shape=[1 << 52, 1 << 52]),
    entry("K07-beyond-giant", "no whole number", shape=[1 << 62, 1 << 62]),
    entry("K07-negative", "no whole number", shape=[-32]),
    entry("K07-fraction", "no whole number", shape=[32.0]),
    entry("K07-truth", "no whole number", shape=[True]),
    entry("K07-words", "no whole number", data_offsets="0-128"),
    entry("K07-unknown-type", "gencli reads F32, F16, BF16", dtype="F33"),
    entry("K07-odd-type", "gencli reads", dtype=["F32"]),
    entry("K07-further-key", "is not described by", code="import os"),
    header("K08-twice", twin, f"the key '{NORM}' is given twice"),
    *(
        header(f"K09-{what}", called(name), "odd name", told)
        for what, name, told in [
            ("nul", "a\0b", "'a\\x00b'"), ("escape", "a\x1b[2J", "'a\\x1b[2J'"), ("markup", "[red]", "[red]"),
            ("endless", "x" * (1 << 20), "xxx'"), ("path", "../x", "../x"), ("nothing", "", "''"),
        ]
    ),
    tensors("K10-missing", lambda arrays: arrays.pop(NORM), f"missing: {NORM}", "of one model", command=INSPECT),
    tensors("K10-further", lambda a: a.update({"extra": a[NORM]}), "unknown: extra", command=INSPECT),
    tensors("K10-renamed", wrapped("bert."), "missing:", "; unknown: bert.", "and 20 more", command=INSPECT),
    tensors("K10-compiled", wrapped("_orig_mod."), "begin with '_orig_mod.'", command=INSPECT),
    tensors("K10-parallel", wrapped("module."), "begin with 'module.'", command=INSPECT),
    tensors("K10-flat", lambda a: a.update({NORM: a[NORM][None]}), "shape (1, 32), not (32,)", command=INSPECT),
    header("K11-many", many, "tensors are more than a model has"),
    header("K12-none", lambda value: value.clear(), "the file was damaged"),
    weights("K12-no-tensor", framed(b"{}", b""), "missing: model.embed_tokens.weight"),
    header("K12-empty-tensor", spread, "unknown: model.norm.weight2"),
    tensors("K13-nan", put(NORM, *[np.nan] * 32), "not finite"),
    tensors("K14-one-infinity", put("lm_head.weight", np.inf), "lm_head.weight holds numbers that are not finite"),
    tensors("K14-both-infinities", put("lm_head.weight", np.inf, -np.inf), "not finite"),
    *(
        tensors(f"K15-{kind}", of_type(kind), "gencli reads")
        for kind in ("float64", "int8", "int64", "bool")
    ),
    entry("K15-float8", "gencli reads", dtype="F8_E4M3"),
    tensors(
        "K15-half-precision-is-read", lambda a: a.update({n: x.astype("float16") for n, x in a.items()}), code=0
    ),
]  # fmt: skip

FOLDERS = [
    *(
        row(f"K16-{kind}-{name}", replaced(name, make), INSPECT, 3, f"{name} is not a regular file", file="copy")
        for name in ("model.safetensors", "config.json", "tokenizer.model", "gencli.json")
        for kind, make in [("folder", as_folder), ("pipe", os.mkfifo)]
    ),
    row("K16-device", replaced("config.json", lambda p: p.symlink_to("/dev/zero")), INSPECT, 3, "regular", file="copy"),
    row(
        "K17-index",
        renamed("model.safetensors.index.json", b'{"weight_map": {"a": "../../etc/passwd", "b": "http://a/b"}}'),
        INSPECT, 3, "here they are in several", file="copy",
    ),
    row("K19-newer", lineage(format=99), INSPECT, 5, "format 1, and this one says 99", file="copy"),
    row("K20-odd-format", lineage(format=[1]), INSPECT, 5, "says a list", file="copy"),
    row("K20-no-lineage", lambda folder: (folder / "gencli.json").unlink(), GENERATE, 0, file="copy"),
    row("K20-odd-lineage", lineage(parent=[], scores=7, kind={}, digests="x"), INSPECT, 0, file="copy"),
    row("K22-archive", b"PK\x03\x04" + bytes(90), "inspect -m {bad}", 3, "a file, not a model folder", file="model.zip"),
    row("K22-one-file", RUNS_CODE, GENERATE, 3, "a file, not a model folder", file="model.pt"),
    row("T12-another-tokenizer", lineage(tokenizer_sha256="0" * 64), GENERATE, 5, "sha256 begins with 0000", file="copy"),
]  # fmt: skip

CONFIGS = [
    config("G01-empty", b"", 3, "not JSON", "config.json:1:1"),
    config("G01-no-json", b'{"model_type":\n qwen3}', 3, "not JSON", "config.json:2:2"),
    config("G01-list", b"[1]", 3, "expected a JSON object, found a list"),
    config("G01-mark", b"\xef\xbb\xbf{}", 3, "byte order mark", "config.json:1:1"),
    config("G01-key-twice", b'{"a": 1, "a": 2}', 3, "the key 'a' is given twice"),
    config("G01-nan", b'{"rms_norm_eps": NaN}', 3, "NaN is not JSON"),
    config("G01-infinity", b'{"rms_norm_eps": Infinity}', 3, "Infinity is not JSON"),
    config("G01-giant", b'{"vocab_size": ' + b"9" * 5000 + b"}", 3, "4,300 digits"),
    config("G01-deep", b'{"a": ' + b"[" * 100_000, 3, "nested too deeply"),
    config("G01-text-after", b"{} {}", 3, "text after the JSON object", "config.json:1:4"),
    config("G01-utf-16", '{"a": 1}'.encode("utf-16"), 3, "not UTF-8"),
    config("G01-page", PAGE, 3, "a web page"),
    config("G01-pointer", POINTER, 3, "git lfs pull"),
    config("G01-large", b"{" + b" " * (9 << 20) + b"}", 3, "too large"),
    config("G02-other-model", {"model_type": "llama"}, 3, "'llama' model; gencli runs qwen3"),
    config("G02-odd-model", {"model_type": [["x"]]}, 3, "a list model"),
    config("G02-tied", {"tie_word_embeddings": True}, 3, "tie_word_embeddings is True"),
    config("G02-biased", {"attention_bias": True}, 3, "attention_bias is True"),
    config("G02-activation", {"hidden_act": "gelu"}, 3, "hidden_act is 'gelu'"),
    config("G02-rope-type", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, 3, "rope_type is 'yarn'"),
    config("G02-rope-scaling", {"rope_scaling": {"type": "linear"}}, 3, "rope_scaling is an object"),
    config("G03-text", {"num_hidden_layers": "12"}, 3, "num_hidden_layers must be a whole number", "'12'"),
    config("G03-fraction", {"num_hidden_layers": 2.0}, 3, "whole number", "2.0"),
    config("G03-truth", {"num_hidden_layers": True}, 3, "whole number", "True"),
    config("G03-null", {"vocab_size": None}, 3, "vocab_size", "null"),
    config("G03-list", {"vocab_size": [400]}, 3, "vocab_size", "a list"),
    config("G03-odd-rope", {"rope_parameters": {"rope_theta": "1"}}, 3, "rope_theta must be a positive number"),
    config("G04-layers", {"num_hidden_layers": 10**7}, 3, "from 1 to 256"),
    config("G04-width", {"hidden_size": 10**6}, 3, "hidden_size"),
    config("G04-context", {"max_position_embeddings": 10**9}, 3, "max_position_embeddings"),
    config("G04-vocabulary", {"vocab_size": 1 << 31}, 3, "vocab_size"),
    config("G04-heads", {"num_attention_heads": 257}, 3, "num_attention_heads"),
    *(
        config(f"G04-{key}-without-weights", {key: value}, 3, "config.json", command=EVALUATE)
        for key, value in [
            ("vocab_size", 1 << 20), ("hidden_size", 16_384), ("intermediate_size", 131_072),
            ("num_hidden_layers", 256), ("num_attention_heads", 256), ("head_dim", 1024),
        ]
    ),
    config("G04-table", {"max_position_embeddings": 1 << 20, "head_dim": 1024}, 3, "too long for heads", command=EVALUATE),
    config("G05-zero", {"hidden_size": 0}, 3, "hidden_size", "not 0"),
    config("G05-negative", {"num_hidden_layers": -1}, 3, "not -1"),
    config("G05-uneven", {"num_attention_heads": 3}, 3, "can't share"),
    config("G05-odd-head", {"head_dim": 7}, 3, "must be even"),
    config("G05-boundless", {"rope_theta": 1e4, "rope_parameters": None, "rms_norm_eps": 10**400}, 3, "norm_epsilon"),
    config("G06-code", {"auto_map": {"AutoModel": "evil.py"}, "__class__": "x", "_target_": "os.system"}, 0),
    config("G07-paths", {"out_dir": "/etc", "tokenizer_file": "../../etc/passwd"}, 0, command=GENERATE),
]  # fmt: skip


@pytest.mark.parametrize("row", [*WEIGHTS, *FOLDERS, *CONFIGS], ids=str)
def test_a_model_folder_is_used_only_if_all_of_it_makes_sense(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if row.file == "copy":
        shutil.copytree(model_folder, tmp_path / "copy")
    outcome = met(row, cli, tmp_path, text=corpus_file)
    assert not (tmp_path / "canary").exists()
    assert "\x1b" not in outcome.err


def test_k18_weights_that_shrink_while_they_are_read_are_refused(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    real = TensorFile.arrays

    def shrinking(file: TensorFile) -> object:
        with (copy / "model.safetensors").open("r+b") as opened:
            opened.truncate(5000)
        return real(file)

    monkeypatch.setattr(TensorFile, "arrays", shrinking)
    outcome = cli(*GENERATE.format(bad=copy).split())
    assert outcome.code == 3 and "became shorter while it was read" in outcome.err


def test_k15_bfloat16_is_read_as_the_numbers_it_stands_for(model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    arrays = load_file(copy / "model.safetensors")
    described: Header = {}
    data = b""
    for name, array in arrays.items():
        halves = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        described[name] = {
            "dtype": "BF16",
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + len(halves)],
        }
        data += halves
    (copy / "model.safetensors").write_bytes(framed(json.dumps(described).encode(), data))
    read: Arrays = open_model(copy).weights()
    for name, array in arrays.items():
        np.testing.assert_allclose(read[name], array, rtol=1 / 128)
        assert not np.any(read[name].view(np.uint32) & 0xFFFF)
