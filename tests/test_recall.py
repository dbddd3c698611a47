"""Answers that are looked up: the index against plain formulas, the memory in a folder, and what is said of it."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gencli
from gencli.decoding.engines import open_engine
from gencli.decoding.prompts import prompt_ids
from gencli.decoding.recall import nearest_by, open_recaller, vectors_of
from gencli.decoding.reuse import ReusingEngine
from gencli.errors import MachineError, ModelError, UsageError
from gencli.evaluation.calibration import calibrate
from gencli.evaluation.measures import token_f1
from gencli.evaluation.recalling import KEYS_TRIED, remembered
from gencli.model import ngram_index
from gencli.model.confidence import CALIBRATION, read_calibration
from gencli.model.folder import WEIGHTS, open_model
from gencli.model.memory import KEYS, ROWS, memory_of, read_memory, write_memory
from gencli.model.ngram_index import NgramIndex
from gencli.model.ngrams import n_grams
from gencli.text.chat import Turn
from gencli.text.pairs import Pair
from gencli.text.tokenizer import Tokenizer
from tests.conftest import WORDS, Cli, Outcome
from tests.labelling import LABELS, labeller

LEARNED = [
    Pair(
        (Turn("user", f"{word}는 {place}?"), Turn("assistant", f"{word} {place} here")), "pairs.jsonl", number
    )
    for number, (word, place) in enumerate(
        [(w, p) for w in WORDS for p in ("어디", "무엇", "where", "who")], 1
    )
]
HELD_OUT = [
    Pair((Turn("user", f"{pair.prompt[:-1]} 요?"), pair.turns[-1]), "test.jsonl", pair.line)
    for pair in LEARNED[::2]
]


def jsonl(path: Path, pairs: list[Pair]) -> Path:
    rows = [{"prompt": pair.prompt, "completion": pair.completion} for pair in pairs]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """Return a folder with a random model and a memory of the pairs."""
    path = labeller(tmp_path / "model", tokenizer, task={"kind": "answer", "labels": []})
    folder = open_model(path)
    engine = open_engine(folder)
    assert calibrate(folder, HELD_OUT, memory=remembered(folder, LEARNED, engine), engine=engine) is not None
    return path


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text("abAB 가나\n🙂", max_size=9), min_size=1, max_size=7),
    queries=st.lists(st.text("abAB 가나다\n🙂", max_size=9), min_size=1, max_size=3),
    together=st.sampled_from([1, 8, 1 << 20]),
)
def test_cosines_of_ngrams_are_those_of_whole_vectors(
    texts: list[str], queries: list[str], together: int
) -> None:
    """Dense, in float64, from the definition; whatever number of texts is gone through at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_index, "_AT_ONCE", together)
        found = NgramIndex(texts).cosines(queries)
    sets = [set(n_grams(text).tolist()) for text in texts]
    asked = [set(n_grams(text).tolist()) for text in queries]
    every = sorted(set().union(*sets, *asked))
    weights = [1 + math.log((1 + len(texts)) / (1 + sum(gram in own for own in sets))) for gram in every]
    dense, queried = (
        np.array(
            [[weight * (gram in own) for gram, weight in zip(every, weights, strict=True)] for own in each]
        )
        for each in (sets, asked)
    )
    dense, queried = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (dense, queried))
    np.testing.assert_allclose(found, queried @ dense.T, atol=1e-5)


def test_more_texts_than_a_stretch_holds_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_index, "_LAST", 3)
    texts = [f"{number} 번째 {WORDS[number % 18]}" for number in range(50)]
    assert NgramIndex(texts).cosines(texts).argmax(axis=1).tolist() == list(range(50))


def test_the_nearest_are_those_of_both_cosines() -> None:
    random = np.random.default_rng(0)
    vectors, asked = (random.normal(size=(count, 8)).astype(np.float32) + 3 for count in (len(LEARNED), 5))
    memory = memory_of(LEARNED, vectors)
    texts = [pair.prompt for pair in HELD_OUT[:5]]
    mean = vectors.mean(axis=0)
    grams = NgramIndex([pair.prompt for pair in LEARNED]).cosines(texts)
    keys = np.array(
        [
            [(a - mean) @ (b - mean) / np.linalg.norm(a - mean) / np.linalg.norm(b - mean) for b in vectors]
            for a in asked
        ]
    )
    for weight, (places, similarities) in zip(
        (0.0, 2.0), nearest_by(memory, texts, asked, [0.0, 2.0]), strict=True
    ):
        both = grams + weight * keys
        assert places.tolist() == both.argmax(axis=1).tolist()
        np.testing.assert_allclose(similarities, both.max(axis=1), atol=1e-4)


