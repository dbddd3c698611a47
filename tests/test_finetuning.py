"""Pairs as a training run sees them: weighed, smoothed, judged by answers, ended early, and looked through."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gencli.model.folder import open_model
from gencli.model.scoring import IGNORED, Batch, score, total_loss
from gencli.model.task import Task
from gencli.settings.training import FinetuneSettings
from gencli.text.examples import Example
from gencli.text.pairs import read_pairs
from gencli.text.splits import Splits
from gencli.text.survey import survey
from gencli.training import checkpoint
from gencli.training.batches import PairBatches, pairs_in_order
from gencli.training.events import Done, Evaluation, Step, Stopped
from gencli.training.gradients import portions
from gencli.training.held_out import HeldOut, LabelScore
from gencli.training.label_targets import LabelTargets
from gencli.training.loop import Run, fit
from gencli.training.objective import SoftTargets
from gencli.training.optimizer import Optimizer, Rates
from gencli.training.prompts import Changes
from gencli.training.runtime import choose_runtime
from gencli.training.tuning import planned
from tests.conftest import Cli, jsonl, random_model, tiny_shape
from tests.test_drawn_prompts import EXAMPLES, LABELS, mixing
from tests.test_training import make_run

# what is chosen


def test_what_is_left_open_is_chosen_by_the_task_and_the_number_of_pairs() -> None:
    given_ = FinetuneSettings(pairs=("a.jsonl",), model=Path("m"), output=Path("o"))
    labels = Task("label", ("a", "b"))
    many, few, free = (
        planned(given_, labels, 18_000),
        planned(given_, labels, 100),
        planned(given_, Task(), 18_000),
    )
    assert (
        many.prompt_mix
        and many.prompt_splits
        and not few.prompt_mix
        and (few.epochs or 0) > (many.epochs or 0)
    )
    assert (many.averaging, few.averaging) == (0.986, 0.867)
    assert not free.prompt_mix and not free.prompt_splits and not free.averaging
    off = planned(replace(given_, prompt_mix=0.0, averaging=0.0), labels, 18_000)
    assert off.prompt_mix == off.averaging == 0 and off.prompt_splits == many.prompt_splits
    assert planned(many, labels, 18_000) == many
    short = planned(replace(given_, steps=30), labels, 18_000)
    assert short.epochs is None and short.averaging == 0.333


# what is learned


def test_only_what_is_learned_gets_logits_and_costs_the_same() -> None:
    model = random_model(tiny_shape(97))
    batch = next(iter(pairs_in_order(EXAMPLES, rows=60, padding=0)))
    tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
    seen = []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape))
    cost = total_loss(model, tokens, targets)
    assert seen == [(int((batch.targets != IGNORED).sum()), 97)]
    plain = F.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    torch.testing.assert_close(cost, plain)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_smoothed_labels_cost_what_the_formula_says(share: float) -> None:
    """The cross-entropy, in float64, with (1 - share) on the right label and share / K on each of K labels."""
    model = random_model(tiny_shape(97))
    example = EXAMPLES[1]
    batches = PairBatches([example], rows=1, seed=0, padding=0, targets=LabelTargets(LABELS, share))
    batch = batches.batch(0)
    more = {name: torch.from_numpy(values) for name, values in batch.more.items()}
    tokens = torch.from_numpy(batch.tokens)
    loss, _ = SoftTargets(model)(tokens, torch.from_numpy(batch.targets), **more)
    own = LABELS[1]
    given_label = {label: share / 4 + (1 - share) * (label == own) for label in LABELS}
    logprobs = torch.log_softmax(model(tokens).detach().double(), dim=-1)[
        0, example.learned.index(True) - 1 :
    ]
    expected = 0.0
    for place in range(len(own)):
        alike = {label: part for label, part in given_label.items() if label[:place] == own[:place]}
        for label, part in alike.items():
            expected -= part / sum(alike.values()) * float(logprobs[place, label[place]])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_a_share_soft_targets_are_the_hard_ones() -> None:
    model = random_model(tiny_shape(97))
    labels = LabelTargets(LABELS)
    cut = Example((1, 10, 11, 5), (False, False, False, True))  # no label: its end was cut off
    examples = [*EXAMPLES[:9], cut]
    batch = PairBatches(examples, rows=10, seed=0, padding=0, targets=labels).batch(0)
    more = {name: torch.from_numpy(values) for name, values in batch.more.items()}
    tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
    loss, _ = SoftTargets(model)(tokens, targets, **more)
    torch.testing.assert_close(loss, total_loss(model, tokens, targets))


def test_rows_that_only_fill_up_teach_nothing() -> None:
    model = random_model(tiny_shape(97))
    batch = PairBatches(EXAMPLES, rows=3, seed=0, padding=0, targets=LabelTargets(LABELS, 0.1)).batch(0)
    empty = portions(batch, 0, 4, 0)[0]
    assert (empty.targets == IGNORED).all()
    more = {name: torch.from_numpy(values) for name, values in empty.more.items()}
    loss, _ = SoftTargets(model)(torch.from_numpy(empty.tokens), torch.from_numpy(empty.targets), **more)
    assert loss.item() == 0


def label_run(
    folder: Path, *, steps: int = 12, patience: int = 0, smoothing: bool = True, evaluate_every: int = 2
) -> Run:
    """Return a run on labels that the model has to read off the first token."""
    run = make_run(folder, steps=steps, dropout=0.1, evaluate_every=evaluate_every)
    run.habits = replace(run.habits, patience=patience)
    run.optimizer = Optimizer(run.model, Rates(average=0.8))
    run.batches = PairBatches(
        EXAMPLES, rows=8, seed=0, padding=0, targets=LabelTargets(LABELS, 0.1) if smoothing else None,
        weights=[1.0 + n % 2 for n in range(60)],
        changes=Changes(17, mixing=mixing(EXAMPLES, 0.4) if smoothing else None, splits=Splits({11: (70, 71)}, 0.5), hidden=0.1, gap=96),
    )  # fmt: skip
    if smoothing:
        run.objective = SoftTargets
    judged = list(pairs_in_order(EXAMPLES[:20], rows=8, padding=0))
    run.held_out = HeldOut(judged, np.ones(97), answers=True, kind=LabelScore)
    return run


def test_a_resumed_run_with_all_that_is_drawn_is_the_same_run(tmp_path: Path) -> None:
    straight = label_run(tmp_path / "straight")
    whole = list(fit(straight))
    first = label_run(tmp_path / "parts")
    first.stop = lambda: 15 if first.state.step >= 5 else None
    assert isinstance(list(fit(first))[-1], Stopped)
    second = label_run(tmp_path / "parts")
    found, _ = checkpoint.newest(tmp_path / "parts")
    assert found is not None
    second.resume(found)
    rest = list(fit(second))
    ours, theirs = straight.model.weights(), second.model.weights()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert isinstance(whole[-1], Done) and isinstance(rest[-1], Done)
    assert whole[-1].figures == rest[-1].figures and "exact" in whole[-1].figures


# how it is judged


def test_an_answer_is_right_if_a_greedy_model_says_it() -> None:
    model = random_model(tiny_shape(97))
    said = []
    for example in EXAMPLES[:30]:
        ids, goal = (
            list(example.ids[: example.learned.index(True)]),
            example.ids[example.learned.index(True) :],
        )
        for _ in goal:
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        said.append(tuple(ids[-len(goal) :]))
    told = [Example((*example.ids[: example.learned.index(True)], *text), example.learned)
            for example, text in zip(EXAMPLES, said, strict=False)]  # fmt: skip
    mixed = [*told[:12], *EXAMPLES[12:30]]
    runtime = choose_runtime("cpu", precision="float32", threads=1)
    found = score(
        model, pairs_in_order(mixed, rows=7, padding=0), token_bytes=np.ones(97),
        precision=runtime.precision, answers=True,
    )  # fmt: skip
    expected = 12 + sum(said[n] == EXAMPLES[n].ids[EXAMPLES[n].learned.index(True) :] for n in range(12, 30))
    assert found is not None and (found.answers, found.right) == (30, expected)
    assert found.figures == {"exact": expected / 30}


def test_for_labels_more_right_ones_count_before_the_loss() -> None:
    few, many = LabelScore(1.0, 10, 10, 20, 15), LabelScore(50.0, 10, 10, 20, 16)
    assert many.cost < few.cost
    assert LabelScore(2.0, 10, 10, 20, 15).cost > few.cost
    assert LabelScore(math.exp(30), 1, 1, 20, 16).cost < few.cost


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_ends_when_it_was_no_better_for_so_long(tmp_path: Path, patience: int) -> None:
    run = label_run(tmp_path, steps=60, patience=patience, evaluate_every=1)
    run.optimizer.rates = replace(run.optimizer.rates, matrices=0.0)
    for group in run.optimizer._groups:
        group.rate = 0.0  # nothing is learned: no evaluation is better than the first
    events = list(fit(run))
    done = events[-1]
    assert isinstance(done, Done) and done.stopped_early
    assert (done.steps, done.best_step) == (1 + patience, 1)
    assert [e.best for e in events if isinstance(e, Evaluation)] == [True] + [False] * patience
    more = label_run(tmp_path, steps=60, patience=patience + 1, evaluate_every=1)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    more.resume(found)
    assert not more.is_out_of_patience
    assert len([event for event in fit(more) if isinstance(event, Step)]) >= 1


def test_an_early_end_is_an_end(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    rows = [{"text": f"강 {n}", "label": "ab"[n % 2]} for n in range(30)]
    command = ["finetune", jsonl(tmp_path / "a.jsonl", *rows), "-m", model_folder, "-o", tmp_path / "m"]
    flags = ["--lr", "1e-7", "--dropout", "0", "--evaluate-every", 1, "--patience", 2, "--threads", 1]
    outcome = cli(*command, *flags, "--epochs", 50, "--json")
    done = next(record for record in outcome.records if record["event"] == "done")
    assert outcome.code == 0 and done["stopped_early"] and int(str(done["steps"])) < 150
    again = cli(*command, *flags, "--resume", "--epochs", 50)
    assert again.code == 5 and "stopped early" in again.err and "--patience" in again.err


# what the pairs are like


def test_what_is_odd_about_the_pairs_of_a_run_is_counted(tmp_path: Path) -> None:
    first = read_pairs(jsonl(tmp_path / "a.jsonl", {"text": "a", "label": "x"}, {"text": "b", "label": "y"}))
    second = read_pairs(
        jsonl(
            tmp_path / "b.jsonl",
            {"text": "a", "label": "x"},
            {"text": "b", "label": "x"},
            {"text": "c", "label": "x"},
        )
    )
    apart = read_pairs(
        jsonl(
            tmp_path / "c.jsonl",
            {"text": "a", "label": "z"},
            {"text": "B !", "label": "y"},
            {"text": "d", "label": "x"},
        )
    )
    found = survey([first, second], [*first.pairs, *second.pairs], apart.pairs, ("x", "y", "z"))
    assert (found.repeated, found.contradictions, found.across) == (1, 1, (1, 1))
    assert (found.shared, found.alike, found.unseen) == (1, 1, ("z",))
    assert found.labels == {"x": 4, "y": 1}
    notes = "; ".join(found.notes)
    for told in (
        "repeat one of another file",
        "another completion",
        "1 of 3",
        "never learned: 'z'",
        "three examples",
    ):
        assert told in notes


def test_pairs_to_judge_by_may_come_from_a_file(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    rows = [{"prompt": f"강 {n}", "completion": str(n % 7)} for n in range(20)]
    train, apart = (
        jsonl(tmp_path / "a.jsonl", *rows),
        jsonl(tmp_path / "b.jsonl", *rows[:3], {**rows[0], "prompt": "새"}),
    )
    outcome = cli(
        "finetune", train, "-m", model_folder, "-o", tmp_path / "m", "--steps", 1, "--json",
        "--validation-pairs", apart,
    )  # fmt: skip
    plan = next(record for record in outcome.records if record["event"] == "plan")
    assert (plan["train"], plan["held_out"], plan["shared_prompts"]) == (20, 4, 3)
    assert "3 of 4 held-out pairs have a prompt that is learned too" in outcome.err


def test_a_batch_of_labels_keeps_its_targets() -> None:
    batch = PairBatches(EXAMPLES, rows=4, seed=0, padding=0, targets=LabelTargets(LABELS, 0.2)).batch(0)
    assert isinstance(batch, Batch)
    assert np.allclose(batch.more["shares"].sum(-1), batch.targets != IGNORED)


def test_an_example_is_shown_as_tokens_with_what_is_learned(
    cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": "강 산", "label": label} for label in ("긍정", "부정")))
    command = [
        "finetune",
        path,
        "-m",
        model_folder,
        "-o",
        tmp_path / "m",
        "--show-example",
        "--validation",
        0,
    ]
    record = cli(*command, "--json").records[-1]
    ids, learned = record["ids"], record["learned"]
    assert isinstance(ids, list) and isinstance(learned, list)
    tokenizer = open_model(model_folder).tokenizer
    said = [number for number, mark in zip(ids, learned, strict=True) if mark]
    assert said == [*tokenizer.encode("긍정"), tokenizer.eos]
    text = cli(*command).out
    assert text.startswith(f"{path}:1: {len(ids)} tokens, the {len(said)} in [ ] are learned\n")
    assert text.rstrip().endswith("</s> ]") and text.index("<|user|>") < text.index("[ ", text.index("\n"))
    assert not (tmp_path / "m").exists()
