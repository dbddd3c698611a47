"""Configurations, flags, places, prompts and surroundings: each that can't be is refused before anything is touched."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gencli.knobs import Common, Knob, flag_of, knobs_of
from tests.bad_inputs import Row, contents, met, row
from tests.conftest import Cli
from tests.options_table import commands

PRETRAIN = "pretrain {text} -m {new}"
CONFIGURED = f"{PRETRAIN} --steps 1 -c {{bad}}"
GENERATE = "generate -m {model} -n 2 -s 1 -q"
PROMPTED = f"{GENERATE} -f {{bad}}"

CONFIGS = [
    row("G01-missing", b"", f"{PRETRAIN} -c {{tmp}}/none.toml", 3, "can't be read: no such file"),
    row("G01-no-toml", "steps 5", CONFIGURED, 3, "can't be read", "line 1"),
    row("G01-a-list", "[1]\n= 2", CONFIGURED, 3, "can't be read"),
    row("G01-key-twice", "steps = 5\nsteps = 6", CONFIGURED, 3, "can't be read", "overwrite a value"),
    row("G01-utf-16", "steps = 5".encode("utf-16"), CONFIGURED, 3, "can't be read"),
    row("G01-deep", "steps = " + "[" * 100_000, CONFIGURED, 3, "can't be read"),
    row("G01-pipe", os.mkfifo, CONFIGURED, 3, "not a regular file"),
    row("G01-device", lambda path: path.symlink_to("/dev/zero"), CONFIGURED, 3, "not a regular file"),
    row("G01-folder", lambda path: path.mkdir(), CONFIGURED, 3, "not a regular file"),
    row("G01-large", "#" * (2 << 20), CONFIGURED, 3, "too large for a configuration"),
    row("G02-unknown-key", "stepz = 5", CONFIGURED, 3, "unknown key 'stepz', did you mean steps?"),
    row("G02-table", "[steps]\na = 1", CONFIGURED, 3, "steps should be a whole number"),
    row("G03-text", 'steps = "5"', CONFIGURED, 3, "steps should be a whole number, not '5'"),
    row("G03-fraction", "steps = 5.0", CONFIGURED, 3, "steps should be a whole number"),
    row("G03-truth", "steps = true", CONFIGURED, 3, "steps should be a whole number"),
    row("G03-number-for-a-text", "kind = 1", CONFIGURED, 3, "kind should be a text"),
    row("G03-number-for-a-path", "model = 1", CONFIGURED, 3, "model should be a path"),
    row("G03-list-of-lists", "corpus = [[1]]", CONFIGURED, 3, "corpus should be a list of texts"),
    row("G03-nul", 'corpus = ["a\\u0000b"]', CONFIGURED, 3, "corpus holds a NUL"),
    row("G04-layers", "layers = 10000000", CONFIGURED, 2, "layers must be from 1 to 256"),
    row("G04-width", "width = 1000000", CONFIGURED, 2, "width must be from 8 to"),
    row("G04-context", "context = 1000000000", CONFIGURED, 2, "context must be from 8 to"),
    row("G04-vocabulary", "vocab-size = 2147483648", CONFIGURED, 2, "vocab_size must be from 320 to"),
    row("G05-zero", "steps = 0", f"{PRETRAIN} -c {{bad}}", 2, "steps must be from 1 to"),
    row("G05-uneven", "width = 30\nheads = 4", CONFIGURED, 2, "30 can't be split into 4 heads"),
    row("G05-dropout", "dropout = 1.5", CONFIGURED, 2, "dropout must be from 0 to 0.9"),
    row("G05-negative-dropout", "dropout = -0.1", CONFIGURED, 2, "dropout must be from"),
    row("G05-nan", "dropout = nan", CONFIGURED, 2, "dropout must be from"),
    row("G05-boundless", "learning_rate = 1e999", CONFIGURED, 2, "learning_rate must be from"),
    row("G05-giant", f"learning_rate = 1{'0' * 400}", CONFIGURED, 2, "learning_rate must be from"),
    row("G05-beyond-giant", f"steps = 1{'0' * 5000}", f"{PRETRAIN} -c {{bad}}", 3, "can't be read"),
    row("G06-code", '__class__ = "os.system"', CONFIGURED, 3, "unknown key '__class__'"),
    row("G06-nested-config", 'config = "other.toml"', CONFIGURED, 3, "unknown key 'config'"),
]  # fmt: skip

DEVICES = [
    row("X02-apple", b"", f"{PRETRAIN} --steps 1 --device mps", 4, "no device 'mps'", "auto, cpu"),
    row("X02-seventh", b"", f"{GENERATE} x --device cuda:77", 4, "no device 'cuda:77'", "auto, cpu"),
    row("X02-unknown", b"", "evaluate {text} -m {model} --device gpu", 4, "no device 'gpu'"),
    row(
        "X02-engine",
        b"",
        f"{GENERATE} x --engine cpu --device cuda",
        2,
        "can't run on cuda",
        "--engine torch",
    ),
]

PLACES = [
    row("X03-nothing-to-resume", lambda path: path.mkdir(), "pretrain {text} -m {bad} --resume", 5, "no run to resume"),
    row("X04-file", b"mine", "pretrain {text} -m {bad} --steps 1", 4, "bad.txt", "untouched"),
    row("X04-file-tokenized", b"mine", "tokenize {text} -m {bad}", 4, "bad.txt", "untouched"),
    row("X04-file-tuned", b'{"prompt": "a", "completion": "b"}', "finetune {bad} -m {model} -o {bad}", 4, "untouched"),
    row("X04-root", b"", "pretrain {text} -m / --steps 1", 5, "a folder of its own"),
    row("X04-root-tokenized", b"", "tokenize {text} -m /", 5, "a folder of its own"),
    row("X04-home", lambda path: path.mkdir(), "pretrain {text} -m {bad} --steps 1", 5, "its own", file="home"),
    row("X04-home-tokenized", lambda path: path.mkdir(), "tokenize {text} -m {bad}/.", 5, "its own", file="home"),
    row("X04-under-a-file", b"mine", "tokenize {text} -m {bad}/m", 4, "untouched"),
    row("X04-others-files", b"mine", "pretrain {text} -m {tmp} --steps 1", 5, "README.md", "not gencli's", file="README.md"),
    row("X04-others-model", b"{}", "tokenize {text} -m {tmp}", 5, "config.json", "not gencli's", file="config.json"),
    row("X04-demo", b"mine", "demo -o {tmp}", 5, "not a demo's folder"),
    row("X04-endless-name", b"", f"generate x -m {'m' * 5000}", 4, "file name too long"),
]  # fmt: skip

PROMPTS = [
    row("X05-empty", b"", PROMPTED, 0),
    row(
        "X05-a-megabyte",
        "강 산 바다 ".encode() * 65_000,
        PROMPTED.replace(" -q", ""),
        0,
        "are forgotten",
    ),
    row("X05-nul", b"a\0b", PROMPTED, 0),
    row("X05-escape", b"a\x1bb", PROMPTED, 0),
    row("X05-mark", b"\xef\xbb\xbfa", PROMPTED, 0),
    row("X05-no-utf-8", b"abc\xff", PROMPTED, 3, "not UTF-8", "byte 3", "iconv"),
    row("X05-pipe", os.mkfifo, PROMPTED, 3, "not in a regular file", "pipe it in"),
    row("X05-device", lambda path: path.symlink_to("/dev/zero"), PROMPTED, 3, "not in a regular file"),
    row("X05-folder", lambda path: path.mkdir(), PROMPTED, 3, "not in a regular file"),
    row("X05-missing", b"", f"{GENERATE} -f {{tmp}}/none", 3, "no such file"),
    row("X05-both", b"a", f"{PROMPTED} a", 2, "can't both be given"),
    row("X05-other-bytes", b"", f"{GENERATE} caf\udce9", 0),
]


@pytest.mark.parametrize("row", [*CONFIGS, *DEVICES, *PLACES, *PROMPTS], ids=str)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    met(row, cli, tmp_path, model=model_folder, text=corpus_file)
    assert not (tmp_path / "new" / "model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_x02_no_gpu_is_said_and_not_replaced(cli: Cli, tmp_path: Path, corpus_file: Path) -> None:
    met(
        row("X02-cuda", b"", f"{PRETRAIN} --steps 1 --device cuda", 4, "auto, cpu"),
        cli,
        tmp_path,
        text=corpus_file,
    )


def out_of_range() -> Iterator[tuple[str, str, str]]:
    """Yield (command, flag, value) for values beyond each end of the range of every knob, and no numbers at all."""
    for command, settings in commands().items():
        for name, (kind, knob, _) in knobs_of(settings).items():
            if not knob.argument:
                yield from ((command, flag_of(name), value) for value in _beyond(kind, knob))


def _beyond(kind: type, knob: Knob) -> list[str]:
    if knob.choices:
        return ["nonsense", ""]
    if knob.duration:
        return ["soon", "-1", "0", "1e9h", "99999999h"]
    if kind not in (int, float):
        return []
    assert knob.least is not None and knob.most is not None, "every number has a range"
    below = [str(kind(knob.least) - 1)]
    if knob.least >= 0:
        below.append("-1" if kind is int else "-0.1")
    above = (
        [str(kind(knob.most) + 1), str(2**64)]
        if kind is int
        else [str(knob.most * 1.01), "inf", "nan", "1e999"]
    )
    return [*below, *above, "one", ""]


@pytest.mark.parametrize(
    ("command", "flag"), sorted({(command, flag) for command, flag, _ in out_of_range()})
)
def test_x01_a_value_out_of_range_names_its_flag(cli: Cli, tmp_path: Path, command: str, flag: str) -> None:
    needed = dict.fromkeys(commands(), "-m") | {"finetune": "-o", "align": "-o", "demo": "-o"}
    for value in (value for name, other, value in out_of_range() if (name, other) == (command, flag)):
        outcome = cli(command, needed[command], tmp_path / "new", flag, value)
        assert outcome.code == 2, (value, outcome.err)
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert flag in outcome.err or f"'{value}' is not a valid" in outcome.err, (value, outcome.err)
    assert not (tmp_path / "new").exists()


def test_x01_every_number_has_a_range() -> None:
    numbers = [
        (settings, name, knob)
        for settings in commands().values()
        for name, (kind, knob, _) in knobs_of(settings).items()
        if kind in (int, float)
    ]
    assert len(numbers) > 40
    assert all(issubclass(settings, Common) and None not in (k.least, k.most) for settings, _, k in numbers)


def test_x01_more_than_there_is_is_all_there_is(cli: Cli, model_folder: Path) -> None:
    arguments = ["generate", "강", "-m", model_folder, "-n", 3, "-s", 1, "-q", "--top-k"]
    assert cli(*arguments, 10**7).out == cli(*arguments, 0).out != ""


def ended(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program as a process of its own, with more variables in its environment."""
    return subprocess.run(
        [sys.executable, "-m", "gencli", *arguments],
        input=b"", capture_output=True, env={**os.environ, **environment}, timeout=60, check=False,
    )  # fmt: skip


