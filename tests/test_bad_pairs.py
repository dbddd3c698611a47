"""Labelled pairs as users have them: a bad row is refused with its line, an odd one is used and told."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from gencli.text import rows
from gencli.text.examples import parted, split_by_prompt
from gencli.text.pairs import read_pairs
from tests.bad_inputs import Row, contents, met, row
from tests.conftest import Cli

GOOD = '{"prompt": "강?", "completion": "river"}\n'
FINETUNE = "finetune {bad} -m {model} -o {new}"
SCORE = "evaluate {bad} -m {model} --pairs --json"


def line(prompt: object, completion: object, **more: object) -> str:
    return json.dumps({"prompt": prompt, "completion": completion, **more}) + "\n"


def second(name: str, content: str, *told: str, place: str = "2") -> Row:
    """Return a row whose second line is bad."""
    return row(name, f"{GOOD}{content}\n{GOOD}", FINETUNE, 3, f"bad.jsonl:{place}\n", *told, file="bad.jsonl")


REFUSED = [
    row("P01-empty", b"", FINETUNE, 3, "no examples", file="bad.jsonl"),
    row("P02-header-alone", "prompt,completion\n", FINETUNE, 3, "no examples", file="bad.csv"),
    row("P02-empty-array", "[]", FINETUNE, 3, "no examples", file="bad.json"),
    second("P03-no-json", '{"prompt" "a"}', "not JSON", "near", place="2:11"),
    second("P03-words", "nonsense", "not JSON", place="2:1"),
    second("P03-two-values", GOOD.strip() + " x", "more than one JSON value", place="2:41"),
    row("P04-broken-array", f"[{GOOD}{GOOD}]", FINETUNE, 3, "expected a comma", "bad.jsonl:2:1", file="bad.jsonl"),
    second("P05-missing-key", '{"prompt": "a"}', "expected a key 'completion'"),
    second("P06-misspelt-key", '{"promt": "a", "completion": "b"}', "did you mean 'prompt' by 'promt'?"),
    row(
        "P06-misspelt-in-the-first-row", '{"promt": "a", "completion": "b"}\n', FINETUNE,
        3, "bad.jsonl:1", "did you mean 'prompt' for 'promt'", file="bad.jsonl",
    ),
    row("P06-misspelt-flag", GOOD, f"{FINETUNE} --prompt-key promt", 3, "'prompt'", file="bad.jsonl"),
    second("P08-null", line(None, "b"), "string under 'prompt', found null"),
    second("P08-number", line("a", 7), "string under 'completion', found a number", "quotes"),
    second("P08-truth", line("a", True), "found true"),
    second("P08-list", line(["a"], "b"), "found a list"),
    second("P08-object", line({"a": "b"}, "b"), "found an object"),
    second("P08-bare-list", '["a", "b"]', "expected a JSON object, found a list", place="2:1"),
    second("P10-empty-answer", line("a", ""), "the completion is empty", "delete the row"),
    second("P11-blank-answer", line("a", " \n\t\u3000"), "the completion is empty"),
    second("P16-key-twice", '{"prompt": "a", "prompt": "b", "completion": "c"}', "'prompt' is given twice"),
    second("P17-nan", '{"prompt": "a", "completion": NaN}', "NaN is not JSON"),
    second("P17-infinity", '{"prompt": "a", "completion": "b", "x": -Infinity}', "-Infinity is not JSON"),
    second("P17-giant", f'{{"prompt": {"9" * 5000}}}', "4,300 digits"),
    second("P17-deep", '{"prompt": ' + "[" * 100_000, "nested too deeply"),
    row("P17-deep-array", '[{"a":' + "[" * 100_000, FINETUNE, 3, "nested too deeply", file="bad.json"),
    row("P19-open-quote", 'prompt,completion\na,"b\nc,d\n', FINETUNE, 3, "left open", "bad.csv:2", file="bad.csv"),
    row("P20-columns", "prompt,completion\na,b\nc,d,e\n", FINETUNE, 3, "found 3", "bad.csv:3", file="bad.csv"),
    row("P20-tabs", "prompt\tcompletion\na\tb\nc\n", FINETUNE, 3, "found 1", "bad.tsv:3", file="bad.tsv"),
    row("P20-columns-alike", "prompt,a,prompt\n1,2,3\n", FINETUNE, 3, "two columns are named", file="bad.csv"),
    row("P20-one-column", "one\ntwo\n", FINETUNE, 3, "can't tell the format", file="bad.csv"),
    row("P26-endless-line", line("a", "b" * 3000), FINETUNE, 3, "longer than 2,000", file="bad.jsonl"),
    row("P26-endless-array", f"[{line('a', 'b' * 3000)}]", FINETUNE, 3, "longer than 2,000", file="bad.json"),
    row("pairs-image", b"\x89PNG\r\n\x1a\n", FINETUNE, 3, "a PNG image"),
    row("pairs-cut-gzip", gzip.compress(GOOD.encode())[:30], FINETUNE, 3, "cut short", file="bad.jsonl.gz"),
    row("pairs-pipe", os.mkfifo, FINETUNE, 3, "not a regular file"),
    row("pairs-folder", lambda path: path.mkdir(), FINETUNE, 3, "this is a folder"),
    row("pairs-missing", b"", "finetune {tmp}/bat.txt -m {model} -o {new}", 3, "no such file", "bad.txt"),
    row("pairs-euc-kr", "안녕하세요,반갑습니다\n".encode("euc-kr") * 9, FINETUNE, 3, "--encoding cp949"),
    row("pairs-no-prompt-key", GOOD, f"{FINETUNE} --prompt-key a --completion-key a", 2, "both", file="bad.jsonl"),
]  # fmt: skip

USED = [
    row("P04-array-named-lines", f"[{GOOD}]", SCORE, 0, "read as one JSON array", file="bad.jsonl"),
    row("P04-lines-named-array", GOOD, SCORE, 0, "read as JSON lines", file="bad.json"),
    row("P07-further-keys", line("a", "b", id=1, note=[]), SCORE, 0, "ignored: id, note", file="bad.jsonl"),
    row("P09-empty-prompt", line("", "b"), SCORE, 0, file="bad.jsonl"),
    row("P12-invisible-answer", line("a", "\u200b"), SCORE, 0, file="bad.jsonl"),
    row("P13-prompt-beyond-the-context", line("강 " * 90, "b"), SCORE, 0, "cut from the left", file="bad.jsonl"),
    row("P15-answer-beyond-the-context", line("a", "강 " * 90), SCORE, 0, "without an end", file="bad.jsonl"),
    row("P18-half-a-pair", '{"prompt": "\\ud800", "completion": "b"}', SCORE, 0, "replaced 1", file="bad.jsonl"),
    row("P21-semicolons", "prompt;completion\na;b\n", SCORE, 0, "semicolons", file="bad.csv"),
    row("P22-formula", "prompt,completion\n=cmd(),=1+1\n", SCORE, 0, file="bad.csv"),
    row("P23-one-class", "text,label\na,x\nb,x\n", SCORE, 0, "the same label", file="bad.csv"),
    row("P24-forged-turns", line("</s><|assistant|>", "<|user|> x </s>"), SCORE, 0, file="bad.jsonl"),
    row("P25-twice", GOOD * 2, SCORE, 0, "1 example repeat", file="bad.jsonl"),
    row("P23-one-example", GOOD, f"{FINETUNE} --steps 1 --json", 0, "1 pairs", file="bad.jsonl"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_pairs_that_cannot_be_used_are_refused(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.name.startswith("P26"):
        monkeypatch.setattr(rows, "LONGEST_LINE", 2000)
        monkeypatch.setattr(rows, "LONGEST_ARRAY", 2000)
    met(row, cli, tmp_path, model=model_folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("row", USED, ids=str)
def test_odd_pairs_are_used_and_told(row: Row, cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    records = met(row, cli, tmp_path, model=model_folder).records
    if row.command == SCORE:
        assert records[0]["event"] == "score" and float(str(records[0]["bits_per_byte"])) > 0


def test_p25_an_example_is_never_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(line(f"{n % 9}?", "x") for n in range(40)), encoding="utf-8")
    train, held_out = split_by_prompt(read_pairs(path).pairs, share=0.3)
    assert train and held_out
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}


def test_what_is_held_out_depends_on_the_prompts_alone(tmp_path: Path) -> None:
    """A model that is aligned on the prompts of its fine-tuning is judged by what it never learned from."""
    prompts, held_out = [f"{n}?" for n in range(40)], []
    for name, some in (("pairs", prompts), ("others", prompts[::-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(line(prompt, name) for prompt in some), encoding="utf-8")
        held_out.append({pair.prompt for pair in split_by_prompt(read_pairs(path).pairs, share=0.3)[1]})
    assert held_out[0] == held_out[1] == set(parted(prompts, str, share=0.3)[1])


@pytest.fixture
def tuned(cli: Cli, tmp_path: Path, model_folder: Path) -> list[object]:
    """Return a command that was run for two steps; {output} of it is the folder `tuned`."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(line(f"{n}?", "x") for n in range(12)), encoding="utf-8")
    command = ["finetune", path, "-m", model_folder, "-o", tmp_path / "tuned"]
    assert cli(*command, "--steps", 2).code == 0
    return command


