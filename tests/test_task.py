"""What completions are taken for, what a model folder says of it, and what is no task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gencli.errors import ModelError, PairsError
from gencli.model.folder import open_model
from gencli.model.task import Task, detected_task, task_in
from gencli.text.pairs import read_pairs
from tests.conftest import Cli


def pairs(path: Path, answers: list[str], key: str = "completion") -> Path:
    rows = ({"text": f"{n} 번째", key: answer} for n, answer in enumerate(answers))
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answers", "key", "labels"),
    [
        (["좋음", "나쁨", "좋음"], "label", ("나쁨", "좋음")),
        ([str(n) for n in range(40)], "category", ()),
        (["a"] * 5, "label", ()),
        (["yes", "no"] * 60, "completion", ("no", "yes")),
        (["yes", "no"] * 40, "completion", ()),
        (["yes", "n" * 61] * 60, "completion", ()),
        ([str(n % 9) for n in range(120)], "completion", ()),
    ],
)
def test_labels_are_told_from_answers(
    tmp_path: Path, answers: list[str], key: str, labels: tuple[str, ...]
) -> None:
    found = detected_task([read_pairs(pairs(tmp_path / "a.jsonl", answers, key))])
    assert found == (Task("label", labels) if labels else Task())


def test_labels_of_several_files_are_one_list(tmp_path: Path) -> None:
    first = read_pairs(pairs(tmp_path / "a.jsonl", ["b", "a"], "label"))
    second = read_pairs(pairs(tmp_path / "b.jsonl", ["c", "a"], "label"))
    assert detected_task([first, second]).labels == ("a", "b", "c")
    assert detected_task([first, second], "answer") == Task()
    free = read_pairs(pairs(tmp_path / "c.jsonl", ["c", "a"]))
    assert detected_task([first, free]) == Task()


@pytest.mark.parametrize(
    ("answers", "told"), [(["a", "a"], "the same label"), (["a", "b", "c"], "of its own")]
)
def test_what_cannot_be_told_apart_is_no_label(tmp_path: Path, answers: list[str], told: str) -> None:
    with pytest.raises(PairsError, match=told):
        detected_task([read_pairs(pairs(tmp_path / "a.jsonl", answers))], "label")


@pytest.mark.parametrize(
    "task",
    [7, [], {}, {"kind": "label"}, {"kind": "label", "labels": []}, {"kind": "answer", "labels": ["a"]},
     {"kind": "label", "labels": [1, 2]}, {"kind": "label", "labels": ["a", "a"]}, {"kind": "label", "labels": [""]},
     {"kind": ["label"], "labels": ["a"]}],
    ids=str,
)  # fmt: skip
def test_nonsense_for_a_task_is_refused(task: object) -> None:
    with pytest.raises(ModelError):
        task_in({"task": task}, "gencli.json")


def test_a_tuned_model_says_what_it_answers_with(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    assert open_model(model_folder).task == Task()
    path = pairs(tmp_path / "a.jsonl", ["긍정", "부정"] * 10, "label")
    command = ["finetune", path, "-m", model_folder, "--steps", 1]
    outcome = cli(*command, "-o", tmp_path / "mood")
    assert outcome.code == 0 and "task: 2 labels (긍정, 부정)" in outcome.err
    assert open_model(tmp_path / "mood").task == Task("label", ("긍정", "부정"))
    assert cli(*command, "-o", tmp_path / "free", "--task", "answer").code == 0
    assert open_model(tmp_path / "free").task == Task()
