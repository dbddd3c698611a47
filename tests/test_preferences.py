"""Preferences and prompts: what files of them may look like, and what is said of those that can't be used."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import PairsError, UsageError
from gencli.text.chat import Turn
from gencli.text.preferences import Preference, read_preferences
from gencli.text.prompts import read_prompts

USER, GOOD, BAD = Turn("user", "얼마?"), "셋입니다.", "몰라"


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


ASKED = message("user", USER.text)
SHAPES: list[dict[str, object]] = [
    {"prompt": USER.text, "chosen": GOOD, "rejected": BAD},
    {"question": USER.text, "better": GOOD, "worse": BAD},
    {"prompt": USER.text, "chosen": [message("assistant", GOOD)], "rejected": [message("assistant", BAD)]},
    {"prompt": [ASKED], "chosen": [message("assistant", GOOD)], "rejected": BAD},
    {"chosen": [ASKED, message("assistant", GOOD)], "rejected": [ASKED, message("assistant", BAD)]},
    {
        "prompt": USER.text,
        "chosen": [{"from": "human", "value": USER.text}, {"from": "gpt", "value": GOOD}],
        "rejected": [ASKED, message("assistant", BAD)],
    },
]


@pytest.mark.parametrize("row", SHAPES, ids=",".join)
def test_every_common_shape_says_the_same(tmp_path: Path, row: dict[str, object]) -> None:
    (found,) = read_preferences(written(tmp_path / "a.jsonl", row)).preferences
    assert (found.turns, found.chosen, found.rejected, found.line) == ((USER,), GOOD, BAD, 1)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(*[st.text("가a ,\"'1;", min_size=1, max_size=6).filter(str.strip)] * 3),
        min_size=1,
        max_size=5,
    )
)
def test_tables_and_json_are_read_alike(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    rows = [row for row in rows if row[1] != row[2]] or [("a", "b", "c")]
    names, folder = ("prompt", "chosen", "rejected"), tmp_path_factory.mktemp("rows")
    table = io.StringIO()
    csv.writer(table).writerows([names, *rows])
    (folder / "a.csv").write_text(table.getvalue(), encoding="utf-8")
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    (folder / "a.json").write_text(json.dumps(objects), encoding="utf-8")
    files = [folder / "a.csv", folder / "a.json", written(folder / "a.jsonl", *objects)]
    found = [
        [(p.turns[0].text, p.chosen, p.rejected) for p in read_preferences(file).preferences]
        for file in files
    ]
    assert found == [list(rows)] * 3


def test_a_system_word_and_earlier_turns_belong_to_the_prompt(tmp_path: Path) -> None:
    before = [message("system", "s"), ASKED, message("assistant", "둘"), message("user", "더?")]
    row = {"chosen": [*before, message("assistant", "x")], "rejected": [*before, message("assistant", "")]}
    (found,) = read_preferences(written(tmp_path / "a.jsonl", row)).preferences
    assert [turn.role for turn in found.turns] == ["system", "user", "assistant", "user"]
    assert (found.chosen, found.rejected) == ("x", "")
    assert found.pair("x").turns[-1] == Turn("assistant", "x")


def test_what_no_single_row_shows_is_said(tmp_path: Path) -> None:
    def row(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "x"}

    rows = [row("a", "1", "2"), row("a", "1", "2"), row("a", "2", "1"), row("b", "1", "1")]
    file = read_preferences(written(tmp_path / "a.jsonl", *rows))
    assert len(file.preferences) == 3
    told = "\n".join(file.notes)
    for expected in (
        "ignored: source",
        "two equal answers left out, the first in line 4",
        "repeat",
        "both ways",
    ):
        assert expected in told


BAD_ROWS: list[tuple[object, str, str]] = [
    ({"prompt": "a", "chosen": "b"}, "expected a key 'rejected', found 'prompt', 'chosen'", "--rejected-key"),
    ({"prompt": "a", "chosenn": "b", "rejected": "c"}, "expected a key 'chosen'", "'chosenn'?"),
    ({"prompt": "a", "chosen": 1, "rejected": "c"}, "found a number", ""),
    ({"prompt": "a", "chosen": " ", "rejected": "c"}, "under 'chosen' is empty", ""),
    ({"chosen": "b", "rejected": "c"}, "there is no prompt", "--prompt-key"),
    ({"chosen": [ASKED], "rejected": [ASKED]}, "must end with one of the assistant's", ""),
    ({"chosen": [message("assistant", "x")], "rejected": [message("assistant", "y")]}, "expected user, found", ""),
    (
        {"chosen": [ASKED, message("assistant", "x")], "rejected": [message("user", "y"), message("assistant", "x")]},
        "answer different prompts",
        "",
    ),
    ({"prompt": "b", "chosen": [ASKED, message("assistant", "x")], "rejected": "y"}, "do not hold the prompt", ""),
    ({"prompt": "a", "chosen": [{"role": "usr", "content": "a"}], "rejected": "y"}, "found 'usr'", "'user'"),
    ({"prompt": "a", "chosen": "x", "rejected": "x"}, "the same in every row", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message", "hint"), BAD_ROWS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, bad: object, message: str, hint: str) -> None:
    with pytest.raises(PairsError) as caught:
        read_preferences(written(tmp_path / "a.jsonl", bad))
    assert message in caught.value.message and hint in caught.value.hint
    assert caught.value.where.startswith(str(tmp_path / "a.jsonl"))
    assert len(caught.value.lines()) <= 6


def test_a_later_row_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(PairsError) as caught:
        read_preferences(written(tmp_path / "a.jsonl", SHAPES[0], {"prompt": "a", "chosen": "b"}))
    assert caught.value.where.endswith("a.jsonl:2") and "'rejected'" in caught.value.message


def test_keys_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"q": "a", "x": "b", "y": "c", "chosen": "no"})
    (found,) = read_preferences(path, prompt_key="q", chosen_key="x", rejected_key="y").preferences
    assert (found.chosen, found.rejected) == ("b", "c")
    with pytest.raises(UsageError):
        read_preferences(path, chosen_key="x", rejected_key="x")
    with pytest.raises(PairsError, match="expected a key 'z'"):
        read_preferences(path, chosen_key="z", rejected_key="y")


def test_prompts_come_with_an_answer_or_without(tmp_path: Path) -> None:
    pairs = written(
        tmp_path / "a.jsonl", {"prompt": "1+1", "completion": "2"}, {"prompt": "2+2", "completion": ""}
    )
    assert [prompt.expected for prompt in read_prompts(pairs, answered=False).prompts] == ["2", ""]
    with pytest.raises(PairsError, match="the completion is empty"):
        read_prompts(pairs, answered=True)
    bare = written(tmp_path / "b.jsonl", {"question": "1+1", "id": "7"})
    file = read_prompts(bare, answered=False)
    assert [prompt.text for prompt in file.prompts] == ["1+1"] and "ignored: id" in file.notes
    with pytest.raises(PairsError, match="can't tell prompt and answer"):
        read_prompts(bare, answered=True)
    talk = written(
        tmp_path / "c.jsonl", {"messages": [ASKED]}, {"messages": [ASKED, message("assistant", "x")]}
    )
    assert [prompt.expected for prompt in read_prompts(talk, answered=False).prompts] == ["", "x"]
    with pytest.raises(PairsError, match="must end with one of the assistant's"):
        read_prompts(talk, answered=True)


def test_a_preference_knows_its_file() -> None:
    assert Preference((USER,), GOOD, BAD, "a", 3).pair(BAD).completion == BAD