def test_x05_bytes_that_are_no_text_come_as_a_prompt(model_folder: Path) -> None:
    done = ended("generate", b"caf\xe9 ", "-m", str(model_folder), "-n", "1", "-s", "1", "-q")
    assert done.returncode == 0 and done.stdout.startswith("caf\ufffd ".encode())


def test_x05_a_name_that_is_no_text_is_a_name(tmp_path: Path, corpus_file: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(name)).write_bytes(corpus_file.read_bytes())
    model = str(tmp_path / "m")
    size = ["--layers", "1", "--width", "32", "--context", "32", "--device", "cpu"]
    done = ended("pretrain", name, "-m", model, "--steps", "1", *size)
    assert done.returncode == 0, done.stderr
    again = ended("pretrain", "-m", model, "--resume", "--steps", "2")
    assert again.returncode == 0, again.stderr


PLAIN = [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"COLUMNS": "20"}]


@pytest.mark.parametrize("environment", PLAIN, ids=str)
def test_x06_plain_surroundings_get_plain_utf_8(model_folder: Path, environment: dict[str, str]) -> None:
    done = ended("generate", "강 산", "-m", str(model_folder), "-n", "1", "-s", "1", **environment)
    assert done.returncode == 0 and done.stdout.startswith("강 산".encode())
    assert b"\x1b" not in done.stdout + done.stderr
    failed = ended("inspect", "-m", "강/산", **environment)
    assert failed.returncode == 3 and "강/산".encode() in failed.stderr and b"\x1b" not in failed.stderr


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_x06_a_terminal_that_wants_no_colours_gets_none(environment: dict[str, str]) -> None:
    main, other = pty.openpty()
    arguments = [sys.executable, "-m", "gencli", "inspect", "-m", "none"]
    failed = subprocess.run(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=other,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    os.close(other)
    seen = os.read(main, 4096)
    os.close(main)
    assert failed.returncode == 3 and b"no such model folder" in seen
    assert b"\x1b[3" not in seen and b"\x1b[?" not in seen


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_x06_a_closed_stream_takes_nothing_with_it(model_folder: Path, closed: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m gencli generate x -m {model_folder} -n 1 -s 1 {closed}"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_x06_an_output_that_is_full_is_told(model_folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        arguments = [sys.executable, "-m", "gencli", "inspect", "-m", str(model_folder)]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 4 and done.stderr.startswith(b"error: no space left")


HALF = [
    ({"RANK": "0"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "2"}, "RANK"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT"),
    ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK 2 is not below"),
    ({"RANK": "first", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK is no whole number"),
    ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "did not find each other"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "told"), HALF, ids=lambda value: value if isinstance(value, str) else ""
)
def test_x07_half_a_place_among_processes_is_named(
    cli: Cli,
    tmp_path: Path,
    corpus_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    told: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    met(row("X07", b"", f"{PRETRAIN} --steps 1", 4, told), cli, tmp_path, text=corpus_file)
    assert not (tmp_path / "new").exists()


def test_every_row_has_a_name_of_its_own() -> None:
    names = [each.name for each in itertools.chain(CONFIGS, DEVICES, PLACES, PROMPTS)]
    assert len(set(names)) == len(names)
    assert contents(Path(os.devnull)) == {}