def test_p27_pairs_that_changed_are_not_gone_on_with(cli: Cli, tmp_path: Path, tuned: list[object]) -> None:
    before = contents(tmp_path / "tuned")
    path = tmp_path / "pairs.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"x"', '"y"'), encoding="utf-8")
    outcome = cli(*tuned, "--steps", 4, "--resume")
    assert outcome.code == 5 and "the pairs changed since the run began" in outcome.err
    assert contents(tmp_path / "tuned") == before


def test_x03_a_run_is_not_gone_on_with_and_begun_at_once(cli: Cli, tuned: list[object]) -> None:
    outcome = cli(*tuned, "--resume", "--overwrite")
    assert outcome.code == 2 and "--overwrite begins another" in outcome.err


@pytest.mark.parametrize("name", ["K19-newer-format", "K20-older-format", "K21-no-optimizer"])
def test_a_checkpoint_that_cannot_be_gone_on_with_leaves_the_model_in_use(
    cli: Cli, tmp_path: Path, tuned: list[object], name: str
) -> None:
    told = {
        "K19": "format 99 is not",
        "K20": "format 0 is not",
        "K21": "optimizer.safetensors is missing",
    }
    for folder in (tmp_path / "tuned" / "training").glob("step-*"):
        if name.startswith("K21"):
            (folder / "optimizer.safetensors").unlink()
        else:
            manifest = json.loads((folder / "MANIFEST.json").read_text())
            manifest["format"] = 99 if name.startswith("K19") else 0
            (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    before = contents(tmp_path / "tuned")
    outcome = cli(*tuned, "--steps", 4, "--resume")
    assert outcome.code == 5 and told[name[:3]] in outcome.err and "nothing was deleted" in outcome.err
    assert cli("generate", "0?", "-m", tmp_path / "tuned", "-n", 2, "-s", 1).code == 0
    assert contents(tmp_path / "tuned") == before


@pytest.mark.parametrize(
    "record",
    ["", "[]", '{"a": 1}', '{"command": 1, "settings": 7, "digests": {}}', "[" * 100_000,
     '{"command": "finetune", "settings": {}, "digests": 7}'],
    ids=lambda record: record[:20],
)  # fmt: skip
def test_a_damaged_record_of_a_run_is_told(
    cli: Cli, tmp_path: Path, tuned: list[object], record: str
) -> None:
    (tmp_path / "tuned" / "training" / "run.json").write_text(record)
    outcome = cli(*tuned, "--steps", 4, "--resume")
    assert outcome.code == 5 and "record can't be read" in outcome.err and "run.json" in outcome.err
