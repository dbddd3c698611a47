"""Several processes train one model: the same losses, one writer, one message, one exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gencli.cli.together import began
from gencli.errors import RunStateError
from gencli.model.folder import open_model
from gencli.model.scoring import IGNORED, Batch
from gencli.training import checkpoint
from gencli.training.gradients import portions
from gencli.training.held_out import HeldOut
from gencli.training.run_record import RunRecord, check_alike
from tests.conftest import Cli, same, tiny_text
from tests.test_pipeline import wait_for_steps

ROOT = Path(__file__).parent.parent
EXACT = ["--threads", "1", "--precision", "float32", "--dropout", "0"]
TOY = ["--layers", "2", "--width", "32", "--context", "32", "--vocab-size", "400", *EXACT]
PRETRAIN = [*TOY, "--batch-size", "5", "--evaluate-every", "20"]
STEPS = 60


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus and pairs."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "corpus.txt").write_text(tiny_text(120), encoding="utf-8")
    rows = [{"prompt": f"강 {n}?", "completion": "river" * (1 + n % 3)} for n in range(22)]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


def environment(workplace: Path) -> dict[str, str]:
    own = {"GENCLI_CACHE": str(workplace / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own}


def start(workplace: Path, *arguments: object, size: int = 2) -> list[subprocess.Popen[str]]:
    """Start the processes of a run as torchrun does, without its agent, whose exit code is always 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gencli", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workplace,
            env={**environment(workplace), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]], code: int = 0) -> list[tuple[str, str]]:
    """Wait until all processes ended with that exit code; return what each printed."""
    printed = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), printed
    return printed


def figures(model: Path) -> list[tuple[str, int, float, float]]:
    """Return the losses and gradient norms that a run logged, in order."""
    lines = (model / "training" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        (e["event"], e["step"], e.get("loss", e.get("val_loss")), e.get("gradient_norm", 0.0))
        for e in map(json.loads, lines)
        if e["event"] in ("step", "evaluation")
    ]


def assert_same_run(first: Path, second: Path) -> None:
    ours, theirs = figures(first), figures(second)
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    np.testing.assert_allclose([e[2:] for e in ours], [e[2:] for e in theirs], atol=1e-4)
    one, other = (load_file(model / "model.safetensors") for model in (first, second))
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, atol=2e-4)


@pytest.fixture
def alone(workplace: Path, cli: Cli) -> Path:
    """Return a model pretrained by one process, once for the module."""
    model = workplace / "alone"
    if not model.exists():
        outcome = cli(
            "pretrain", workplace / workplace / "corpus.txt", "-m", model, "--steps", STEPS, *PRETRAIN, "-q"
        )
        assert outcome.code == 0, outcome.err
    return model


