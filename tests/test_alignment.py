"""gencli align: what it teaches, that a resumed run is the same run, and what is said of a reward that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gencli.alignment.aligning import contests, prepare_alignment, tasks
from gencli.alignment.goals import prepare_goals
from gencli.alignment.rewards import ExactMatch, OwnFunction, PatternMatch
from gencli.alignment.rollouts import answers_as_rows
from gencli.alignment.writing import Writer, Written
from gencli.errors import RewardError, UsageError
from gencli.model.folder import open_model, publish
from gencli.model.gpt import GPT
from gencli.model.scoring import IGNORED
from gencli.settings.alignment import AlignSettings
from gencli.text.chat import Turn
from gencli.text.pairs import Pair
from gencli.text.preferences import Preference
from gencli.text.prompts import Prompt
from gencli.text.tokenizer import Tokenizer
from gencli.training import checkpoint
from gencli.training.assembly import Outside
from gencli.training.events import Evaluation, Event, Step, Stopped
from gencli.training.loop import Run, fit
from gencli.training.runtime import choose_runtime
from tests.conftest import Cli, random_model, tiny_shape

SHORT = ["--threads", 1, "--validation", 0.3, "--warmup", 1]


@pytest.fixture(scope="module")
def start(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random model that passes for a fine-tuned one."""
    path = tmp_path_factory.mktemp("aligned") / "start"
    shape = tiny_shape(tokenizer.vocabulary)
    weights = random_model(shape, scale=0.2).weights()
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage={"kind": "finetuned"}, card="# start\n")
    return path


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rows = [{"prompt": f"강 {n}?", "chosen": "river " * (1 + n % 3), "rejected": "바다"} for n in range(20)]
    return written(tmp_path / "preferences.jsonl", rows)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return written(tmp_path / "prompts.jsonl", [{"prompt": f"강 {n}?", "completion": "a"} for n in range(20)])


def steps(records: list[dict[str, object]], name: str) -> list[float]:
    return [float(str(record[name])) for record in records if record["event"] == "step"]