def test_a_memory_comes_back_as_it_was(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(LEARNED), 8)).astype(np.float32)
    memory = memory_of(LEARNED, vectors)
    assert write_memory(tmp_path, memory) == write_memory(tmp_path, memory)
    again = read_memory(tmp_path, 8)
    assert again.rows == memory.rows and np.array_equal(again.centre, memory.centre)
    np.testing.assert_allclose(again.keys, memory.keys, atol=1e-3)
    row = json.loads((tmp_path / ROWS).read_text(encoding="utf-8").splitlines()[0])
    assert row == {
        "prompt": LEARNED[0].prompt,
        "answer": LEARNED[0].completion,
        "file": "pairs.jsonl",
        "line": 1,
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ROWS, b""), (ROWS, b"{"), (ROWS, b"\xff\n"), (ROWS, b'{"prompt": "a", "answer": "b", "file": "c"}\n'),
        (ROWS, b'{"prompt": 1, "answer": "b", "file": "c", "line": 1}\n'),
        (ROWS, b'{"prompt": "a", "answer": "b", "file": "c", "line": 1}\n'), (ROWS, None), (KEYS, b"x"), (KEYS, None),
    ],
)  # fmt: skip
def test_what_is_no_memory_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_memory(tmp_path, memory_of(LEARNED, np.eye(len(LEARNED), 8, dtype=np.float32)))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ModelError, MachineError)) as caught:
        read_memory(tmp_path, 8)
    assert "memory" in caught.value.where


def test_the_fit_says_what_is_found_on_the_pairs_of_the_fit(model: Path) -> None:
    folder = open_model(model)
    engine = open_engine(folder)
    fit = read_calibration(model)[0].recall
    assert fit is not None and fit.keys in KEYS_TRIED and fit.pairs == len(HELD_OUT)
    recaller = open_recaller(folder, engine, *read_calibration(model))
    prompts = [prompt_ids(folder.tokenizer, pair.prompt, chat=True) for pair in HELD_OUT]
    found = recaller.nearest([pair.prompt for pair in HELD_OUT], prompts)
    right = [token_f1(near.pair.answer, pair.completion) for near, pair in zip(found, HELD_OUT, strict=True)]
    assert np.mean(right) == pytest.approx(fit.recalled, abs=0.01)
    assert fit.own < 0.2 and fit.recalled > 0.8 and fit.surer > 0.8
    assert np.mean([near.confidence for near in found]) == pytest.approx(fit.recalled, abs=0.1)
    assert found[0].pair.source == {"prompt": LEARNED[0].prompt, "file": "pairs.jsonl", "line": 1}


def test_a_memory_that_helps_nobody_is_not_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = labeller(tmp_path / "model", tokenizer, task={"kind": "answer", "labels": []})
    folder, lines = open_model(path), list[str]()
    engine = open_engine(folder)
    strange = [Pair((Turn("user", f"q{n}"), Turn("assistant", f"x{n}")), "a", n) for n in range(30)]
    memory = remembered(folder, strange, engine)
    others = [Pair((pair.turns[0], Turn("assistant", "zzz")), "b", 1) for pair in strange]
    found = calibrate(folder, others, memory=memory, engine=engine, say=lines.append)
    assert found is not None and found.recall is None and not (path / ROWS).exists()
    assert "not clearly better" in lines[-1] and "--memory on" in lines[-1]
    found = calibrate(folder, others, memory=memory, keep="on", engine=engine, say=lines.append)
    assert found is not None and found.recall is not None and (path / ROWS).exists()
    assert str(path / ROWS) in lines[-1] and "--memory off" in lines[-1]


