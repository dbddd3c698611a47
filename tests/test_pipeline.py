"""The whole way through the command line, and what signals and kills leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gencli.model.folder import open_model
from gencli.text.chat import Turn, chat_ids
from gencli.text.tokenizer import Tokenizer
from gencli.training import checkpoint
from tests.conftest import Cli, same, tiny_text

TOY = ["--layers", "2", "--width", "64", "--context", "32", "--vocab-size", "400", "--threads", "1"]
ANSWERS = {"강": "river", "산": "hill", "바다": "sea", "하늘": "sky", "나무": "tree", "새": "bird"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus and pairs."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "corpus.txt").write_text(tiny_text(150), encoding="utf-8")
    rows = [
        {"prompt": f"{word} {n}?", "completion": answer}
        for word, answer in ANSWERS.items()
        for n in range(12)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def base(workplace: Path, cli: Cli) -> Path:
    """Return a pretrained model, trained once for the module."""
    model = workplace / "base"
    if not model.exists():
        outcome = cli("pretrain", workplace / "corpus.txt", "-m", model, "--steps", 60, *TOY, "--json")
        assert outcome.code == 0, outcome.err
        (workplace / "pretrain.jsonl").write_text(outcome.out)
    return model


@pytest.fixture
def tuned(workplace: Path, base: Path, cli: Cli) -> Path:
    """Return a model fine-tuned on the pairs, once for the module."""
    model = workplace / "tuned"
    if not model.exists():
        outcome = cli(
            "finetune", workplace / "pairs.jsonl", "-m", base, "-o", model, "--epochs", 30, "--batch-size", 8,
            "--lr", 0.02, "--threads", 1, "--json",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        (workplace / "finetune.jsonl").write_text(outcome.out)
    return model


def test_pretraining_learns_and_tells_its_figures(workplace: Path, base: Path) -> None:
    records = [json.loads(line) for line in (workplace / "pretrain.jsonl").read_text().splitlines()]
    done = records[-1]
    expected = "event steps tokens seconds tokens_per_second train_loss val_loss val_bits_per_byte parameters model best_step stopped_early".split()
    assert list(done) == expected and done["event"] == "done" and done["model"] == str(base)
    scores = [r["val_bits_per_byte"] for r in records if r["event"] == "evaluation"]
    assert done["val_bits_per_byte"] == min(scores) < 2.0
    assert [r for r in records if r["event"] == "sample" and r["text"]]
    logged = [json.loads(line) for line in (base / "training" / "metrics.jsonl").read_text().splitlines()]
    assert logged == records
    assert done["parameters"] == open_model(base).shape.parameters


@pytest.mark.parametrize("command", [["tokenize", "--vocab-size", "400"], ["pretrain", "--steps", "1", *TOY]])
def test_the_tokenizer_has_not_seen_what_the_model_is_judged_on(
    tmp_path: Path, cli: Cli, command: list[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(f"{tiny_text(150)}\n\n{'뷁' * 30}\n", encoding="utf-8")
    for share, unseen in ((0.1, True), (0.0, False)):
        model = tmp_path / f"{share}"
        outcome = cli(*command, corpus, "-m", model, "--validation", share)
        assert outcome.code == 0, outcome.err
        tokenizer = Tokenizer.open(model / "tokenizer.model")
        assert all(map(tokenizer.is_byte, tokenizer.encode("뷁"))) == unseen


def test_the_score_in_the_log_is_that_of_the_published_weights(workplace: Path, base: Path, cli: Cli) -> None:
    lines = (workplace / "corpus.txt").read_text(encoding="utf-8").split("\n\n")
    inspected = cli("inspect", "-m", base, "--json").records[0]
    assert isinstance(inspected["scores"], dict)
    (workplace / "tail.txt").write_text("\n\n".join(lines[-15:]), encoding="utf-8")
    record = cli("evaluate", workplace / "tail.txt", "-m", base, "--json", "--threads", 1).records[0]
    assert float(str(record["bits_per_byte"])) == pytest.approx(
        inspected["scores"]["val_bits_per_byte"], rel=0.15
    )


def test_hugging_face_opens_the_trained_model(base: Path) -> None:
    opened = open_model(base)
    peer, peer_tokenizer = (
        AutoModelForCausalLM.from_pretrained(base).eval(),
        AutoTokenizer.from_pretrained(base),
    )
    from gencli.model.gpt import GPT

    model = GPT(opened.shape).load(opened.weights()).eval()
    for text in ("강 그리고 새.", "The sea is here. 😀\n\t</s>"):
        ids = peer_tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0].tolist() == [opened.tokenizer.bos, *opened.tokenizer.encode(text)]
        with torch.no_grad():
            torch.testing.assert_close(model(ids), peer(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_greedy_text_of_the_trained_model_is_that_of_hugging_face(base: Path, cli: Cli, engine: str) -> None:
    peer, peer_tokenizer = (
        AutoModelForCausalLM.from_pretrained(base).eval(),
        AutoTokenizer.from_pretrained(base),
    )
    for prompt in ("강 그리고", "The river"):
        ids = peer_tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            written = peer.generate(ids, do_sample=False, max_new_tokens=16)[0]
        expected = peer_tokenizer.decode(written, skip_special_tokens=True)
        ours = cli("generate", prompt, "-m", base, "-t", 0, "-n", 16, "--engine", engine, "-q").out
        assert ours == expected + "\n"


def test_the_tuned_model_answers_and_stops_by_itself(
    workplace: Path, base: Path, tuned: Path, cli: Cli
) -> None:
    right = 0
    for word, answer in ANSWERS.items():
        record = cli("generate", f"{word} 5?", "-m", tuned, "-t", 0, "--json").records[0]
        right += record["text"] == answer and record["finish"] == "stop"
    assert right >= 5
    scored = cli("evaluate", workplace / "pairs.jsonl", "-m", tuned, "--json").records[0]
    before = cli("evaluate", workplace / "pairs.jsonl", "-m", base, "--json").records[0]
    assert float(str(scored["exact_match"])) > 0.8
    assert float(str(scored["loss"])) < 0.5 * float(str(before["loss"]))
    raw = cli("generate", "강 ", "-m", tuned, "--raw", "-n", 3, "-s", 1, "-q").out
    assert raw.startswith("강 ")


def test_the_chat_template_gives_hugging_face_the_same_ids(tuned: Path) -> None:
    tokenizer = open_model(tuned).tokenizer
    peer = AutoTokenizer.from_pretrained(tuned)
    turns = [Turn("user", "강 5?"), Turn("assistant", "river"), Turn("user", "산?")]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    ids = peer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == list(chat_ids(tokenizer, turns, answer=False)[0])


def test_a_finished_run_says_so_and_can_go_on(workplace: Path, base: Path, cli: Cli) -> None:
    over = cli("pretrain", "-m", base, "--resume")
    assert over.code == 5 and "complete" in over.err
    other = cli("pretrain", "-m", base, "--resume", "--steps", 70, "--seed", 3)
    assert other.code == 5 and "seed" in other.err
    changed = workplace / "corpus.txt"
    text = changed.read_text(encoding="utf-8")
    changed.write_text(text.replace("here", "gone", 1), encoding="utf-8")
    try:
        edited = cli("pretrain", "-m", base, "--resume", "--steps", 70)
    finally:
        changed.write_text(text, encoding="utf-8")
    assert edited.code == 5 and "corpus changed" in edited.err
    assert cli("pretrain", "-m", base, "--resume", "--steps", 64, "--json").records[-1]["steps"] == 64


def test_an_overwrite_that_can_not_begin_costs_nothing(workplace: Path, base: Path, cli: Cli) -> None:
    before = checkpoint.steps_in(base / "training")
    refused = cli("pretrain", workplace / "corpus.txt", "-m", base, "--overwrite", "--heads", 5, "--steps", 3)
    assert refused.code == 2 and before and checkpoint.steps_in(base / "training") == before


def test_without_a_checkpoint_nothing_is_resumed_over_a_model(workplace: Path, base: Path, cli: Cli) -> None:
    model = Path(shutil.copytree(base, workplace / "pruned"))
    for folder in (model / "training").glob("step-*"):
        shutil.rmtree(folder)
    refused = cli("pretrain", "-m", model, "--resume", "--steps", 90)
    assert refused.code == 5 and "no checkpoint" in refused.err


def test_another_base_model_is_not_the_same_run(workplace: Path, base: Path, tuned: Path, cli: Cli) -> None:
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    try:
        refused = cli("finetune", "-o", tuned, "--resume", "--epochs", 40)
    finally:
        (base / "model.safetensors").write_bytes(weights)
    assert refused.code == 5 and "base model changed" in refused.err


def test_a_full_disk_has_an_answer(workplace: Path) -> None:
    program = f"ulimit -f 100; exec {sys.executable} -m gencli pretrain {workplace / 'corpus.txt'}"
    command = f"{program} -m {workplace / 'full'} --steps 2 -q {' '.join(TOY)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "can't write" in done.stderr and "Traceback" not in done.stderr


def test_a_longer_time_for_a_resumed_run_changes_nothing_else(workplace: Path, cli: Cli) -> None:
    model = workplace / "longer"
    begun = cli("pretrain", workplace / "corpus.txt", "-m", model, "--time", "2m", "--steps", 3, "--json")
    assert begun.code == 0, begun.err
    went_on = cli("pretrain", "-m", model, "--resume", "--time", "2h", "--steps", 5, "--json")
    assert went_on.code == 0, went_on.err
    first, second = (outcome.records[0] for outcome in (begun, went_on))
    assert [first["tokens_per_step"], first["parameters"]] == [
        second["tokens_per_step"],
        second["parameters"],
    ]
    assert went_on.records[-1]["steps"] == 5


# Signals and kills, against the real program


def start(workplace: Path, model: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "gencli", "pretrain", str(workplace / "corpus.txt"), "-m", str(model), "-q", *TOY,
        "--steps", "150", "--save-every", "10", "--evaluate-every", "50", "--dropout", "0.1", *more,
    ]  # fmt: skip
    environment = {**os.environ, "GENCLI_CACHE": str(workplace / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen[bytes], code: int = 0) -> bytes:
    """Wait for a run to end with that exit code; return what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err.decode()
    return out