def test_preferences_are_learned_and_told(cli: Cli, start: Path, preferences: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = cli(
        "align", preferences, "-m", start, "-o", out, "--method", "dpo", "--steps", 12, "--batch-size", 8,
        "--lr", 0.01, "--json", *SHORT,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    judged = [record for record in outcome.records if record["event"] == "evaluation"]
    first, last = judged[0], judged[-1]
    assert (first["step"], first["val_margin"], first["val_ranked_right"]) == (0, 0.0, 0.5)
    assert first["val_loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert float(str(last["val_margin"])) > 0.1 and float(str(last["val_ranked_right"])) == 1.0
    margins = steps(outcome.records, "margin")
    assert margins[-1] > margins[0] and "margin" in outcome.err and "ranked right" in outcome.err
    folder = open_model(out)
    assert folder.is_chat and folder.lineage["command"] == "align" and folder.lineage["method"] == "dpo"
    scores = folder.lineage["scores"]
    assert isinstance(scores, dict) and scores["val_ranked_right"] == 1.0
    assert cli("verify", out, "--resume-exact", 100, "-q").code == 0
    assert cli("generate", "강 3?", "-m", out, "-t", 0, "-n", 3).code == 0


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_a_reward_rises_in_the_same_loop(
    cli: Cli, start: Path, prompts: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "torch":  # what a GPU would use
        monkeypatch.setattr(Writer, "_engine", lambda self: _torch_engine(self.model))
    out = tmp_path / "out"
    outcome = cli(
        "align", prompts, "-m", start, "-o", out, "--method", "grpo", "--reward-pattern", "[aeiou]", "--steps", 25,
        "--batch-size", 8, "--lr", 0.02, "--beta", 0.001, "-n", 3, "--json", *SHORT,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rewards = steps(outcome.records, "reward")
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15
    judged = [float(str(r["val_reward"])) for r in outcome.records if r["event"] == "evaluation"]
    assert max(judged) > judged[0]
    assert "reward: the pattern [aeiou]" in outcome.err and "⠀" in outcome.err  # a curve of its own
    for name in ("divergence", "clipped", "answer_tokens", "finished", "telling_groups"):
        assert all(value >= 0 for value in steps(outcome.records, name))
    scores = open_model(out).lineage["scores"]
    assert isinstance(scores, dict) and scores["val_reward"] == max(judged)


def _torch_engine(model: GPT) -> object:
    from gencli.decoding.torch_engine import TorchEngine

    return TorchEngine(model)


# a resumed run


def prepared(rows: Path, start: Path, out: Path, stop: Callable[[], int | None], **more: Any) -> Run:
    settings = AlignSettings(
        pairs=(str(rows),), model=start, output=out, threads=1, device="cpu", batch_size=4, steps=7, warmup=1,
        learning_rate=0.01, **more,
    )  # fmt: skip
    goals = prepare_goals(settings, out / "cache", say=lambda line: None)
    return prepare_alignment(goals, Outside(lambda line: None, stop, lambda: 0.0))


def events_of(run: Run) -> list[Event]:
    return list(fit(run))


METHODS: list[dict[str, Any]] = [
    {"method": "dpo", "dropout": 0.1, "sft": 0.5, "label_smoothing": 0.1},
    {"method": "grpo", "reward_pattern": "[aeiou]", "max_new_tokens": 3, "updates": 1},
    {"method": "grpo", "reward_pattern": "[aeiou]", "max_new_tokens": 3, "updates": 3, "average": "token"},
]


@pytest.mark.parametrize("more", METHODS, ids=lambda more: f"{more['method']}-{more.get('updates', '')}")
def test_a_resumed_run_is_the_same_run_bit_for_bit(
    start: Path, preferences: Path, prompts: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    rows = preferences if more["method"] == "dpo" else prompts
    straight = prepared(rows, start, tmp_path / "straight", lambda: None, **more)
    whole = [event for event in events_of(straight) if isinstance(event, Step)]
    parts = tmp_path / "parts"
    first = prepared(rows, start, parts, lambda: None, **more)
    first.stop = lambda: 15 if first.state.step >= 4 else None
    events = events_of(first)
    assert isinstance(events[-1], Stopped) and events[-1].step == 4
    second = prepared(rows, start, parts, lambda: None, resume=True, **more)
    rest = [event for event in events_of(second) if isinstance(event, Step)]
    assert [event.step for event in rest] == [5, 6, 7]
    assert [(e.loss, e.figures) for e in rest] == [(e.loss, e.figures) for e in whole[4:]]
    ours, theirs = (checkpoint.newest(tmp_path / name / "training")[0] for name in ("parts", "straight"))
    assert ours is not None and theirs is not None and ours.step == theirs.step == 7
    for one, other in ((ours.weights, theirs.weights), (ours.optimizer, theirs.optimizer)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_answers_depend_on_seed_and_step_alone_and_not_on_rows_at_once(
    start: Path, prompts: Path, tmp_path: Path
) -> None:
    def drawn(name: str, **more: Any) -> np.ndarray:
        run = prepared(
            prompts,
            start,
            tmp_path / name,
            lambda: None,
            method="grpo",
            reward_pattern="a",
            max_new_tokens=3,
            **more,
        )
        return run.batches.batch(2).tokens

    first = drawn("a")
    assert np.array_equal(first, drawn("b", rows_at_once=3))
    other = drawn("c", seed=1)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_the_start_is_published_if_nothing_better_comes(start: Path, prompts: Path, tmp_path: Path) -> None:
    run = prepared(
        prompts,
        start,
        tmp_path / "out",
        lambda: None,
        method="grpo",
        reward_pattern="^never$",
        max_new_tokens=2,
    )
    judged = [event for event in events_of(run) if isinstance(event, Evaluation)]
    assert judged[0].best and not any(event.best for event in judged[1:])
    published = open_model(tmp_path / "out").weights()
    assert all(np.array_equal(array, published[name]) for name, array in open_model(start).weights().items())


# rows as ids


def test_contests_learn_the_last_answers_only_and_fit(tokenizer: Tokenizer) -> None:
    turns = (Turn("user", "강"), Turn("assistant", "산"), Turn("user", "바다 " * 100))
    said: list[str] = []
    (contest,) = contests([Preference(turns, "별", "달 별", "a", 1)], tokenizer, 32, said.append)
    for side, text in ((contest.chosen, "별"), (contest.rejected, "달 별")):
        learned = [i for i, known in zip(side.ids, side.learned, strict=True) if known]
        assert learned == [*tokenizer.encode(text), tokenizer.eos] and len(side.ids) <= 33
    assert len(said) == 2 and "cut from the left" in said[0]


def test_a_prompt_leaves_room_for_an_answer(tokenizer: Tokenizer) -> None:
    said: list[str] = []
    long = Prompt((Turn("user", "강 산 " * 50),), "", "a", 1)
    (task,) = tasks([long], tokenizer, 20, said.append)
    assert (
        len(task.ids) == 20 and task.ids[0] == tokenizer.bos and task.ids[-1] == tokenizer.roles["assistant"]
    )
    assert "1 prompts leave no room" in said[0]


def test_only_what_was_written_is_a_target() -> None:
    tokens, targets = answers_as_rows(
        [[1, 2, 3], [1, 9]], [Written((7, 2), "", True), Written((8,), "", False)], 0
    )
    assert tokens.tolist() == [[1, 2, 3, 7], [1, 9, 0, 0]]
    assert targets.tolist() == [[IGNORED, IGNORED, 7, 2], [IGNORED, 8, IGNORED, IGNORED]]


def test_a_writer_follows_the_weights(start: Path) -> None:
    folder = open_model(start)
    model = GPT(folder.shape).load(folder.weights())
    writer = Writer(model, folder.tokenizer, choose_runtime("cpu", precision="float32", threads=1), most=4)
    ids = (folder.tokenizer.bos, folder.tokenizer.roles["assistant"])
    before = writer.write([ids], copies=3, temperature=1.0, seed=5)
    assert before == writer.write([ids], copies=3, temperature=1.0, seed=5) and len(before) == 3
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[folder.tokenizer.eos] = 1e3 * model.model.norm.weight.sign()
        model.model.norm.weight.abs_()
    after = writer.write([ids], copies=1, temperature=0.0, seed=5)
    assert after != before[:1]


def test_writing_leaves_the_number_of_threads(start: Path) -> None:
    """In a process of its own: the CPU engine's threads are woken once."""
    code = (
        "import sys\nfrom pathlib import Path\nimport torch\nfrom gencli.alignment.writing import Writer\n"
        "from gencli.model.folder import open_model\nfrom gencli.model.gpt import GPT\n"
        "from gencli.training.runtime import choose_runtime\nruntime = choose_runtime('cpu', threads=1)\n"
        "folder = open_model(Path(sys.argv[1]))\nmodel = GPT(folder.shape).load(folder.weights())\n"
        "writer = Writer(model, folder.tokenizer, runtime, most=3)\n"
        "writer.write([(1, 2)] * 4, copies=2, temperature=1.0, seed=0)\nprint(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(start)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


# rewards


def pair(completion: str) -> Prompt:
    made = Pair((Turn("user", "1+1="), Turn("assistant", completion)), "a", 1)
    return Prompt(made.turns[:-1], made.completion, "a", 1)


def test_exact_match_and_pattern() -> None:
    assert [ExactMatch()(pair(" 2"), said) for said in ("2 ", "3", "")] == [1.0, 0.0, 0.0]
    assert [PatternMatch(r"^\d+$")(pair(""), said) for said in ("42", "4 2")] == [1.0, 0.0]
    with pytest.raises(UsageError, match="no regular expression"):
        PatternMatch("(")


FUNCTIONS = """
import helper
def score(prompt, answer, completion): return helper.BONUS + (answer == completion)
def two(prompt, answer): print("heard"); return len(answer)
def truth(prompt, answer): return answer == "a"
def fails(prompt, answer):
    return 1 / 0
def leaves(prompt, answer): raise SystemExit(3)
def words(prompt, answer): return "1.0"
def nothing(prompt, answer): pass
def infinite(prompt, answer): return float("inf")
def one(answer): return 1.0
NUMBER = 3
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of reward functions, in the folder where the command is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("BONUS = 0.5\n")
    (tmp_path / "own_rewards.py").write_text(FUNCTIONS)
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "missing_import.py").write_text("import no_such_thing_at_all\n")
    return tmp_path / "own_rewards.py"


def test_a_function_is_found_by_file_or_module(rewards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (str(rewards), "own_rewards"):
        assert OwnFunction(f"{place}:score")(pair("2"), "2") == 1.5
        assert OwnFunction(f"{place}:two")(pair(""), "abc") == 3.0
        assert OwnFunction(f"{place}:truth")(pair(""), "a") == 1.0
    assert OwnFunction(f"{rewards}:two").digest != OwnFunction(f"{rewards}:truth").digest
    captured = capsys.readouterr()
    assert captured.out == "" and "heard" in captured.err


MISSING = [
    ("score", UsageError, "names no function"),
    ("none.py:score", RewardError, "no such file"),
    ("no_such_module:score", RewardError, "there is no module 'no_such_module'"),
    ("own_rewards.py:scores", RewardError, "there is no function 'scores'"),
    ("own_rewards.py:NUMBER", RewardError, "there is no function 'NUMBER'"),
    ("own_rewards.py:one", RewardError, "can't be called with a prompt and an answer"),
    ("broken.py:f", RewardError, "can't be loaded: SyntaxError"),
    ("missing_import.py:f", RewardError, "can't be loaded: ModuleNotFoundError"),
]


@pytest.mark.parametrize(("name", "kind", "message"), MISSING, ids=[name for name, _, _ in MISSING])
def test_a_function_that_is_not_there_is_told(
    rewards: Path, name: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        OwnFunction(name)
    assert isinstance(caught.value, UsageError | RewardError) and 2 <= len(caught.value.lines()) <= 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "raised ZeroDivisionError"),
        ("leaves", "raised SystemExit"),
        ("words", "returned '1.0', which is no finite number"),
        ("nothing", "returned None"),
        ("infinite", "returned inf"),
    ],
)
def test_a_function_that_fails_is_told_with_its_place(rewards: Path, name: str, message: str) -> None:
    with pytest.raises(RewardError, match=message) as caught:
        OwnFunction(f"{rewards}:{name}")(pair("2"), "x")
    assert "own_rewards.py" in caught.value.where and "'1+1='" in caught.value.where and caught.value.hint
    if name == "fails":
        assert f"{rewards}:7" in caught.value.where


def test_a_reward_that_fails_late_loses_nothing(cli: Cli, start: Path, prompts: Path, tmp_path: Path) -> None:
    code = "calls = []\ndef late(prompt, answer):\n    calls.append(1)\n    return 1 / (len(calls) < 180)\n"
    (tmp_path / "late.py").write_text(code)
    arguments = [
        "align", prompts, "-m", start, "-o", tmp_path / "out", "--method", "grpo", "-n", 2, "--steps", 9,
        "--batch-size", 4, "--reward-function", tmp_path / "late.py:late", *SHORT,
    ]  # fmt: skip
    outcome = cli(*arguments)
    assert outcome.code == 3 and "Traceback" not in outcome.err
    assert "raised ZeroDivisionError" in outcome.err and "kept: the checkpoint of step" in outcome.err
    (tmp_path / "late.py").write_text(code.replace("180", "10**9"))
    changed = cli(*arguments, "--resume")
    assert changed.code == 5 and "the reward changed since the run began" in changed.err


# flags

REFUSED = [
    (["--method", "ppo"], 2, "--method is one of dpo, grpo"),
    ([], 2, "--method is needed"),
    (["--method", "dpo", "--group", "4"], 2, "--group goes with --method grpo"),
    (["--method", "dpo", "--reward-pattern", "a"], 2, "--reward-pattern goes with --method grpo"),
    (["--method", "grpo", "--chosen-key", "a"], 2, "--chosen-key goes with --method dpo"),
    (["--method", "grpo", "--sft", "1"], 2, "--sft goes with --method dpo"),
    (["--method", "grpo", "--reward-pattern", "a", "--reward-function", "b:c"], 2, "two rewards"),
    (["--method", "grpo", "--reward-pattern", "("], 2, "no regular expression"),
    (["--method", "grpo", "-n", "62"], 2, "leave no room for a prompt"),
    (["--method", "grpo", "--resume"], 5, "no run to resume"),
    (["--method", "dpo"], 3, "expected a key 'chosen'"),
    (["--method", "grpo", "--completion-key", "label"], 3, "expected a key 'label'"),
]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    REFUSED,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused(
    cli: Cli, start: Path, prompts: Path, tmp_path: Path, flags: list[str], code: int, message: str
) -> None:
    outcome = cli("align", prompts, "-m", start, "-o", tmp_path / "out", "--steps", 1, *flags)
    assert outcome.code == code, outcome.err
    assert message in outcome.err and "Traceback" not in outcome.err and outcome.out == ""
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_output_is_another_folder_and_there_are_rows(
    cli: Cli, start: Path, prompts: Path, tmp_path: Path
) -> None:
    same = cli("align", prompts, "-m", start, "-o", start, "--method", "grpo", "--steps", 1)
    assert same.code == 2 and "a folder of its own" in same.err
    none = cli("align", "-m", start, "-o", tmp_path / "out", "--method", "grpo", "--steps", 1)
    assert none.code == 2 and "which pairs?" in none.err
    one = written(tmp_path / "one.jsonl", [{"prompt": "a", "completion": ""}])
    empty = cli("align", one, "-m", start, "-o", tmp_path / "out", "--method", "grpo", "--steps", 1)
    assert empty.code == 3 and "one.jsonl:1" in empty.err and "the completion is empty" in empty.err


def test_the_help_says_that_a_function_runs(cli: Cli) -> None:
    text = " ".join(cli("align", "-h").out.split())
    assert "only name one that you trust" in text and "It runs your code" in text
