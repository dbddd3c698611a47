"""Nothing that was read or generated steers the terminal, on whatever way it gets there."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from gencli.model.folder import publish
from gencli.text.corpus import open_corpus
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer
from gencli.ui import show
from tests.conftest import TRAINED_HERE, random_model, tiny_shape, tiny_text

ESC, BEL, ST = "\x1b", "\x07", "\x1b\\"
ESCAPES = [
    *(f"{ESC}[{code}" for code in ("2J", "3J", "1;1H", "31m", "?1049h", "6n", "c", ">0q", "5i", "20h", "99A", "!p")),
    *(f"{ESC}]{code}{BEL}" for code in ("0;title", "2;title", "52;c;aGk=", "4;1;red", "9;note", "1337;File=:", "10;?")),
    f"{ESC}]8;;http://example.org{ST}", f"{ESC}]0;title{ST}",
    f"{ESC}Pq{ST}", f"{ESC}P$qm{ST}", f"{ESC}_Ga=q;{ST}", f"{ESC}^private{ST}", f"{ESC}Xstring{ST}",
    *(f"{ESC}{code}" for code in ("c", "7", "8", "(0", "#8", "M", "=")),
    "\x9b2J", "\x9d0;title\x9c", "\x90q\x9c", "\x9fG\x9c", "\x85", "\x84", "\x8d",
    "\x05", "\x07", "\x08\x08", "\x0b", "\x0c", "\x0e", "\r", "\x7f",
    "\u202e", "\u2066", "\u200e", "\u200f", "\u061c", "\u2028", "\u2029", "\U000e0041",
]  # fmt: skip
MARK = "Q"
HOSTILE = "".join(escape + MARK for escape in ESCAPES)
IN_A_NAME = "".join(escape.replace("/", "") + MARK for escape in ESCAPES)[:70]  # a file name has 255 bytes
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]")  # colours, the cursor, lines drawn anew
STEERING = {
    0x061C,
    0x200E,
    0x200F,
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xE0000, 0xE0080),
}


def on_terminal(*arguments: object, data: bytes = b"") -> tuple[int, str]:
    """Return the exit code of a command and all that its terminal of 3000 columns was sent."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 3000, 0, 0))
    command = [sys.executable, "-m", "gencli", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=other, stderr=other, env=environment)
    os.close(other)
    seen = bytearray()

    def read() -> None:
        try:
            while block := os.read(main, 1 << 16):
                seen.extend(block)
        except OSError:
            return  # the last process closed its end

    reader = threading.Thread(target=read)
    reader.start()
    with process:
        process.communicate(data, timeout=120)
    reader.join(10)
    os.close(main)
    return process.returncode, seen.decode("utf-8", "replace")


def is_steering(ch: str) -> bool:
    return ch not in "\r\n\t" and (ord(ch) in STEERING or unicodedata.category(ch) == "Cc")


def assert_harmless(seen: str) -> None:
    assert not [escape for escape in ESCAPES if escape + MARK in seen.replace("\r\n", "\n")]
    assert not [ch for ch in OWN.sub("", seen) if is_steering(ch)]
    assert "Traceback" not in seen


@pytest.fixture(scope="module")
def hostile_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "text.txt"
    lines = [f"{escape}{MARK} " for escape in ESCAPES for _ in range(20)]
    path.write_text(tiny_text() + "".join(lines) + "\n\n" + tiny_text(), "utf-8")
    return path