def test_long_and_short_prompts_keep_their_order(model: Path) -> None:
    folder = open_model(model)
    engine = open_engine(folder)
    prompts = [[1, *range(300, 300 + count)] for count in (3, 90, 1, 40)]
    found = vectors_of(engine, prompts)
    cut = [1, *prompts[1][-(folder.shape.context - 1) :]]
    for vector, ids in zip(found, [prompts[0], cut, prompts[2], prompts[3]], strict=True):
        np.testing.assert_allclose(vector, engine.vectors([ids])[0], atol=1e-5)


@pytest.mark.parametrize("name", ["torch", "cpu"])
def test_an_engine_that_reads_nothing_twice_knows_that_all_was_forgotten(model: Path, name: str) -> None:
    engine = open_engine(open_model(model), engine=name)
    reusing, prompt = ReusingEngine(engine), [1, 300, 301, 302]
    first = reusing.start([prompt], slots=64).copy()
    np.testing.assert_allclose(reusing.vectors([[1, 310]]), engine.vectors([[1, 310]]), atol=1e-5)
    np.testing.assert_allclose(reusing.start([prompt], slots=64), first, atol=1e-4)
    assert reusing.read == len(prompt)


# what a user sees


def test_generate_says_the_surer_answer_and_where_it_is_from(cli: Cli, model: Path, tmp_path: Path) -> None:
    prompt, options = HELD_OUT[3].prompt, ["-m", model, "-n", 6, "-s", 1]
    outcome = cli("generate", prompt, *options, "--recall")
    near = LEARNED[6]
    assert outcome.code == 0 and outcome.out == f"{near.completion}\n"
    assert f'from pairs.jsonl:{near.line}: "{near.prompt}"' in outcome.err
    told: Any = cli("generate", prompt, *options, "--recall", "--json").records[0]
    assert told["text"] == near.completion and told["confidence"] > 0.5
    assert told["recalled"] == {"prompt": near.prompt, "file": "pairs.jsonl", "line": near.line}
    held: Any = cli("generate", prompt, *options, "--recall", "--json", "--abstain", 1).records[0]
    assert held["text"] == "unknown" and held["withheld"] == near.completion
    quiet = cli("generate", prompt, *options, "--recall", "--abstain", 1)
    assert quiet.out == "unknown\n" and near.completion not in quiet.err
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{pair.prompt}\n" for pair in HELD_OUT[:5]), encoding="utf-8")
    rows: list[Any] = cli("generate", "-i", file, *options, "--recall").records
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    assert {**rows[3], "confidence": 0} == {
        "line": 4, "sample": 0, "prompt": prompt, "text": near.completion, "confidence": 0,
        "recalled": told["recalled"], "seed": 1,
    }  # fmt: skip
    assert rows[3]["confidence"] == pytest.approx(told["confidence"], abs=1e-4)


def test_a_chat_looks_answers_up(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, turns = LEARNED[6], f"{HELD_OUT[3].prompt}\n{HELD_OUT[0].prompt}\n"

    def talk(*more: str) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(turns.encode()), "utf-8"))
        return cli("chat", "-m", model, "-n", 6, "-s", 1, "--recall", *more)

    outcome = talk()
    assert outcome.code == 0 and outcome.out == f"{near.completion}\n{LEARNED[0].completion}\n"
    assert f'from pairs.jsonl:{near.line}: "{near.prompt}"' in outcome.err and "cut at" not in outcome.err
    told: list[Any] = talk("--json").records
    assert [row["text"] for row in told] == [near.completion, LEARNED[0].completion]
    assert told[0]["recalled"]["line"] == near.line and told[0]["confidence"] > 0.5


def test_a_chat_says_its_own_answer_where_that_is_surer(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads((model / CALIBRATION).read_text())
    values["recall"] |= {"slope": 0.0, "offset": -50.0}
    (model / CALIBRATION).write_text(json.dumps(values))
    said = []
    for more in ([], ["--recall"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), "utf-8"))
        outcome = cli("chat", "-m", model, "-n", 6, "-s", 1, *more)
        said.append((outcome.code, outcome.out))
    assert said[0] == said[1]


