"""How sure a model says it is of what it writes: in JSON, in colours, and by saying that it does not know."""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gencli.cli.sureness import coloured, piece_records
from gencli.decoding.decoder import Token
from gencli.model.confidence import AnswersFit, Calibration, write_calibration
from gencli.model.folder import WEIGHTS
from gencli.storage import digest_of
from gencli.text.tokenizer import Tokenizer
from tests.conftest import Cli
from tests.labelling import labeller

FIT = AnswersFit(0.7, 0.4, 50, 0.1, 0.02)


@pytest.fixture
def model(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    own = labeller(tmp_path / "own", tokenizer, task={"kind": "answer", "labels": []})
    write_calibration(own, Calibration(digest_of(own / WEIGHTS), None, FIT))
    return own


def mean_logprob(record: Any) -> float:
    logprobs = [token["logprob"] for token in record["logprobs"]]
    return float(sum(logprobs) / len(logprobs))


def curve(mean: float) -> float:
    return 1 / (1 + math.exp(-(FIT.slope * mean + FIT.offset)))


@pytest.mark.parametrize("options", [["-t", "0"], ["-s", "3", "--num-samples", "2"]])
def test_the_confidence_is_that_of_the_tokens(cli: Cli, model: Path, options: list[str]) -> None:
    command = ["generate", "강?", "-m", model, "-n", 6, "--json", *options]
    records: list[Any] = cli(*command, "--logprobs", 0).records
    for record in records:
        assert record["confidence"] == pytest.approx(curve(mean_logprob(record)), abs=1e-4)
    again: list[Any] = cli(*command, "--show-confidence").records
    for record, other in zip(records, again, strict=True):
        assert other["confidence"] == record["confidence"] and other["text"] == record["text"]
        assert "".join(piece["text"] for piece in other["pieces"]) == other["text"]
        least = min(piece["probability"] for piece in other["pieces"])
        assert least == pytest.approx(math.exp(min(t["logprob"] for t in record["logprobs"])), rel=1e-3)


def test_many_prompts_have_their_confidence(cli: Cli, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("강?\n산 그리고 바다\n", encoding="utf-8")
    rows: list[Any] = cli("generate", "-i", file, "-m", model, "-n", 6, "-t", 0, "--logprobs", 0).records
    assert [row["confidence"] for row in rows] == pytest.approx(
        [curve(mean_logprob(row)) for row in rows], abs=1e-4
    )
    limit = (rows[0]["confidence"] + rows[1]["confidence"]) / 2
    held: list[Any] = cli("generate", "-i", file, "-m", model, "-n", 6, "-t", 0, "--abstain", limit).records
    assert [row["text"] == "unknown" for row in held] == [row["confidence"] < limit for row in rows]
    assert [row.get("withheld", row["text"]) for row in held] == [row["text"] for row in rows]


def test_beams_and_choices_are_sure_of_their_best(cli: Cli, model: Path) -> None:
    found: Any = cli("generate", "강?", "-m", model, "-n", 5, "--beams", 3, "--json").records[0]
    assert found["confidence"] == pytest.approx(curve(found["score"]), abs=1e-4)
    chosen: Any = cli("generate", "강?", "-m", model, "--choices", "강,산", "--json").records[0]
    assert chosen["confidence"] == pytest.approx(chosen["choices"][0]["probability"], abs=1e-4)
    for options in (["--beams", "3"], ["--choices", "강,산"], ["-t", "0"], ["-s", "1", "--num-samples", "2"]):
        outcome = cli("generate", "강?", "-m", model, "-n", 5, "-q", "--abstain", 1, *options)
        assert set(outcome.out.split()) == {"unknown"}


def test_an_uncalibrated_model_says_so(cli: Cli, model_folder: Path) -> None:
    options = ["generate", "강", "-m", model_folder, "-n", 4, "-t", 0]
    record: Any = cli(*options, "--json", "--logprobs", 0).records[0]
    assert record["confidence"] == pytest.approx(math.exp(mean_logprob(record)), rel=1e-3)
    outcome = cli(*options, "--show-confidence")
    assert f"confidence {record['confidence']:.2f}, not calibrated" in outcome.err
    assert outcome.out == cli(*options).out


def test_a_text_of_several_tokens_has_the_colour_of_the_least_sure() -> None:
    tokens = [
        Token(0, 1, "a", None, math.log(0.9)),
        Token(0, 2, "", None, math.log(0.05)),
        Token(0, 3, "가", None, math.log(0.8)),
        Token(0, 4, "b", None, math.log(0.2)),
        Token(0, 5, "", "stop", math.log(0.5)),
    ]
    assert list(coloured(tokens)) == [("a", ""), ("가", "red"), ("b", "yellow")]
    told = piece_records(tokens)
    assert [piece["text"] for piece in told] == ["a", "가", "b", ""]
    assert [piece["probability"] for piece in told] == pytest.approx([0.9, 0.05, 0.2, 0.5])


@pytest.mark.parametrize(("environment", "colours"), [({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False)])
def test_unsure_tokens_are_coloured_on_a_terminal(
    model_folder: Path, environment: dict[str, str], colours: bool
) -> None:
    main, other = pty.openpty()
    arguments = ["generate", "강", "-m", str(model_folder), "-n", "8", "-t", "0", "-q", "--show-confidence"]
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    done = subprocess.run(
        [sys.executable, "-m", "gencli", *arguments],
        stdout=other, stderr=subprocess.PIPE, env={**clean, **environment}, timeout=60, check=False,
    )  # fmt: skip
    os.close(other)
    seen = os.read(main, 1 << 16)
    os.close(main)
    assert done.returncode == 0, done.stderr
    assert (b"\x1b[3" in seen) == colours and seen.startswith("강".encode())


def test_verify_and_inspect_know_the_calibration(cli: Cli, model: Path) -> None:
    findings: list[Any] = cli("verify", model, "--json").records
    assert [f["verdict"] for f in findings if f["place"] == "calibration.json"] == ["of these weights"]
    shown: Any = cli("inspect", "-m", model, "--json").records[0]
    assert shown["calibration"]["answers, slope"] == FIT.slope
    write_calibration(model, Calibration("0" * 64, None, FIT))
    findings = cli("verify", model, "--json").records
    assert [f["verdict"] for f in findings if f["place"] == "calibration.json"] == [
        "of other weights: it is not used"
    ]
    (model / "calibration.json").write_text(json.dumps({"format": 1}))
    outcome = cli("verify", model)
    assert outcome.code == 3 and "calibration.json" in outcome.out