@pytest.fixture(scope="module")
def hostile_tokenizer(hostile_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("hostile") / "tokenizer.model"
    tokenizer = train_tokenizer(open_corpus([hostile_text]), path, vocabulary=700).tokenizer
    assert any(ESC in tokenizer.piece(index) for index in range(tokenizer.vocabulary))
    TRAINED_HERE.append(tokenizer.model_bytes)
    return tokenizer


@pytest.fixture(scope="module")
def hostile_model(hostile_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose folder has a name, a lineage, pieces and files that would steer a terminal."""
    path = tmp_path_factory.mktemp("hostile") / IN_A_NAME
    shape = tiny_shape(hostile_tokenizer.vocabulary)
    lineage = {
        "kind": HOSTILE, "gencli": HOSTILE, "command": HOSTILE, "created": HOSTILE,
        "parent": {"path": HOSTILE}, "digests": {HOSTILE: HOSTILE}, "scores": {HOSTILE: HOSTILE},
    }  # fmt: skip
    publish(
        path,
        random_model(shape).weights(),
        shape=shape,
        tokenizer=hostile_tokenizer,
        lineage=lineage,
        card="",
    )
    (path / IN_A_NAME).write_text("x")
    return path


def told_on_terminal(*arguments: object, code: int = 0, data: bytes = b"") -> str:
    ended, seen = on_terminal(*arguments, data=data)
    assert_harmless(seen)
    assert ended == code, seen
    return seen


def test_a_prompt_and_generated_text(hostile_model: Path) -> None:
    seen = told_on_terminal(
        "generate", HOSTILE, "-m", hostile_model, "-n", 60, "-s", 1, "-t", 1.5, "--top-k", 0
    )
    assert show(HOSTILE) in seen
    told_on_terminal("generate", HOSTILE, "-m", hostile_model, "-n", 5, "--num-samples", 2, "--json")


def test_a_chat_and_what_it_loads(hostile_model: Path, tmp_path: Path) -> None:
    how = ["-m", hostile_model, "-n", 60, "-s", 1, "-t", 1.5, "--top-k", 0]
    line = HOSTILE.replace("\n", "")
    seen = told_on_terminal("chat", *how, code=2, data=f"{line}\n강\n/{line}\n".encode())
    assert "\\x" in seen.split("error: ")[0] and "no command" in seen
    (tmp_path / IN_A_NAME).write_text(json.dumps({"messages": [{"role": line, "content": line}]}), "utf-8")
    told_on_terminal("chat", *how, "--load", tmp_path / IN_A_NAME, code=3)


def test_the_text_of_ids(hostile_model: Path, hostile_tokenizer: Tokenizer) -> None:
    for ids in (hostile_tokenizer.encode(HOSTILE), [8 + byte for byte in HOSTILE.encode()]):
        seen = told_on_terminal("decode", "-m", hostile_model, data=" ".join(map(str, ids)).encode())
        assert show(HOSTILE) in seen
    told_on_terminal("decode", "-m", hostile_model, "--json", data=b"35 99 60 84")


def test_pieces(hostile_model: Path) -> None:
    for how in ("--pieces", "--json"):
        seen = told_on_terminal("encode", how, "-m", hostile_model, data=HOSTILE.encode())
        assert "\\x" in seen or "\\u001b" in seen


def test_the_report_on_a_tokenizer(hostile_text: Path, tmp_path: Path) -> None:
    corpus = tmp_path / IN_A_NAME
    corpus.mkdir()
    (corpus / "a.txt").write_text(hostile_text.read_text("utf-8") + f"\u2581{HOSTILE}\u2581\n", "utf-8")
    (corpus / f"{IN_A_NAME}.bin").write_bytes(b"x")
    seen = told_on_terminal("tokenize", corpus, "-m", tmp_path / f"m{IN_A_NAME}", "--vocab-size", 500)
    assert show(IN_A_NAME) in seen and "failures" in seen


def test_what_inspect_finds(hostile_model: Path) -> None:
    seen = told_on_terminal("inspect", "-m", hostile_model)
    assert seen.count(show(f"{ESC}[2J{MARK}")) >= 8
    told_on_terminal("inspect", "-m", hostile_model, "--json")


def test_training_and_its_samples(hostile_text: Path, hostile_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / IN_A_NAME
    small = ["--layers", 1, "--width", 32, "--heads", 2, "--context", 32, "--batch-size", 4]
    seen = told_on_terminal(
        "pretrain",
        hostile_text,
        "-m",
        folder,
        "--steps",
        4,
        "--vocab-size",
        500,
        *small,
        "--sample-prompt",
        HOSTILE,
    )
    assert show(HOSTILE)[:300] in seen and "done: 4 steps" in seen
    pairs = tmp_path / f"{IN_A_NAME}.jsonl"
    record = {"prompt": HOSTILE, "completion": HOSTILE, HOSTILE: 1}
    pairs.write_text(
        "".join(json.dumps({**record, "prompt": f"{HOSTILE}{n}"}) + "\n" for n in range(20)), "utf-8"
    )
    seen = told_on_terminal("finetune", pairs, "-m", folder, "-o", tmp_path / "tuned", "--steps", 2)
    assert seen.count(show(f"{ESC}[2J{MARK}")) >= 2
    told_on_terminal("evaluate", pairs, "-m", tmp_path / "tuned", "--batch-size", 4)


def bad_config(path: Path) -> list[object]:
    (path / "config.toml").write_text(f"{json.dumps(HOSTILE)} = {json.dumps(HOSTILE)}\n", "utf-8")
    return ["pretrain", path / "none", "-m", path / "m", "-c", path / "config.toml"]


def bad_value(path: Path) -> list[object]:
    (path / "config.toml").write_text(f"size = {json.dumps(HOSTILE)}\n", "utf-8")
    return ["pretrain", path / "none", "-m", path / "m", "-c", path / "config.toml"]


def bad_pairs(path: Path) -> list[object]:
    (path / IN_A_NAME).write_text(json.dumps({HOSTILE: HOSTILE}) + "\n", "utf-8")
    return ["finetune", path / IN_A_NAME, "-m", "{model}", "-o", path / "o"]


def bad_role(path: Path) -> list[object]:
    turns = [{"role": HOSTILE, "content": HOSTILE}]
    (path / "pairs.jsonl").write_text(json.dumps({"messages": turns}) + "\n", "utf-8")
    return ["finetune", path / "pairs.jsonl", "-m", "{model}", "-o", path / "o"]


def bad_table(path: Path) -> list[object]:
    (path / "pairs.csv").write_text(f"prompt,{HOSTILE.replace(',', '')}\na,b,c,{HOSTILE}\n", "utf-8")
    return ["finetune", path / "pairs.csv", "-m", "{model}", "-o", path / "o"]


def bad_lines(path: Path) -> list[object]:
    (path / "text.jsonl").write_text(json.dumps({HOSTILE: 1}) + f"\n{HOSTILE}\n", "utf-8")
    return ["tokenize", path / "text.jsonl", "-m", path / "m"]


def bad_tokenizer(path: Path) -> list[object]:
    (path / "tokenizer.model").write_bytes(b"\n\x0a" + b"\n\x08\x1b[2JQ\x9b1" + b"\x02")
    return ["encode", "x", "-m", path]


def bad_model_config(path: Path) -> list[object]:
    for name in ("tokenizer.model", "model.safetensors"):
        (path / name).write_bytes(b"x")
    (path / "config.json").write_text(json.dumps({"model_type": HOSTILE, HOSTILE: HOSTILE}), "utf-8")
    return ["inspect", "-m", path]


def bad_tensors(path: Path) -> list[object]:
    header = json.dumps({HOSTILE: {"dtype": HOSTILE, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return ["generate", "x", "-m", path]


@pytest.mark.parametrize(
    "make",
    [
        bad_config,
        bad_value,
        bad_pairs,
        bad_role,
        bad_table,
        bad_lines,
        bad_tokenizer,
        bad_model_config,
        bad_tensors,
    ],
)
def test_what_is_said_about_a_bad_file(
    make: Callable[[Path], list[object]], tmp_path: Path, model_folder: Path
) -> None:
    if make is bad_tensors:
        shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    arguments = [model_folder if part == "{model}" else part for part in make(tmp_path)]
    code, seen = on_terminal(*arguments)
    assert_harmless(seen)
    assert code in (2, 3) and "error: " in seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "x", "-m", IN_A_NAME],
        ["generate", "-f", IN_A_NAME, "-m", "{model}"],
        ["tokenize", IN_A_NAME, "-m", "m"],
        ["evaluate", IN_A_NAME, "-m", "{model}"],
        ["generate", "x", f"--{HOSTILE}"],
        [HOSTILE],
        ["pretrain", "x", "-m", "m", "--steps", HOSTILE],
        ["generate", "x", "-m", "{model}", "--engine", HOSTILE],
        ["decode", "-m", "{model}", HOSTILE],
        ["tokenize", "x", "-m", "m", "--encoding", HOSTILE],
    ],
    ids=lambda parts: " ".join(parts)[:30].encode("unicode-escape").decode(),
)
def test_what_is_said_about_a_bad_argument(
    arguments: list[str], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, seen = on_terminal(*(model_folder if part == "{model}" else part for part in arguments))
    assert_harmless(seen)
    assert code in (2, 3)


def test_into_a_pipe_text_stays_as_it_is_and_what_is_said_stays_harmless(
    hostile_model: Path, hostile_text: Path, tmp_path: Path
) -> None:
    model = ["-m", str(hostile_model)]

    def piped(*arguments: str, data: bytes = b"") -> tuple[bytes, str]:
        command = [sys.executable, "-m", "gencli", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=120)
        said = done.stderr.decode("utf-8")
        assert not [ch for ch in said if is_steering(ch) or ch == "\r"]
        return done.stdout, said

    assert piped("generate", HOSTILE, *model, "-n", "1", "-s", "1")[0].startswith(HOSTILE.encode())
    hot = ["-n", "400", "--min-new-tokens", "400", "-s", "1", "-t", "1.5", "--top-k", "0"]
    assert any(is_steering(ch) for ch in piped("chat", *model, *hot, data=b"x\n")[0].decode())
    ids, _ = piped("encode", *model, data=HOSTILE.encode())
    assert piped("decode", *model, data=ids)[0] == HOSTILE.encode()
    told = piped("tokenize", str(hostile_text), "-m", str(tmp_path / IN_A_NAME))
    assert show(IN_A_NAME) in told[1] and ESC not in told[0].decode()
    assert show(IN_A_NAME)[:20] in piped("inspect", "-m", str(tmp_path / f"{IN_A_NAME}x"))[1]
