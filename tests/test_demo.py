"""The demo at its smallest size."""

from __future__ import annotations

import json
from pathlib import Path

from gencli.cli.demo import QUICK, answered, shares
from gencli.text.stories import Example, examples
from tests.conftest import Cli


def test_the_quick_demo_shows_the_four_commands_and_their_results(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("demo", "--quick", "-o", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    for command in ("tokenize", "pretrain", "finetune", "generate"):
        assert f"$ gencli {command} " in outcome.err
    assert "나는 학교에 간다" in outcome.out and "questions about a story" in outcome.out
    again = cli("demo", "--quick", "-o", tmp_path / "demo", "--json")
    last = again.records[-1]
    assert last["event"] == "demo" and set(last["tasks"]) == {"question", "label", "translation"}  # type: ignore[call-overload]
    taught = (tmp_path / "demo" / "pairs.jsonl").read_text(encoding="utf-8")
    untaught = (tmp_path / "demo" / "test.jsonl").read_text(encoding="utf-8")
    assert not set(taught.splitlines()) & set(untaught.splitlines())
    lines = set((tmp_path / "demo" / "corpus.txt").read_text(encoding="utf-8").splitlines())
    prompts = [json.loads(line)["prompt"] for line in untaught.splitlines()]
    assert "나는 학교에 간다" in prompts
    assert not lines & {prompt.split("\n")[0] for prompt in prompts}
    _, tests = examples(seed=0, train=QUICK.pairs, test=QUICK.tests)
    said = answered(tmp_path / "demo" / "tuned", tests)
    assert {example for example, _ in said} == set(tests)


def test_shares_count_exact_answers() -> None:
    one, two = Example("label", "a", "x"), Example("label", "b", "y")
    assert shares([(one, "x"), (two, "x")]) == {"question": 0.0, "label": 0.5, "translation": 0.0}


def test_a_folder_that_is_no_demo_s_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    outcome = cli("demo", "--quick", "-o", tmp_path)
    assert outcome.code == 5 and (tmp_path / "mine.txt").read_text() == "keep"