def test_the_model_speaks_for_itself_where_it_is_surer(cli: Cli, model: Path) -> None:
    options = ["-m", model, "-n", 6, "-s", 1, "--show-confidence"]
    values = json.loads((model / CALIBRATION).read_text())
    values["recall"] |= {"slope": 0.0, "offset": -50.0}
    (model / CALIBRATION).write_text(json.dumps(values))
    own, both = (cli("generate", HELD_OUT[3].prompt, *options, *more) for more in ([], ["--recall"]))
    assert own.out == both.out and "from pairs.jsonl" not in both.err
    one, other = (cli("generate", "x", *options, "--json", *more).records[0] for more in ([], ["--recall"]))
    assert {**one, "row": 0, "tokens_per_second": 0} == {**other, "row": 0, "tokens_per_second": 0}


def test_python_says_what_the_command_says(model: Path) -> None:
    opened = gencli.open_model(model)
    assert gencli.generate(opened, HELD_OUT[3].prompt, recall=True) == LEARNED[6].completion
    with pytest.raises(UsageError, match="recall"):
        gencli.generate(opened, "x", recall=True, regex="a")


@pytest.mark.parametrize(
    "others",
    [
        ["--choices", "a,b"], ["--beams", "2"], ["--num-samples", "2"], ["--logprobs", "1", "--json"], ["--regex", "a"],
        ["--json-schema", "{}"], ["--raw"],
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(cli: Cli, model: Path, others: list[str]) -> None:
    outcome = cli("generate", "x", "-m", model, "--recall", *others)
    assert outcome.code == 2 and "--recall" in outcome.err and others[0] in outcome.err


def test_a_memory_of_other_weights_or_another_one_is_not_used(
    cli: Cli, model: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (model / ROWS).write_text(
        (model / ROWS).read_text(encoding="utf-8").replace("here", "there"), encoding="utf-8"
    )
    outcome = cli("generate", "x", "-m", model, "--recall")
    assert outcome.code == 3 and ROWS in outcome.err and "--memory on" in outcome.err
    assert cli("generate", "x", "-m", model, "-n", 3).code == 0
    findings: list[Any] = cli("verify", model, "--json").records
    assert [(f["verdict"], f["damaged"]) for f in findings if f["place"] == ROWS] == [
        ("not the memory that calibration.json was fitted for", True)
    ]
    other = labeller(tmp_path / "other", tokenizer, task={"kind": "answer", "labels": []}, seed=5)
    (model / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    outcome = cli("generate", "x", "-m", model, "--recall")
    assert outcome.code == 3 and "other weights" in outcome.err
    outcome = cli("generate", "x", "-m", other, "--recall")
    assert outcome.code == 3 and "gencli finetune" in outcome.err


def test_evaluate_judges_what_recall_would_say(cli: Cli, model: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "test.jsonl", HELD_OUT)
    plain: Any = cli("evaluate", file, "-m", model, "--json").records[0]
    both: list[Any] = cli("evaluate", file, "-m", model, "--recall", "--json", "--against", model).records
    found, against = both[:2]
    for figure in ("token_f1", "chrf", "bleu", "exact_match"):
        assert found[f"own_{figure}"] == plain[figure] == against[figure]
    said: list[Any] = cli("generate", "-i", file, "-m", model, "-t", 0, "-n", 200, "--recall").records
    rights = [token_f1(row["text"], pair.completion) for row, pair in zip(said, HELD_OUT, strict=True)]
    assert found["token_f1"] == pytest.approx(np.mean(rights), abs=0.02) and found["token_f1"] > 0.8
    assert found["recalled"] == pytest.approx(np.mean(["recalled" in row for row in said]), abs=0.05)
    assert found["ece_after"] < 0.2 and found["bits_per_byte"] == plain["bits_per_byte"]
    shown = cli("evaluate", file, "-m", model, "--recall")
    assert "by itself" in shown.out and "were looked up" in shown.err


def test_calibrating_again_keeps_the_memory(cli: Cli, model: Path, tmp_path: Path) -> None:
    before = read_calibration(model)[0].recall
    file = jsonl(tmp_path / "test.jsonl", HELD_OUT[:25])
    assert cli("evaluate", file, "-m", model, "--calibrate").code == 0
    after = read_calibration(model)[0].recall
    assert before is not None and after is not None and after.pairs == 25
    assert (after.rows_digest, after.keys_digest) == (before.rows_digest, before.keys_digest)


@pytest.mark.parametrize("memory", ["auto", "on", "off"])
def test_finetune_keeps_what_it_learned_from_if_that_helps(
    cli: Cli, tmp_path: Path, model_folder: Path, memory: str
) -> None:
    learned, held_out = jsonl(tmp_path / "pairs.jsonl", LEARNED), jsonl(tmp_path / "held.jsonl", HELD_OUT)
    output = tmp_path / "qa"
    options = ["-m", model_folder, "-o", output, "--steps", 2, "--task", "answer", "--memory", memory]
    outcome = cli("finetune", learned, *options, "--validation-pairs", held_out)
    assert outcome.code == 0, outcome.err
    kept = memory != "off"
    assert (output / ROWS).exists() == (output / KEYS).exists() == kept
    assert (read_calibration(output)[0].recall is not None) == kept
    if not kept:
        assert cli("generate", "x", "-m", output, "--recall").code == 3
        return
    assert f"{output / ROWS} holds the pairs' text" in outcome.err
    rows = [json.loads(line) for line in (output / ROWS).read_text(encoding="utf-8").splitlines()]
    assert [(row["prompt"], row["line"]) for row in rows] == [(pair.prompt, pair.line) for pair in LEARNED]
    said: Any = cli("generate", LEARNED[5].prompt, "-m", output, "--recall", "--json", "-n", 4).records[0]
    assert said["recalled"]["line"] == 6 and said["text"] == LEARNED[5].completion
    assert ROWS in (output / "README.md").read_text(encoding="utf-8")
    again = [*options[:-1], "off", "--overwrite"]
    assert cli("finetune", learned, *again, "--validation-pairs", held_out).code == 0
    assert not (output / ROWS).exists() and not (output / KEYS).exists()


def test_pairs_set_aside_are_remembered_and_no_help_in_the_fit(
    cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    pairs = jsonl(tmp_path / "pairs.jsonl", [*LEARNED, *HELD_OUT])
    output = tmp_path / "qa"
    options = ["-m", model_folder, "-o", output, "--steps", 2, "--task", "answer", "--memory", "on"]
    outcome = cli("finetune", pairs, *options, "--validation", 0.5)
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (output / ROWS).read_text(encoding="utf-8").splitlines()]
    assert {row["prompt"] for row in rows} == {pair.prompt for pair in (*LEARNED, *HELD_OUT)}
    fit = read_calibration(output)[0].recall
    assert fit is not None and fit.recalled < 0.99  # else each had found itself


def test_a_resumed_run_keeps_the_same_memory(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    learned, held_out = jsonl(tmp_path / "pairs.jsonl", LEARNED), jsonl(tmp_path / "held.jsonl", HELD_OUT)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    options = ["finetune", learned, "-m", model_folder, "--task", "answer", "--validation-pairs", held_out]
    assert cli(*options, "-o", whole, "--steps", 4).code == 0
    assert cli(*options, "-o", parted, "--steps", 2, "--memory", "off").code == 0
    assert not (parted / ROWS).exists()
    outcome = cli(*options, "-o", parted, "--steps", 4, "--resume", "--memory", "auto")
    assert outcome.code == 0, outcome.err
    assert (parted / ROWS).read_bytes() == (whole / ROWS).read_bytes()
    assert read_memory(parted, 32).keys.shape == (len(LEARNED), 32)


def test_labels_and_few_pairs_have_no_memory(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    few = jsonl(tmp_path / "few.jsonl", LEARNED[:20])
    options = ["-m", model_folder, "-o", tmp_path / "qa", "--steps", 1, "--memory", "on"]
    outcome = cli("finetune", few, *options, "--task", "answer")
    assert outcome.code == 2 and "20 held-out pairs" in outcome.err and "--validation" in outcome.err
    pairs = [Pair((pair.turns[0], Turn("assistant", LABELS[pair.line % 2])), "x", 1) for pair in LEARNED]
    outcome = cli("finetune", jsonl(tmp_path / "labels.jsonl", pairs), *options, "--task", "label")
    assert outcome.code == 2 and "free answers" in outcome.err
    assert not (tmp_path / "qa" / WEIGHTS).exists()
