"""Raw text first, pairs after it, in one command: the shares of its limits, and where it is cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gencli.model.folder import CONTINUED, TRAINING, WEIGHTS, open_model
from gencli.settings.training import FinetuneSettings
from gencli.storage import digest_of
from gencli.training import checkpoint, continuing
from gencli.training.loop import Length
from tests.conftest import Cli, jsonl, same


@pytest.fixture
def command(tmp_path: Path, model_folder: Path, corpus_file: Path) -> list[object]:
    """Return a command of ten steps, four of them on text."""
    rows = ({"prompt": f"강 {n}", "completion": "산" if n % 3 else "바다"} for n in range(30))
    pairs = jsonl(tmp_path / "p.jsonl", *rows)
    return [
        "finetune", pairs, "-m", model_folder, "--continue-pretraining", corpus_file, "--steps", 10, "--text-share", 0.4, "--text-epochs", 50,
        "--threads", 1, "--save-every", 2, "--seed", 3, "--patience", 0,
    ]  # fmt: skip


def weights_in(path: Path) -> dict[str, np.ndarray]:
    return dict(open_model(path).weights())


def test_text_is_read_and_pairs_are_taught_on_what_it_made(
    cli: Cli, tmp_path: Path, command: list[object], model_folder: Path
) -> None:
    outcome = cli(*command, "-o", tmp_path / "m", "--json")
    assert outcome.code == 0, outcome.err
    done = [record for record in outcome.records if record["event"] == "done"]
    assert [record["steps"] for record in done] == [4, 6]
    text = tmp_path / "m" / TRAINING / CONTINUED
    assert not same(weights_in(text), weights_in(model_folder))
    lineage = open_model(tmp_path / "m").lineage
    parent = lineage["parent"]
    assert isinstance(parent, dict) and parent["weights"] == digest_of(text / WEIGHTS)
    first = parent["lineage"]["parent"]
    assert first["path"] == str(model_folder) and first["weights"] == digest_of(model_folder / WEIGHTS)
    assert outcome.err.count("next: gencli generate") == 1
    verified = cli("verify", tmp_path / "m", "--resume-exact", 2)
    assert verified.code == 0 and "bit-identical" in verified.err


def cut_off(
    cli: Cli,
    command: list[object],
    folder: Path,
    text_steps: int,
    pair_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let a signal come after so many steps of either part."""
    from gencli.cli import session

    counts = {"text": 0, "pairs": 0}
    stop = session.Signals.stop

    def counted(self: session.Signals) -> int | None:
        reading = not checkpoint.steps_in(folder / TRAINING) and not (folder / WEIGHTS).exists()
        counts["text" if reading else "pairs"] += 1
        state = folder / TRAINING / CONTINUED / "model.safetensors"
        steps = checkpoint.steps_in(folder / TRAINING / CONTINUED / TRAINING)
        if pair_steps < 0 and steps and steps[-1] >= text_steps:
            return 15
        if (
            pair_steps > 0
            and state.exists()
            and (checkpoint.steps_in(folder / TRAINING) or [0])[-1] >= pair_steps
        ):
            return 15
        return stop(self)

    with monkeypatch.context() as patch:
        patch.setattr(session.Signals, "stop", counted)
        assert cli(*command, "-o", folder).code == 143


@pytest.mark.parametrize(("text_steps", "pair_steps"), [(2, -1), (4, 2)])
def test_a_command_cut_off_in_either_part_goes_on_as_if_it_never_was(
    cli: Cli,
    tmp_path: Path,
    command: list[object],
    text_steps: int,
    pair_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cli(*command, "-o", tmp_path / "whole").code == 0
    cut_off(cli, command, tmp_path / "cut", text_steps, pair_steps, monkeypatch)
    again = cli("finetune", "-m", command[3], *command[1:2], "-o", tmp_path / "cut", "--resume")
    assert again.code == 0, again.err
    for part in (Path(), Path(TRAINING, CONTINUED)):
        assert same(weights_in(tmp_path / "whole" / part), weights_in(tmp_path / "cut" / part))
    complete = cli("finetune", "-m", command[3], *command[1:2], "-o", tmp_path / "cut", "--resume")
    assert complete.code == 5 and "complete: 6 steps" in complete.err


def test_what_is_there_is_not_replaced_unasked(cli: Cli, tmp_path: Path, command: list[object]) -> None:
    assert cli(*command, "-o", tmp_path / "m").code == 0
    before = (tmp_path / "m" / WEIGHTS).read_bytes()
    outcome = cli(*command, "-o", tmp_path / "m", "--seed", 4)
    assert outcome.code == 5 and "--overwrite to replace it" in outcome.err
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == before
    assert cli(*command, "-o", tmp_path / "m", "--seed", 4, "--overwrite").code == 0
    assert (tmp_path / "m" / WEIGHTS).read_bytes() != before
    shutil.rmtree(tmp_path / "m" / TRAINING)
    assert cli("generate", "강 1", "-m", tmp_path / "m", "-n", 2).code == 0


def test_time_is_shared_and_what_is_left_over_goes_to_the_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = FinetuneSettings(
        model=tmp_path,
        output=tmp_path / "m",
        pairs=("p",),
        time="100s",
        steps=50,
        continue_pretraining=("t",),
        text_share=0.3,
    )
    text = continuing.settings_for_text(asked)
    assert (text.time, text.steps, text.epochs) == ("30.000s", 15, 2.0)
    from gencli.training.assembly import length_of

    left = length_of(asked, 10, spent=Length(seconds=20.0, steps=15, tokens=999))
    assert (left.seconds, left.steps) == (80.0, 35)


def test_an_adapter_keeps_to_its_base(cli: Cli, tmp_path: Path, command: list[object]) -> None:
    outcome = cli(*command, "-o", tmp_path / "m", "--lora", 2, "--adapter")
    assert outcome.code == 2 and "an adapter belongs to its base" in outcome.err
    assert json.dumps(str(tmp_path)) and not (tmp_path / "m").exists()
