"""gencli classify: a line for each text, whatever it is, and at once."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gencli
from gencli.cli.prompt_rows import LineStream, arriving_rows
from gencli.decoding.cpu_engine import CpuEngine
from gencli.decoding.labels import Classifier
from gencli.decoding.prompts import prompt_ids
from gencli.model.confidence import Calibration, LabelsFit, shares, write_calibration
from gencli.model.folder import WEIGHTS, open_model
from gencli.storage import digest_of
from gencli.text.tokenizer import Tokenizer
from tests.conftest import TRAINED_HERE, Cli
from tests.labelling import LABELS, labeller

TEXTS = ["강 그리고 산", "sea", "The river is here.", "새 새 새", "하늘 꽃 별 달 그리고 나무."]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labeller(tmp_path_factory.mktemp("model") / "labeller", tokenizer)


@pytest.fixture(autouse=True)
def known_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from gencli.text.trial import remember

    assert tokenizer.model_bytes in TRAINED_HERE
    remember(tokenizer.model_bytes, tmp_path / "cache")


def expected(model: Path, temperature: float = 1.0) -> list[dict[str, float]]:
    folder = open_model(model)
    classifier = Classifier(CpuEngine(folder.shape, folder.weights()), folder.tokenizer, LABELS)
    prompts = [prompt_ids(folder.tokenizer, text, chat=True) for text in TEXTS]
    found = shares(classifier.logprobs(prompts), temperature)
    return [dict(zip(LABELS, row, strict=True)) for row in found.tolist()]


def test_each_text_gets_its_likeliest_label(cli: Cli, model: Path) -> None:
    lines = cli("classify", *TEXTS, "-m", model, "-q").out.splitlines()
    for line, chances in zip(lines, expected(model), strict=True):
        label, probability = line.split("\t")
        assert label == max(chances, key=chances.__getitem__)
        assert float(probability) == pytest.approx(chances[label], abs=1e-3)


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_files_keep_their_order_and_name_what_they_cannot_use(
    cli: Cli, model: Path, tmp_path: Path, engine: str
) -> None:
    file = tmp_path / "texts.jsonl"
    rows = [json.dumps({"text": text, "id": f"n{number}"}) for number, text in enumerate(TEXTS)]
    file.write_text("\n".join([*rows[:2], "", '{"txt": "강"}', *rows[2:]]) + "\n", encoding="utf-8")
    outcome = cli(
        "classify", "-i", file, "-m", model, "--json", "--all", "--batch-size", 2, "--engine", engine
    )
    assert outcome.code == 0 and "2 could not be used" in outcome.err and "line 3" in outcome.err
    records: list[Any] = outcome.records
    assert [record["line"] for record in records] == list(range(1, 8))
    assert "empty" in records[2]["error"] and 'no "text"' in records[3]["error"]
    good = [record for record in records if "error" not in record]
    assert [record["id"] for record in good] == [f"n{number}" for number in range(5)]
    for record, chances in zip(good, expected(model), strict=True):
        assert record["probabilities"] == pytest.approx(chances, abs=1e-3)
        assert record["label"] == next(iter(record["probabilities"])) and record["text"] in TEXTS


def test_below_the_confidence_the_label_is_unknown(cli: Cli, model: Path) -> None:
    chances = [max(row.values()) for row in expected(model)]
    limit = float(np.median(chances))
    lines = cli("classify", *TEXTS, "-m", model, "-q", "--abstain", limit).out.splitlines()
    assert [line.startswith("unknown\t") for line in lines] == [chance < limit - 1e-4 for chance in chances]
    records: list[Any] = cli("classify", *TEXTS, "-m", model, "--json", "--abstain", 1).records
    assert all(record["label"] == "unknown" and record["withheld"] in LABELS for record in records)


def test_the_temperature_of_the_folder_counts(cli: Cli, tmp_path: Path, tokenizer: Tokenizer) -> None:
    own = labeller(tmp_path / "own", tokenizer)
    write_calibration(own, Calibration(digest_of(own / WEIGHTS), LabelsFit(2.5, 100, 0.1, 0.0)))
    for temperature, options in ((2.5, []), (1.0, ["--labels", "산,강"])):
        records: list[Any] = cli("classify", *TEXTS, "-m", own, "--json", *options).records
        for record, chances in zip(records, expected(own, temperature), strict=True):
            assert record["probability"] == pytest.approx(max(chances.values()), abs=1e-3)
    write_calibration(own, Calibration("0" * 64, LabelsFit(2.5, 100, 0.1, 0.0)))
    assert "other weights" in cli("classify", "강", "-m", own).err


def test_a_model_without_labels_says_what_to_do(cli: Cli, tmp_path: Path, tokenizer: Tokenizer) -> None:
    own = labeller(tmp_path / "own", tokenizer, task={"kind": "answer", "labels": []})
    outcome = cli("classify", "강", "-m", own)
    assert outcome.code == 3 and "--labels" in outcome.err
    assert cli("classify", "강", "-m", own, "--labels", "yes,no", "-q").out.split("\t")[0] in ("yes", "no")
    assert cli("classify", "강", "-m", own, "--labels", "yes").code == 2


def test_python_labels_as_the_command_does(model: Path, model_folder: Path) -> None:
    found = gencli.classify(gencli.open_model(model), TEXTS)
    for own, chances in zip(found, expected(model), strict=True):
        assert own == pytest.approx(chances, abs=1e-3) and list(own.values()) == sorted(
            own.values(), reverse=True
        )
    assert set(gencli.classify(gencli.open_model(model), ["강"], ["a", "b"])[0]) == {"a", "b"}
    with pytest.raises(gencli.GencliError):
        gencli.classify(gencli.open_model(model_folder), ["강"])


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"a": 1}\n'])
def test_nothing_to_label_is_an_error(cli: Cli, model: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "texts"
    file.write_bytes(content)
    outcome = cli("classify", "-i", file, "-m", model)
    assert outcome.code == 3 and 2 <= len(outcome.err.strip().splitlines()) <= 6


def test_a_pipe_gets_each_label_before_the_next_line_comes(model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gencli", "classify", "-m", str(model), "-q"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for text in TEXTS[:3]:
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0]
        assert process.stdout.readline().decode().split("\t")[0] in LABELS
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_windows_hold_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a\nb\nc\nd\ne\n")
    assert [len(window) for window in arriving_rows(file, 2)] == [2, 2, 1]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        lines = LineStream(stream)
        os.write(writing, b"one\ntwo\nthr")
        assert lines.readline(100) == b"one\n" and not lines.must_wait()
        assert lines.readline(100) == b"two\n" and lines.must_wait()
        os.write(writing, b"ee\nlonger")
        time.sleep(0.01)
        assert not lines.must_wait() and lines.readline(100) == b"three\n"
        assert lines.readline(3) == b"lon"
        os.close(writing)
        assert lines.readline(100) == b"ger" and lines.readline(100) == b""
