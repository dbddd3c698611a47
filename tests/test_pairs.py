"""Labelled pairs: every format gives the same pairs, and every bad row is refused with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import MachineError, PairsError, UsageError
from gencli.text import rows, sources
from gencli.text.chat import Turn
from gencli.text.pairs import Pair, PairsFile, read_pairs

ANSWERS = st.text(st.sampled_from("ab \"',;:{}[]\\가각\u1100\u1161e\u0301😀\u2028\x85\t\n")).map(
    lambda text: text + "x"
)
FAST = settings(deadline=None, max_examples=50)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def read(path: Path, content: bytes | str, **options: Any) -> PairsFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_pairs(path, **options)


def plain(found: PairsFile) -> list[tuple[str, str]]:
    return [(pair.prompt, pair.completion) for pair in found.pairs]


def lines(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@given(
    pairs=st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=6), chunk=st.sampled_from([1, 5, 1000])
)
@FAST
def test_every_format_gives_the_same_pairs(scratch: Path, pairs: list[tuple[str, str]], chunk: int) -> None:
    objects = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("question", "answer"), *pairs])
    semicolons = io.StringIO()
    csv.writer(semicolons, delimiter=";").writerows([("prompt", "completion"), *pairs])
    expected = [tuple(unicodedata.normalize("NFC", side) for side in pair) for pair in pairs]
    with patch.object(sources, "CHUNK_BYTES", chunk):
        assert plain(read(scratch / "a.jsonl", lines(*objects))) == expected
        assert plain(read(scratch / "a.json", json.dumps(objects, indent=2))) == expected
        assert plain(read(scratch / "a.csv", table.getvalue())) == expected
        assert plain(read(scratch / "b.csv", semicolons.getvalue())) == expected


@given(rows=st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=6))
@FAST
def test_quotes_are_plain_text_between_tabs(scratch: Path, rows: list[tuple[str, str]]) -> None:
    cells = [tuple(re.sub("[\t\n]", " ", unicodedata.normalize("NFC", cell)) for cell in row) for row in rows]
    content = "".join(f"{prompt}\t{completion}\n" for prompt, completion in [("ko", "en"), *cells])
    found = read(scratch / "a.tsv", content)
    assert (found.format, found.fields) == ("tsv", "columns ko → en")
    assert plain(found) == cells


def test_each_pair_knows_its_line(tmp_path: Path) -> None:
    objects = [{"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "2"}]
    name = str(tmp_path / "a")
    assert [
        pair.line for pair in read(tmp_path / "a", lines(objects[0]) + "\n \n" + lines(objects[1])).pairs
    ] == [1, 4]
    found = read(tmp_path / "a", json.dumps(objects, indent=1))
    assert [(pair.file, pair.line) for pair in found.pairs] == [(name, 2), (name, 6)]
    found = read(tmp_path / "a.csv", 'question,answer\n"two\nlines",1\n\nb,2\n')
    assert [pair.line for pair in found.pairs] == [2, 5]
    assert [pair.line for pair in read(tmp_path / "a.tsv", "q\ta\nx\ty\n\nz\tw").pairs] == [2, 4]


def test_a_single_line_array_of_many_examples_takes_linear_time(tmp_path: Path) -> None:
    objects = [{"prompt": str(index), "completion": "x" * 20} for index in range(20_000)]
    assert len(read(tmp_path / "a.json", json.dumps(objects)).pairs) == 20_000


@pytest.mark.parametrize(
    ("name", "content", "found", "note"),
    [
        ("a.jsonl", '[{"prompt": "a", "completion": "b"}]', "json", "one JSON array"),
        ("a.json", '{"prompt": "a", "completion": "b"}\n', "jsonl", "JSON lines"),
        ("a.csv", "prompt\tcompletion\na\tb\n", "tsv", "tab-separated"),
        ("a.tsv", "prompt,completion\na,b\n", "csv", "comma-separated"),
        ("a.csv", "prompt;completion\na;b\n", "csv", "semicolons"),
    ],
)
def test_the_content_decides_the_format(
    tmp_path: Path, name: str, content: str, found: str, note: str
) -> None:
    pairs = read(tmp_path / name, content)
    assert (pairs.format, plain(pairs)) == (found, [("a", "b")])
    assert note in "".join(pairs.notes)


def test_gzip_other_encodings_and_marks_are_read(tmp_path: Path) -> None:
    row = lines({"prompt": "안녕", "completion": "예"})
    assert plain(read(tmp_path / "a.jsonl.gz", gzip.compress(row.encode()))) == [("안녕", "예")]
    assert plain(read(tmp_path / "a.jsonl", row.encode("cp949"), encoding="cp949")) == [("안녕", "예")]
    found = read(tmp_path / "a.csv", "\ufeffquestion,answer\r\n안녕,예\r\n")
    assert (plain(found), found.fields) == ([("안녕", "예")], "question → answer")
    assert any("byte order mark" in note for note in found.notes)
    with pytest.raises(PairsError) as caught:
        read(tmp_path / "a.csv", "안녕하세요,반갑습니다".encode("cp949"))
    assert "cp949" in caught.value.hint


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'{"prompt": "a", "completion": "b"}\n{"prompt": 1, "completion": "b"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content[:35])))
    assert read_pairs("-").pairs == (Pair((Turn("user", "a"), Turn("assistant", "b")), "stdin", 1),)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(PairsError) as caught:
        read_pairs("-")
    assert caught.value.where == "stdin:2"


@pytest.mark.parametrize(
    ("row", "words", "pair"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt → completion", ("a", "b")),
        ({"question": "a", "answer": "b"}, "question → answer", ("a", "b")),
        ({"Question": "a", "Answer": "b"}, "Question → Answer", ("a", "b")),
        ({"Q": "a", "A": "b"}, "Q → A", ("a", "b")),
        ({"질문": "a", "답변": "b"}, "질문 → 답변", ("a", "b")),
        ({"text": "a", "label": "b"}, "text → label", ("a", "b")),
        ({"source": "a", "target": "b"}, "source → target", ("a", "b")),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "prompt → chosen", ("a", "b")),
        ({"instruction": "a", "output": "b"}, "instruction → output", ("a", "b")),
        ({"instruction": "a", "input": "i", "output": "b"}, "instruction + input → output", ("a\n\ni", "b")),
        ({"instruction": "a", "input": "", "output": "b"}, "instruction + input → output", ("a", "b")),
        (
            {"instruction": "a", "context": "i", "response": "b"},
            "instruction + context → response",
            ("a\n\ni", "b"),
        ),
        ({"input": "a", "output": "b"}, "input → output", ("a", "b")),
    ],
)
def test_known_fields_are_detected(
    tmp_path: Path, row: dict[str, str], words: str, pair: tuple[str, str]
) -> None:
    found = read(tmp_path / "a.jsonl", lines(row))
    assert (found.fields, plain(found)) == (words, [pair])


def test_labels_are_listed_and_a_single_one_is_noted(tmp_path: Path) -> None:
    objects = [
        {"text": text, "label": label} for text, label in [("a", "좋음"), ("b", "나쁨"), ("c", "좋음")]
    ]
    assert read(tmp_path / "a.jsonl", lines(*objects)).labels == ("나쁨", "좋음")
    single = read(tmp_path / "a.jsonl", lines(objects[0], objects[2]))
    assert any("same label" in note for note in single.notes)
    assert read(tmp_path / "a.csv", "text,label\ngood,1\nbad,0\n").labels == ("0", "1")
    assert read(tmp_path / "a.jsonl", lines({"prompt": "a", "completion": "b"})).labels == ()


def test_keys_can_be_named(tmp_path: Path) -> None:
    row = lines({"ko": "가", "en": "go", "id": "1"})
    found = read(tmp_path / "a.jsonl", row, prompt_key="en", completion_key="ko")
    assert (plain(found), found.notes) == ([("go", "가")], ("ignored: id",))
    assert plain(read(tmp_path / "a.csv", "de,ko\nja,네\n", prompt_key="ko")) == [("네", "ja")]
    with pytest.raises(PairsError) as caught:
        read(tmp_path / "a.jsonl", row, prompt_key="en", completion_key="kor")
    assert "'ko'" in caught.value.hint
    with pytest.raises(PairsError) as caught:
        read(tmp_path / "a.csv", "ko,en\na,b\n", prompt_key="eng", completion_key="ko")
    assert caught.value.where == f"{tmp_path / 'a.csv'}:1"
    with pytest.raises(UsageError):
        read(tmp_path / "a.jsonl", row, prompt_key="en", completion_key="en")


def test_tables_without_known_names(tmp_path: Path) -> None:
    found = read(tmp_path / "a.tsv", '가."\tGo.\n뛰어!\tRun!\n')
    assert (found.fields, plain(found)) == ("prompt → completion", [('가."', "Go."), ("뛰어!", "Run!")])
    assert any("read as an example" in note for note in found.notes)
    found = read(tmp_path / "a.tsv", "ko\ten\tsource\n가.\tGo.\tme\n")
    assert (found.fields, plain(found), found.notes) == (
        "columns ko → en",
        [("가.", "Go.")],
        ("ignored: source",),
    )
    found = read(tmp_path / "a.tsv", "가.\tGo.\t#1 (x)\n뛰어!\tRun!\t#2\n")
    assert (found.fields, len(found.pairs)) == ("columns 1 → 2", 2)
    assert "ignored: column 3" in found.notes


def test_cells_are_only_text(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'prompt,completion\n=cmd(),"say ""hi"", <|user|>"\n')
    assert plain(found) == [("=cmd()", 'say "hi", <|user|>')]


def test_messages_become_turns(tmp_path: Path) -> None:
    chat = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in chat], "id": 1}
    found = read(tmp_path / "a.jsonl", lines(row))
    assert [(turn.role, turn.text) for turn in found.pairs[0].turns] == chat
    assert (found.pairs[0].prompt, found.pairs[0].completion) == ("c", "d")
    assert (found.fields, found.notes) == ("messages", ("ignored: id",))
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert plain(read(tmp_path / "a.jsonl", lines(shared))) == [("a", "b")]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "end with"),
        ("hello", "expected a list"),
        (["hello"], "message 1: expected an object, found a string"),
        ([{"role": "user", "content": "a"}], "end with"),
        ([{"role": "assistant", "content": "a"}], "message 1: expected user, found assistant"),
        (
            [{"role": "system", "content": "s"}, {"role": "system", "content": "s"}],
            "message 2: expected user",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            "message 2: expected assistant",
        ),
        ([{"role": "usr", "content": "a"}], "found 'usr'"),
        ([{"role": "user", "content": None}], "found null"),
        ([{"role": "user", "contents": "a"}], "expected a key 'content'"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}], "empty"),
    ],
)
def test_bad_messages_are_refused(tmp_path: Path, messages: object, message: str) -> None:
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(PairsError, match=re.escape(message)) as caught:
        read(tmp_path / "a.jsonl", lines({"messages": good}, {"messages": messages}))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"


@pytest.mark.parametrize(
    ("line", "place", "message", "hint"),
    [
        ('{"prompt" "a"}', "2:11", "near", "one whole JSON object"),
        ("nonsense", "2:1", "not JSON", ""),
        ('["a", "b"]', "2:1", "expected a JSON object, found a list", ""),
        ('{"promt": "a", "completion": "b"}', "2", "expected a key 'prompt'", "'promt'"),
        ('{"prompt": "a"}', "2", "expected a key 'completion'", ""),
        ('{"prompt": null, "completion": "b"}', "2", "string under 'prompt', found null", ""),
        ('{"prompt": "a", "completion": 7}', "2", "string under 'completion', found a number", "quotes"),
        ('{"prompt": "a", "completion": true}', "2", "found true", ""),
        ('{"prompt": ["a"], "completion": "b"}', "2", "found a list", ""),
        ('{"prompt": {}, "completion": "b"}', "2", "found an object", ""),
        ('{"prompt": "a", "completion": ""}', "2", "empty", ""),
        ('{"prompt": "a", "completion": " \\n"}', "2", "empty", ""),
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', "2", "'prompt' is given twice", ""),
        ('{"prompt": NaN, "completion": "b"}', "2", "NaN is not JSON", ""),
        ('{"prompt": "a", "completion": -Infinity}', "2", "-Infinity is not JSON", ""),
        ('{"prompt": ' + "9" * 5000 + "}", "2", "4,300 digits", ""),
        ('{"prompt": ' + "[" * 100_000, "2", "nested", ""),
        ('{"prompt": "a", "completion": "b"} x', "2:36", "more than one", ""),
    ],
)
def test_bad_json_rows_are_refused_with_their_place(
    tmp_path: Path, line: str, place: str, message: str, hint: str
) -> None:
    good = lines({"prompt": "", "completion": "an empty prompt is fine"})
    with pytest.raises(PairsError, match=re.escape(message)) as caught:
        read(tmp_path / "a.jsonl", good + line + "\n" + good)
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:{place}"
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ('[{"prompt": "a", "completion": "b"},\n {"prompt": 1, "completion": "b"}]', "2", "found a number"),
        ('[{"prompt": "a", "completion": "b"}\n {"prompt": 1}]', "2:2", "expected a comma"),
        ('[{"prompt": "a", "completion": "b"},\n ]', "2:2", "not JSON"),
        ('[{"prompt": "a", "completion": "b"},\n  7]', "2", "found a number"),
        ('[{"prompt": "a", "completion": "b"}', "1:36", "expected a comma or ] at the end"),
        ('[{"prompt": "a", "completion": "b"}]\nmore', "2:1", "after the JSON array"),
        ('[\n{"prompt": "a",\n "completion": b}]', "3:16", "not JSON"),
        ("[]", "1", "no examples"),
    ],
)
def test_bad_arrays_are_refused_with_their_place(
    tmp_path: Path, content: str, place: str, message: str
) -> None:
    with pytest.raises(PairsError, match=re.escape(message)) as caught:
        read(tmp_path / "a.json", content)
    assert caught.value.where == f"{tmp_path / 'a.json'}:{place}"


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("a.csv", 'prompt,completion\na,b\nc,"left open\nd,e\n', "3", "left open"),
        ("a.csv", 'prompt,completion\na,"b"c\n', "2", "not comma-separated"),
        ("a.csv", "prompt,completion\na,b\n\nc,d,e\n", "4", "expected 2 columns, found 3"),
        ("a.tsv", "prompt\tcompletion\na\tb\nc\n", "3", "expected 2 columns, found 1"),
        ("a.csv", "prompt,completion\na,\n", "2", "empty"),
        ("a.csv", "prompt,answer,prompt\na,b,c\n", "1", "two columns are named 'prompt'"),
        ("a.csv", "prompt,completion\n", "1", "no examples"),
        ("a.csv", "one column\na\n", "1", "can't tell the format"),
        ("a.txt", "A tale, once.\nIt has a comma, here, and there.\nEnd.\n", "1", "can't tell the format"),
        ("a.jsonl", "", "1", "no examples"),
        ("a.txt", "\n\n", "1", "no examples"),
    ],
)
def test_bad_tables_are_refused_with_their_line(
    tmp_path: Path, name: str, content: str, place: str, message: str
) -> None:
    with pytest.raises(PairsError, match=re.escape(message)) as caught:
        read(tmp_path / name, content)
    assert caught.value.where == f"{tmp_path / name}:{place}"


def test_unknown_keys_in_the_first_row_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="'promt', 'completion'") as caught:
        read(tmp_path / "a.jsonl", "\n" + lines({"promt": "a", "completion": "b"}))
    assert "'prompt' for 'promt'" in caught.value.hint
    assert "--prompt-key" in caught.value.hint
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"


def test_endless_lines_and_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST_LINE", 1000)
    monkeypatch.setattr(rows, "LONGEST_ARRAY", 1000)
    long = {"prompt": "a" * 1000, "completion": "b"}
    with pytest.raises(PairsError, match="longer than 1,000") as caught:
        read(tmp_path / "a.jsonl", lines({"prompt": "a", "completion": "b"}, long))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"
    with pytest.raises(PairsError, match="longer than 1,000"):
        read(tmp_path / "a.json", json.dumps([long]))


def test_missing_and_refused_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.jsonl").write_text("x")
    with pytest.raises(PairsError) as caught:
        read_pairs(tmp_path / "pair.jsonl")
    assert "pairs.jsonl" in caught.value.hint
    with pytest.raises(PairsError, match="folder"):
        read_pairs(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MachineError):
        read_pairs(tmp_path / "pairs.jsonl")


def test_values_are_mended_and_counted(tmp_path: Path) -> None:
    content = '{"prompt": "e\\u0301\\r\\nb", "completion": "\\ud800\\u1112\\u1161\\u11ab", "task": 1}\n'
    found = read(tmp_path / "a.jsonl", content * 2)
    assert plain(found) == [("é\nb", "\ufffd한")] * 2
    notes = "; ".join(found.notes)
    for expected in ("ignored: task", "2 Windows line ends", "4 texts", "2 invalid", "1 example"):
        assert expected in notes
    assert notes.count("task") == 1


def test_duplicates_and_contradictions_are_counted(tmp_path: Path) -> None:
    answers = [("a", "1"), ("a", "2"), ("a", "1"), ("b", "1"), ("b", "1"), ("c", "1")]
    found = read(tmp_path / "a.jsonl", lines(*({"prompt": p, "completion": c} for p, c in answers)))
    assert len(found.pairs) == 6
    assert found.notes == (
        "2 examples repeat an earlier one, the first in line 3",
        "1 prompt with more than one completion, the first in lines 1 and 2",
    )


def test_all_rows_without_an_answer_are_named_at_once(tmp_path: Path) -> None:
    rows = lines(*({"prompt": str(n), "completion": "" if n % 2 else "x"} for n in range(24)))
    with pytest.raises(PairsError, match="12 completions are empty") as caught:
        read(tmp_path / "a.jsonl", rows)
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:2"
    assert "lines 2, 4, 6, 8, 10, 12, 14, 16 and 4 more" in caught.value.hint
