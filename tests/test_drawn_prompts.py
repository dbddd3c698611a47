"""What a batch of pairs is drawn from: weights, balance, and prompts that are changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import UsageError
from gencli.model.scoring import IGNORED, Batch
from gencli.settings.training import FinetuneSettings
from gencli.text.examples import Example
from gencli.text.splits import Splits
from gencli.training.batches import PairBatches
from gencli.training.label_targets import LabelTargets
from gencli.training.lessons import weights_of
from gencli.training.ngram_fitting import fitted_ngrams
from gencli.training.prompts import Changes, Mixing, asked_of
from tests.conftest import Cli, jsonl

LABELS = [(5, 6, 2), (5, 7, 2), (8, 2), (9, 6, 2)]  # token ids, the end included
EXAMPLES = [
    Example(
        (1, *range(10, 12 + n % 7), *LABELS[n % 4]), (*[False] * (3 + n % 7), *[True] * len(LABELS[n % 4]))
    )
    for n in range(60)
]


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.floats(0.05, 5), min_size=3, max_size=12), rows=st.integers(1, 5))
def test_an_example_comes_as_often_as_its_weight_says(weights: list[float], rows: int) -> None:
    examples = [Example((1, 10 + n, 2), (False, True, True)) for n in range(len(weights))]
    batches = PairBatches(examples, rows=rows, seed=1, padding=0, weights=weights)
    total = max(1, round(sum(weights)))
    assert batches.steps_per_epoch == -(-total // rows)
    seen: Counter[int] = Counter()
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        now = Counter(int(row[0]) - 10 for step in steps for row in batches.batch(step).targets)
        assert now.total() == total
        for number, weight in enumerate(weights):
            assert abs(now[number] - weight * total / sum(weights)) < 1 + 1e-6
        seen += now
    again = PairBatches(examples, rows=rows, seed=1, padding=0, weights=weights)
    assert np.array_equal(again.batch(4).tokens, batches.batch(4).tokens)


def test_weights_are_read_by_file() -> None:
    assert weights_of(["b=c.jsonl=0.5"], ["a.jsonl", "b=c.jsonl"]) == [1.0, 0.5]
    for bad in (
        "x.jsonl=2",
        "a.jsonl",
        "a.jsonl=much",
        "a.jsonl=0",
        "a.jsonl=-1",
        "a.jsonl=inf",
        "a.jsonl=nan",
    ):
        with pytest.raises(UsageError):
            weights_of([bad], ["a.jsonl", "b=c.jsonl"])


def test_balance_shows_every_label_equally_often(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    rows = [{"text": f"강 {n}", "label": "spam" if n % 9 == 0 else "ham"} for n in range(90)]
    command = [
        "finetune",
        jsonl(tmp_path / "a.jsonl", *rows),
        "-m",
        model_folder,
        "-o",
        tmp_path / "m",
        "--steps",
        1,
    ]
    outcome = cli(*command, "--balance", "--json", "--weight", f"{tmp_path / 'a.jsonl'}=2")
    assert outcome.code == 0, outcome.err
    plan = next(record for record in outcome.records if record["event"] == "plan")
    labels = plan["labels"]
    assert (
        isinstance(labels, dict) and set(labels) == {"ham", "spam"} and sum(labels.values()) == plan["train"]
    )
    from gencli.training.lessons import prepare_pairs

    chosen = FinetuneSettings(
        pairs=(str(tmp_path / "a.jsonl"),), model=model_folder, output=tmp_path / "n", balance=True
    )
    lessons = prepare_pairs(chosen, tmp_path / "cache", say=print)
    assert lessons.weights is not None
    totals: Counter[str] = Counter()
    for pair, weight in zip(lessons.train, lessons.weights, strict=True):
        totals[pair.completion] += weight  # type: ignore[assignment]
    assert totals["ham"] == pytest.approx(totals["spam"]) == pytest.approx(len(lessons.train) / 2)
    free = cli(*command, "--balance", "--task", "answer", "--overwrite")
    assert free.code == 2 and "--balance is for labels" in free.err


def test_a_share_of_the_prompt_is_hidden_and_nothing_else() -> None:
    plain = PairBatches(EXAMPLES, rows=60, seed=0, padding=0).batch(1)
    batches = PairBatches(EXAMPLES, rows=60, seed=0, padding=0, changes=Changes(20, hidden=0.3, gap=96))
    batch = batches.batch(1)
    changed = batch.tokens != plain.tokens
    assert (batch.tokens[changed] == 96).all() and np.array_equal(batch.targets, plain.targets)
    asked = (plain.tokens >= 10) & (np.cumsum(plain.targets != IGNORED, axis=1) == 0)
    assert not (changed & ~asked).any()
    assert 0.15 < changed.sum() / asked.sum() < 0.45
    assert np.array_equal(batches.batch(1).tokens, batch.tokens)
    assert not np.array_equal(batches.batch(2).tokens != 96, batch.tokens != 96)


def test_prompts_are_written_in_other_pieces_each_time_if_there_is_room() -> None:
    changes = Changes(12, splits=Splits({10: (70, 71), 12: (72, 73)}, 0.5))
    plain = PairBatches(EXAMPLES, rows=60, seed=0, padding=0)
    batches = PairBatches(EXAMPLES, rows=60, seed=0, padding=0, changes=changes)
    seen = set()
    for step in range(4):
        for number, before, row in zip(
            batches.numbers(step), _rows(plain.batch(step)), _rows(batches.batch(step)), strict=True
        ):
            prompt, answer = row
            whole = " ".join(map(str, prompt)).replace("70 71", "10").replace("72 73", "12")
            assert whole == " ".join(map(str, before[0])) and answer == before[1]
            assert len(prompt) + len(answer) <= 12
            seen.add((number, prompt))
    assert len(seen) > 100
    again = PairBatches(EXAMPLES, rows=60, seed=0, padding=0, changes=changes)
    assert np.array_equal(again.batch(3).tokens, batches.batch(3).tokens)


def mixing(examples: Sequence[Example], share: float) -> Mixing:
    """Return a mixing of examples whose tokens are letters."""
    letters = [chr(0xAC00 + index).encode() for index in range(5000)]
    known = [example for example in examples if _said(example) in LABELS]
    prompts = [example.ids[slice(*asked_of(example))] for example in known]
    texts = [b"".join(letters[index] for index in ids).decode() for ids in prompts]
    ngrams = fitted_ngrams(texts, [LABELS.index(_said(example)) for example in known], len(LABELS))
    return Mixing(prompts, LABELS, ngrams, letters, share)


def _said(example: Example) -> tuple[int, ...]:
    return example.ids[example.learned.index(True) :]


def test_prompts_are_mixed_of_parts_of_any_and_ngrams_say_what_they_are() -> None:
    """Each example's tokens are its own, so a mixed prompt shows where each of its tokens is from."""
    examples = [
        Example((1, 4, *range(100 * n, 100 * n + 9), 6, *LABELS[n % 4]), (*[False] * 12, *[True] * len(LABELS[n % 4])))
        for n in [*range(1, 41), *range(1, 41)]
    ]  # fmt: skip
    changes = Changes(24, mixing=mixing(examples, 0.5))
    batches = PairBatches(examples, rows=40, seed=0, padding=0, changes=changes)
    mixed, agreed = 0, Counter[bool]()
    for step in range(10):
        for number, (prompt, answer) in zip(batches.numbers(step), _rows(batches.batch(step)), strict=True):
            assert (prompt[:2], prompt[-1]) == ((1, 4), 6) and answer in LABELS
            assert len(prompt) + len(answer) <= 24
            body = prompt[2:-1]
            joints = sum(after != before + 1 for before, after in pairwise(body))
            assert joints < 6
            if body == examples[number].ids[2:11]:
                assert answer == LABELS[(number + 1) % 4]
                continue
            mixed += 1
            kinds = Counter(token // 100 % 4 for token in body)
            if kinds.total() > 2 and len(kinds) == 1:
                agreed[answer == LABELS[kinds.most_common()[0][0]]] += 1
    assert mixed / 400 == pytest.approx(0.5, abs=0.1)
    assert agreed[True] > 10 and agreed[True] / agreed.total() > 0.8
    again = PairBatches(
        examples, rows=40, seed=0, padding=0, changes=Changes(24, mixing=mixing(examples, 0.5))
    )
    assert np.array_equal(again.batch(3).tokens, batches.batch(3).tokens)


def test_a_mixed_prompt_has_the_shares_of_what_ngrams_believe() -> None:
    examples = [*EXAMPLES[:12], Example((1, 10, 11, 5), (False, False, False, True))]
    changes = Changes(24, mixing=mixing(examples, 0.9))
    random = np.random.default_rng(1)
    drawn, beliefs = changes.drawn(examples, changes.spans(len(examples), random), random)
    assert changes.mixing is not None and 8 <= len(beliefs) <= 13
    letters = changes.mixing.piece_bytes
    for row, belief in beliefs.items():
        asked = drawn[row].ids[slice(*asked_of(drawn[row]))]
        text = b"".join(letters[index] for index in asked).decode()
        assert belief == pytest.approx(np.exp(changes.mixing.ngrams.logprobs([text])[0]), abs=1e-6)
    targets = LabelTargets(LABELS, 0.2)
    length = max(len(example.ids) for example in drawn) - 1
    soft = targets.soft(drawn, length, beliefs)
    for row, belief in beliefs.items():
        first = drawn[row].learned.index(True) - 1
        found = dict(zip(soft["ids"][row, first].tolist(), soft["shares"][row, first].tolist(), strict=True))
        for token in {label[0] for label in LABELS}:
            expected = sum(belief[number] for number, label in enumerate(LABELS) if label[0] == token)
            assert found[token] == pytest.approx(expected, abs=1e-5)


def _rows(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (prompt, answer) of each row."""
    found = []
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        first = next(place for place, target in enumerate(targets) if target != IGNORED)
        answer = tuple(target for target in targets[first:] if target != IGNORED)
        found.append((tuple(tokens[: first + 1]), answer))
    return found