@pytest.fixture
def straight(workplace: Path) -> Path:
    """Return the model of a run that nothing disturbed."""
    model = workplace / "straight"
    if not model.exists():
        finish(start(workplace, model))
    return model


def wait_for_steps(model: Path, least: int) -> None:
    """Wait until the run has logged that many steps."""
    log, until = model / "training" / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < until:
        if log.is_file() and log.read_bytes().count(b'"event": "step"') >= least:
            return
        time.sleep(0.005)
    raise AssertionError(f"{model} did not reach step {least}")


def test_killed_at_random_moments_the_run_ends_with_the_same_weights(workplace: Path, straight: Path) -> None:
    draw = random.Random(time.time_ns())
    model = workplace / "killed"
    process = start(workplace, model)
    for trial in range(3):
        wait_for_steps(model, 20 + trial * 40)
        time.sleep(draw.random() * 0.2)
        process.kill()
        finish(process, -signal.SIGKILL)
        found, skipped = checkpoint.newest(model / "training")
        assert found is not None and not skipped
        assert found.step >= 10
        process = start(workplace, model, "--resume")
    finish(process)
    assert same(load_file(model / "model.safetensors"), load_file(straight / "model.safetensors"))
    assert not list((model / "training").glob(".tmp-*"))
    steps = [
        json.loads(line)["step"]
        for line in (model / "training" / "metrics.jsonl").read_text().splitlines()
        if '"event": "step"' in line
    ]
    assert steps == list(range(1, 151))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on(workplace: Path, straight: Path, number: int, code: int) -> None:
    model = workplace / f"stopped-{code}"
    process = start(workplace, model, "--json")
    wait_for_steps(model, 25)
    process.send_signal(number)
    last = json.loads(finish(process, code).splitlines()[-1])
    assert last["event"] == "stopped" and last["signal"] == number
    assert checkpoint.steps_in(model / "training")[-1] == last["step"]
    finish(start(workplace, model, "--resume"))
    assert same(load_file(model / "model.safetensors"), load_file(straight / "model.safetensors"))


def test_a_checkpoint_can_be_asked_for(workplace: Path) -> None:
    model = workplace / "asked"
    process = start(workplace, model, "--json", "--save-every", "1000")
    wait_for_steps(model, 25)
    process.send_signal(signal.SIGUSR1)
    events = [json.loads(line) for line in finish(process).splitlines()]
    saved = [event["step"] for event in events if event["event"] == "saved"]
    assert len(saved) == 2 and 25 <= saved[0] < saved[1] == 150


def test_two_trainers_never_share_a_folder(workplace: Path) -> None:
    model = workplace / "shared"
    first = start(workplace, model)
    wait_for_steps(model, 1)
    second = start(workplace, model, "--resume")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 5 and b"another process" in err
    finish(first)