@pytest.fixture
def pair(workplace: Path) -> Path:
    """Return the model that two processes pretrained undisturbed, once for the module."""
    model = workplace / "pair"
    if not model.exists():
        processes = start(
            workplace,
            "pretrain",
            workplace / "corpus.txt",
            "-m",
            model,
            "--steps",
            STEPS,
            *PRETRAIN,
            "--json",
        )
        (out, err), silent = finish(processes)
        assert silent == ("", "")
        records = [json.loads(line) for line in out.splitlines()]
        log = (model / "training" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert records == [json.loads(line) for line in log] and err.count("done:") == 1
    return model


# A process's share


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 9), size=st.integers(1, 5), at_once=st.integers(0, 4))
def test_the_shares_are_the_batch_and_all_meet_equally_often(rows: int, size: int, at_once: int) -> None:
    tokens = np.arange(rows * 3).reshape(rows, 3)
    shares = [portions(Batch(tokens, tokens + 1, rows * 3), rank, size, at_once) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    parts = [part for share in shares for part in share]
    learned = [part for part in parts if (part.targets != IGNORED).any()]
    assert np.array_equal(np.concatenate([part.tokens for part in learned]), tokens)
    assert np.array_equal(np.concatenate([part.targets for part in learned]), tokens + 1)
    assert all(len(part.tokens) <= (at_once or rows) for part in parts)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_held_out_batches_are_dealt_out_evenly(size: int) -> None:
    batches = [Batch(np.full((2, 3), n), np.full((2, 3), n), 6) for n in range(5)]
    shares = [HeldOut(batches, np.ones(9))._share(rank, size) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    scored = [int(b.targets[0, 0]) for share in shares for b in share if (b.targets != IGNORED).any()]
    assert sorted(scored) == list(range(5))


# What the processes compare


def test_processes_given_different_things_are_no_run() -> None:
    first = RunRecord("pretrain", {"seed": 1, "threads": 1}, {"corpus": "a"})
    check_alike(RunRecord("pretrain", {"seed": 1, "threads": 2}, {"corpus": "a"}), asdict(first))
    for other in (replace(first, settings={"seed": 2}), replace(first, digests={"corpus": "b"})):
        with pytest.raises(RunStateError, match="processes of this run differ"):
            check_alike(other, asdict(first))


def test_only_the_run_of_this_launch_goes_on_after_a_restart(tmp_path: Path) -> None:
    record = RunRecord("pretrain", {"seed": 1, "steps": 9}, {}, "launch-1")
    assert not began(tmp_path, {"seed": 1}, "launch-1")
    record.write(tmp_path / "training")
    assert began(tmp_path, {"seed": 1, "steps": 12}, "launch-1")
    assert not began(tmp_path, {"seed": 2}, "launch-1")
    assert not began(tmp_path, {"seed": 1}, "launch-2")


# Two processes


def test_two_processes_pretrain_as_one(alone: Path, pair: Path) -> None:
    assert_same_run(alone, pair)


def test_two_processes_fine_tune_as_one(workplace: Path, alone: Path, cli: Cli) -> None:
    """The rows of a batch are parted unevenly and in parts; the last one leaves a process without any."""
    given = ["-m", alone, "--epochs", 2, "--batch-size", 5, "--rows-at-once", 2, "--evaluate-every", 4]
    given += ["--validation", 0.05, *EXACT]
    one, two = workplace / "tuned", workplace / "tuned-by-two"
    outcome = cli("finetune", workplace / "pairs.jsonl", "-o", one, *given, "-q")
    assert outcome.code == 0, outcome.err
    finish(start(workplace, "finetune", "pairs.jsonl", "-o", two, *given, "-q"))
    assert_same_run(one, two)


def test_a_split_model_learns_the_same_and_is_published_whole(workplace: Path, alone: Path, cli: Cli) -> None:
    model = workplace / "split"
    finish(
        start(
            workplace,
            "pretrain",
            workplace / "corpus.txt",
            "-m",
            model,
            "--steps",
            STEPS,
            *PRETRAIN,
            "-q",
            "--shard",
        )
    )
    assert_same_run(alone, model)
    assert open_model(model).weights()
    went_on = cli("pretrain", "-m", model, "--resume", "--steps", STEPS + 2, "--json")
    assert went_on.code == 0 and "processes: 2 before, 1 now" in went_on.err
    assert went_on.records[-1]["steps"] == STEPS + 2


def test_one_process_has_nothing_to_split_among(workplace: Path, cli: Cli) -> None:
    outcome = cli("pretrain", workplace / workplace / "corpus.txt", "-m", workplace / "none", "--shard")
    assert outcome.code == 2 and "torchrun" in outcome.err


# Stops and failures


def test_a_signal_to_one_process_stops_all_after_one_save(workplace: Path) -> None:
    model = workplace / "stopped"
    processes = start(
        workplace, "pretrain", workplace / "corpus.txt", "-m", model, "--steps", 100_000, *PRETRAIN, "--json", "-q",
        "--evaluate-every", 100_000,
    )  # fmt: skip
    wait_for_steps(model, 5)
    processes[1].send_signal(signal.SIGTERM)
    (out, err), silent = finish(processes, 143)
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "stopped" and out.count('"saved"') == 1
    assert checkpoint.steps_in(model / "training") == [last["step"]]
    assert (err, silent) == ("", ("", ""))


def test_a_failure_is_told_once_and_all_leave_with_its_code(workplace: Path, alone: Path) -> None:
    (workplace / "bad.jsonl").write_text('{"prompt": "a", "completion": 1\n')
    at_once = start(workplace, "finetune", "bad.jsonl", "-m", alone, "-o", workplace / "bad")
    of_the_first = start(
        workplace, "pretrain", workplace / "corpus.txt", "-m", alone, *PRETRAIN
    )  # the first alone looks
    for processes, code, word in ((at_once, 3, "bad.jsonl"), (of_the_first, 5, "--overwrite")):
        told = "".join(err for _, err in finish(processes, code))
        assert told.count("error:") == 1 and word in told and "Traceback" not in told


def test_after_a_kill_torchrun_starts_all_again_and_nothing_is_lost(workplace: Path, pair: Path) -> None:
    model = workplace / "killed"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        "pretrain",
        str(workplace / "corpus.txt"),
        "-m",
        str(model),
        "--steps",
        str(STEPS),
        *PRETRAIN,
        "--save-every",
        "3",
    ]
    process = subprocess.Popen(
        [*launcher, "--max-restarts", "1", "-m", "gencli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workplace, env=environment(workplace),
    )  # fmt: skip
    wait_for_steps(model, 10)
    os.kill(int((model / "training" / "lock").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert "resumed from step" in err and "Traceback" not in err
    assert same(load_file(model / "model.safetensors"), load_file(pair / "model.safetensors"))
    assert figures(model) == figures(pair)
