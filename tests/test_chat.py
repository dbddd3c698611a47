"""A chat from a pipe: what the model reads, what is remembered, saved, loaded and commanded."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import AutoTokenizer

from gencli.cli.lines import MOST_ENTRIES, Keyboard, turn_of
from gencli.decoding.conversation import Conversation, Exchange, exchanges_of
from gencli.decoding.decoder import Engine, Token, generate
from gencli.decoding.engines import open_engine
from gencli.decoding.prompts import prompt_ids
from gencli.decoding.reuse import ReusingEngine
from gencli.decoding.sampler import Sampling
from gencli.errors import UsageError
from gencli.model.folder import open_model, publish
from gencli.text.chat import Turn, chat_ids
from gencli.text.pairs import read_pairs
from gencli.text.tokenizer import Tokenizer
from gencli.ui import Screen
from tests.conftest import Cli, Outcome, random_model, tiny_shape
from tests.trained import trained


@pytest.fixture(scope="module")
def tuned(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model that says it was fine-tuned, with room for some turns."""
    path = tmp_path_factory.mktemp("model") / "tuned"
    shape = tiny_shape(tokenizer.vocabulary, context=160)
    weights = random_model(shape, seed=3).weights()
    publish(path, weights, shape=shape, tokenizer=tokenizer, lineage={"kind": "finetuned"}, card="# chat\n")
    return path


class Talk:
    """Runs `gencli chat` with lines on its stdin."""

    def __init__(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cli, self._patch = cli, monkeypatch

    def __call__(self, folder: Path, lines: str | bytes, *more: object) -> Outcome:
        data = lines if isinstance(lines, bytes) else lines.encode()
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        return self._cli("chat", "-m", folder, "-n", 8, "-s", 1, "--engine", "cpu", *more)


@pytest.fixture
def talk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Talk:
    return Talk(cli, monkeypatch)


def written(folder: Path, ids: Sequence[int], number: int = 0) -> str:
    """Return what the model writes after ids, without anything of a chat."""
    opened = open_model(folder)
    events = generate(
        open_engine(opened, engine="cpu"), opened.tokenizer, [ids],
        sampling=Sampling(), seed=1, max_new_tokens=8, numbers=[number],
    )  # fmt: skip
    return "".join(event.text for event in events if isinstance(event, Token))


# --- what the model reads


def test_the_turns_are_those_of_fine_tuning_and_of_the_chat_template(tuned: Path) -> None:
    tokenizer = open_model(tuned).tokenizer
    talk = Conversation(tokenizer, context=1024, room=100, chat=True)
    talk.system = "강</s>"
    talk.exchanges += [Exchange("바다 <|user|>", "sea"), Exchange("", " 산\n")]
    assert talk.prompt("별?").ids == chat_ids(tokenizer, [*talk.turns, Turn("user", "별?")], answer=False)[0]
    said = [Turn("system", "강"), Turn("user", "바다 "), Turn("assistant", "sea"), Turn("user", " 산\n")]
    talk.system, exchanges = exchanges_of(said[:3])
    talk.clear(exchanges)
    messages = [{"role": turn.role, "content": turn.text} for turn in said]
    peer = AutoTokenizer.from_pretrained(tuned)
    expected = peer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert talk.prompt(" 산\n").ids == expected


@settings(deadline=None, max_examples=80)
@given(
    said=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=12),
    chat=st.booleans(),
    remember=st.none() | st.integers(0, 4),
)
def test_the_oldest_turns_go_and_the_newest_stay(
    said: list[tuple[str, str]], chat: bool, remember: int | None
) -> None:
    tokenizer = trained()
    talk = Conversation(tokenizer, context=128, room=20, chat=chat, remember=remember)
    if chat:
        talk.system = "the"
    gone = 0
    for question, answer in said:
        prompt = talk.prompt(question)
        if remember is not None:
            gone = max(gone, len(talk.exchanges) - remember)
        gone += prompt.dropped
        kept = talk.exchanges[gone:]
        if chat:
            turns = [Turn("system", "the"), *_turns(kept), Turn("user", question)]
            assert prompt.ids == chat_ids(tokenizer, turns, answer=False)[0]
        else:
            before = "".join(f"{q}{a}" + "\n" * (not f"{q}{a}".endswith("\n")) for q, a in map(_pair, kept))
            assert prompt.ids == prompt_ids(tokenizer, before + question, chat=False)
        assert len(prompt.ids) <= 108 or not kept
        talk.exchanges.append(Exchange(question, answer))


def _pair(exchange: Exchange) -> tuple[str, str]:
    return exchange.question, exchange.answer


def _turns(exchanges: Sequence[Exchange]) -> list[Turn]:
    return [
        Turn(role, text)
        for e in exchanges
        for role, text in zip(("user", "assistant"), _pair(e), strict=True)
    ]


def test_a_system_text_without_room_is_refused(tuned: Path) -> None:
    talk = Conversation(open_model(tuned).tokenizer, context=64, room=8, chat=True)
    with pytest.raises(UsageError, match="leaves no room"):
        talk.system = "강 산 " * 40
    assert talk.system == "" and talk.head == 1


class Counting:
    """An engine that counts what it reads, and can be interrupted while it does."""

    threads = 1

    def __init__(self, engine: Engine) -> None:
        self.name, self.context, self.vocabulary = engine.name, engine.context, engine.vocabulary
        self.engine, self.read, self.breaks = engine, 0, False

    def start(self, prompts: Sequence[Sequence[int]], *, copies: int = 1, slots: int) -> NDArray[np.float32]:
        self.read += len(prompts[0])
        return self.engine.start(prompts, copies=copies, slots=slots)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.engine.step(tokens)

    def extend(self, tokens: Sequence[int], *, after: int) -> NDArray[np.float32]:
        self.read += len(tokens)
        logits = self.engine.extend(tokens, after=after)
        if self.breaks:
            raise KeyboardInterrupt
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        self.engine.keep(rows)

    def vectors(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self.engine.vectors(prompts)


@pytest.mark.parametrize("name", ["torch", "cpu"])
def test_what_was_read_is_not_read_again(tuned: Path, name: str) -> None:
    folder = open_model(tuned)
    counting, fresh = Counting(open_engine(folder, engine=name)), open_engine(folder, engine=name)
    reusing = ReusingEngine(counting)

    def both(ids: list[int], new: int) -> None:
        before = counting.read
        found = reusing.start([ids], slots=len(ids))
        assert counting.read - before == reusing.read == new
        np.testing.assert_allclose(found, fresh.start([ids], slots=160), rtol=1e-4, atol=1e-4)

    first = [1, *range(300, 340)]
    both(first, 41)
    for one in (5, 6, 7):
        stepped = reusing.step(np.array([one]))
    np.testing.assert_allclose(stepped, fresh.start([[*first, 5, 6, 7]], slots=160), rtol=1e-4, atol=1e-4)
    both([*first, 5, 6, 7, 8, 9], 2)
    both([*first, 5, 6, 7, 8, 9], 1)
    both([*first[:20], 9, 9], 2)
    counting.breaks = True
    with pytest.raises(KeyboardInterrupt):
        reusing.start([[*first[:20], 8, 8, 8]], slots=160)
    counting.breaks = False
    both([*first[:20], 9, 9, 9], 3)
    both([2, 300], 2)


def test_each_answer_is_that_of_all_turns_before_it(talk: Talk, tuned: Path) -> None:
    outcome = talk(tuned, "강 산?\r\n\n바다\n별")
    tokenizer = open_model(tuned).tokenizer
    turns: list[Turn] = []
    answers = ""
    for number, question in enumerate(("강 산?", "바다", "별")):
        turns.append(Turn("user", question))
        answer = written(tuned, chat_ids(tokenizer, turns, answer=False)[0], number)
        turns.append(Turn("assistant", answer))
        answers += answer + "\n"
    assert outcome.code == 0 and outcome.out == answers
    alone = talk(tuned, "강 산?\n바다\n", "--remember", 0).out
    assert alone == written(tuned, prompt_ids(tokenizer, "강 산?", chat=True)) + "\n" + (
        written(tuned, prompt_ids(tokenizer, "바다", chat=True), 1) + "\n"
    )


def test_turns_that_no_longer_fit_are_told(talk: Talk, tuned: Path) -> None:
    outcome = talk(tuned, "강 산 바다 하늘 나무 새 꽃 별 달\n" * 12, "--json")
    forgotten = [int(str(record["forgotten"])) for record in outcome.records]
    assert len(forgotten) == 12 and 0 < sum(forgotten) < 12
    assert outcome.err.count("into the context and will not be read any more") == sum(
        n > 0 for n in forgotten
    )
    long = talk(tuned, "강 산 바다 하늘 나무 " * 30)
    assert long.code == 0 and "longer than the context" in long.err


def test_json_tells_each_answer(talk: Talk, tuned: Path) -> None:
    plain, records = talk(tuned, "강\n산\n").out, talk(tuned, "강\n산\n", "--json").records
    assert "".join(f"{record['text']}\n" for record in records) == plain
    assert [(record["turn"], record["prompt"], record["seed"]) for record in records] == [
        (1, "강", 1),
        (2, "산", 1),
    ]
    assert all(record["event"] == "answer" and record["finish"] in ("stop", "length") for record in records)


def test_a_model_that_was_not_fine_tuned_goes_on_with_the_text(talk: Talk, model_folder: Path) -> None:
    outcome = talk(model_folder, "강 산\n바다\n", "--min-new-tokens", 8)
    tokenizer = open_model(model_folder).tokenizer
    first, second = outcome.out.removesuffix("\n").split("\n") if outcome.out.count("\n") == 2 else ("", "")
    assert first == written(model_folder, prompt_ids(tokenizer, "강 산", chat=False))
    assert second == written(model_folder, prompt_ids(tokenizer, f"강 산{first}\n바다", chat=False), 1)
    assert "not fine-tuned" in outcome.err and "gencli finetune" in outcome.err
    assert talk(model_folder, "강\n", "--system", "x").code == 2


def test_what_a_model_was_taught_decides_what_is_said_of_turns(
    talk: Talk, cli: Cli, model_folder: Path, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": f"{n} {role}"} for n in range(2) for role in ("user", "assistant")]
    rows: dict[str, dict[str, object]] = {
        "one": {"prompt": "강", "completion": "산"},
        "two": {"messages": turns},
        "label": {"text": "강", "label": "a"},
    }
    said = {}
    for name, row in rows.items():
        own = [{"label": f"{n % 2}", "text": f"{n}"} if name == "label" else {} for n in range(40)]
        others = [{**row, **more} for more in own]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(other) + "\n" for other in others))
        tuned = tmp_path / name
        cli(
            "finetune",
            tmp_path / f"{name}.jsonl",
            "-m",
            model_folder,
            "-o",
            tuned,
            "--steps",
            1,
            "--validation",
            0,
        )
        assert open_model(tuned).lineage["turns"] == (2 if name == "two" else 1)
        outcome = talk(tuned, "강\n산\n")
        assert outcome.code == 0
        said[name] = outcome.err
    assert "taught single questions; --remember 0" in said["one"] and "taught labels" in said["label"]
    assert "taught" not in said["two"]


# --- commands


def test_a_chat_is_saved_for_fine_tuning_and_loaded_again(talk: Talk, tuned: Path, tmp_path: Path) -> None:
    whole = talk(tuned, "/system 별\n강 산?\n바다\n하늘\n", "-t", 0).out.splitlines()
    file = tmp_path / "a chat.json"
    begun = talk(tuned, f"강 산?\n바다\n/save '{file}'\n", "-t", 0, "--system", "별")
    assert begun.out.splitlines() == whole[:2] and "saved: 2 turns" in begun.err
    messages = json.loads(file.read_text("utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2]
    assert [message["content"] for message in messages[::2]] == ["별", whole[0], whole[1]]
    (pair,) = read_pairs(file).pairs
    assert [turn.text for turn in pair.turns] == [message["content"] for message in messages]
    for lines, more in ((f"/load {file}\n하늘\n", []), ("하늘\n", ["--load", file])):
        loaded = talk(tuned, lines, "-t", 0, *more)
        assert loaded.out.splitlines() == whole[2:] and "loaded: 2 turns and a system text" in loaded.err


def test_a_file_of_another_origin_is_replaced_only_when_asked_twice(
    talk: Talk, tuned: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text("mine")
    once = talk(tuned, f"강\n/save {file}\n")
    assert once.code == 5 and file.read_text() == "mine" and "as it was" in once.err
    twice = talk(tuned, f"강\n/save {tmp_path}/new.json\n산\n/save {tmp_path}/new.json\n")
    assert twice.code == 0 and len(read_pairs(tmp_path / "new.json").pairs[0].turns) == 4


def test_what_was_said_is_forgotten_when_asked(talk: Talk, tuned: Path) -> None:
    anew = talk(tuned, "강 산?\n/reset\n바다\n", "-t", 0)
    assert anew.out.splitlines()[1] == talk(tuned, "바다\n", "-t", 0).out.splitlines()[0]
    assert "all turns are forgotten" in anew.err
    dropped = talk(tuned, '/system 별\n/system\n/system ""\n바다\n', "-t", 0)
    assert dropped.out == talk(tuned, "바다\n", "-t", 0).out and dropped.err.count("system text: 별") == 2
    assert talk(tuned, "강\n/quit\n산\n").out.count("\n") == 1
    assert talk(tuned, "/help\n").err.count("/") == 6


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("/rest", 2, "did you mean /reset?"), ("/sav x", 2, "did you mean /save?"), ("/bye", 2, "/help lists them"),
        ("/save", 2, "needs the name of a file"), ("/save x.json", 2, "nothing was said"),
        ("/load {tmp}/none.json", 3, "none.json"), ("/load {tmp}/two.jsonl", 3, "2 chats here"),
        ("/load {tmp}/bad.json", 3, "bad.json:1"), ("/system " + "강 산 " * 60, 2, "leaves no room"),
    ],
)  # fmt: skip
def test_a_command_that_can_not_be_ends_a_pipe_with_its_code(
    talk: Talk, tuned: Path, tmp_path: Path, line: str, code: int, told: str
) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (tmp_path / "two.jsonl").write_text(f"{row}\n{row}\n")
    (tmp_path / "bad.json").write_text('{"messages": [{"role": "user"')
    outcome = talk(tuned, line.format(tmp=tmp_path) + "\n강\n")
    assert (outcome.code, outcome.out) == (code, "") and told in outcome.err
    assert 2 <= len(outcome.err.strip().splitlines()) <= 6


def test_two_slashes_are_one_in_a_question(talk: Talk, tuned: Path) -> None:
    records = talk(tuned, "//etc\n", "--json").records
    assert [record["prompt"] for record in records] == ["/etc"]


def test_a_line_that_is_not_utf_8_is_named(talk: Talk, tuned: Path) -> None:
    outcome = talk(tuned, "강\n".encode() + "산\n".encode("cp949"))
    assert outcome.code == 3 and "stdin, line 2" in outcome.err and outcome.out.count("\n") == 1


# --- lines


class Given:
    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def line(self, _: str) -> str:
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


@pytest.mark.parametrize(
    ("lines", "turns"),
    [
        (["a", "b"], ["a", "b"]),
        (["a\\", "b\\", "c", "d"], ["a\nb\nc", "d"]),
        (["a\\"], ["a\n"[:1]]),
        (['"""', "a", "", '"b"', '"""', "c"], ['a\n\n"b"', "c"]),
        (['"""a', 'b"""'], ["a\nb"]),
        (['"""a"""', "b"], ["a", "b"]),
        (['"""', "a"], ["a"]),
        (['"""', "a\\", '"""'], ["a\\"]),
        (['a"""', "b"], ['a"""', "b"]),
    ],
)
def test_turns_of_several_lines(lines: list[str], turns: list[str]) -> None:
    given_ = Given(*lines)
    assert [turn_of(given_) for _ in turns] == turns
    with pytest.raises(EOFError):
        turn_of(given_)


def test_the_history_is_private_short_and_bears_damage(tmp_path: Path) -> None:
    readline: Any = pytest.importorskip("readline")
    file, screen = tmp_path / "cache" / "history.jsonl", Screen(quiet=True)

    def entries() -> list[str]:
        readline.clear_history()
        Keyboard(file, screen)
        return [readline.get_history_item(n + 1) for n in range(readline.get_current_history_length())]

    keyboard = Keyboard(file, screen)
    for turn in ("강 산", "two\nlines"):
        keyboard.note(turn)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open("a") as more:
        more.write('{"no": 1}\n"\\ud800"\n"torn')
    assert entries() == ["강 산", "two\nlines", "?"]
    file.write_text("".join(f'"{n}"\n' for n in range(3 * MOST_ENTRIES)))
    assert entries()[-1] == str(3 * MOST_ENTRIES - 1) and len(entries()) == MOST_ENTRIES
    assert len(file.read_text().splitlines()) == MOST_ENTRIES and stat.S_IMODE(file.stat().st_mode) == 0o600
    outside, link = tmp_path / "outside", tmp_path / "link"
    link.symlink_to(outside)
    Keyboard(link, screen).note("a")
    assert not outside.exists()
    readline.clear_history()


def test_a_closed_pipe_ends_a_chat_quietly(tuned: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gencli", "chat", "-m", str(tuned), "-n", "4", "-s", "1", "-q"]
    done = subprocess.run(
        command, input="강\n산\n".encode(), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
