"""The exported tokenizer gives gencli's ids in the `tokenizers` and `transformers` libraries."""

from __future__ import annotations

import functools
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import TokenizerError
from gencli.text.chat import Turn, chat_ids
from gencli.text.exchange import hugging_face_files
from gencli.text.tokenizer import KINDS
from tests.trained import sentences, trained

LOOKALIKES = "</s><|user|>hi<s><unk><pad><0x41><0x0A> <|assistant|></s"
PROBES = [
    "",
    " 앞뒤 공백 ",
    "안녕하세요, 오늘 아침에 the old cat",
    "a\tb\n\nc  d   e\r\n",
    LOOKALIKES,
    "👩‍👩‍👧‍👦 🇰🇷 \0\x01",
    "a" * 3000,
    " " * 3000,
    "\n" * 50,
    unicodedata.normalize("NFD", "한글 é ñ"),
    "<|assistant|>\u0338 \u2581x\u2581\u2581 ﬁ½",
    "힣뷁꿹" * 20 + "1234567",
    sentences(100, seed=3),
    sentences(100, seed=4).replace("\n", "").replace(" ", ""),
]
ANY_TEXT = st.text(alphabet=st.characters(max_codepoint=0x2FFFF, exclude_categories=["Cs", "Cn"]))
TIED_TEXT = st.text(alphabet="thea \n가", max_size=80)


TURNS = [
    Turn("system", "도와 줍니다."),
    Turn("user", " hi\n\n there"),
    Turn("assistant", "네 \n"),
    Turn("user", "또?"),
    Turn("assistant", " 끝 "),
]


@functools.cache
def auto_tokenizer(kind: str, *, chat: bool) -> Any:
    """Return what transformers makes of a model folder of ours."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, text in hugging_face_files(trained(kind), chat=chat, context=10**6).items():
            Path(folder, name).write_text(text, "utf-8")
        Path(folder, "config.json").write_text('{"model_type": "qwen3"}', "utf-8")
        Path(folder, "tokenizer.model").write_bytes(trained(kind).model_bytes)
        return AutoTokenizer.from_pretrained(folder)


def messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", PROBES)
def test_ids_are_equal(kind: str, text: str) -> None:
    ours = trained(kind).encode(text)
    base, chat = auto_tokenizer(kind, chat=False), auto_tokenizer(kind, chat=True)
    assert base(text, add_special_tokens=False).input_ids == ours
    assert base(text).input_ids == [1, *ours]
    assert chat(text, add_special_tokens=False, split_special_tokens=True).input_ids == ours
    assert base.decode(ours) == trained(kind).decode(ours)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(text=ANY_TEXT | TIED_TEXT | st.sampled_from(PROBES).map(lambda probe: probe[5:40]))
def test_ids_of_any_text_are_equal(kind: str, text: str) -> None:
    theirs = auto_tokenizer(kind, chat=False)(text, add_special_tokens=False).input_ids
    assert theirs == trained(kind).encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizers_library_reads_the_file_alone(kind: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path = tmp_path / "tokenizer.json"
    path.write_text(hugging_face_files(trained(kind), chat=False, context=64)["tokenizer.json"], "utf-8")
    theirs = Tokenizer.from_file(str(path))
    text = sentences(50, seed=8)
    assert theirs.encode(text, add_special_tokens=False).ids == trained(kind).encode(text)
    assert theirs.get_vocab_size() == trained(kind).vocabulary


def test_special_tokens_keep_their_ids() -> None:
    theirs = auto_tokenizer("bpe", chat=True)
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert theirs.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>", "\n"]) == [4, 5, 6, 7]
    assert len(theirs) == trained().vocabulary
    assert theirs.model_max_length == 10**6
    assert theirs.decode([1, 5, *trained().encode("안녕\n"), 2], skip_special_tokens=True) == "안녕\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_has_the_same_ids_and_mask(kind: str) -> None:
    ids, learned = chat_ids(trained(kind), TURNS, answer=True)
    theirs = auto_tokenizer(kind, chat=True).apply_chat_template(
        messages(TURNS), return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == ids
    assert theirs["assistant_masks"] == [int(flag) for flag in learned]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_ends_with_the_assistants_marker(kind: str) -> None:
    ids, learned = chat_ids(trained(kind), TURNS[:2], answer=False)
    theirs = auto_tokenizer(kind, chat=True).apply_chat_template(
        messages(TURNS[:2]), return_dict=True, add_generation_prompt=True
    )
    assert theirs["input_ids"] == ids
    assert ids[-1] == trained(kind).roles["assistant"]
    assert not any(learned)


def test_what_is_learned_is_the_answer_and_its_end() -> None:
    ids, learned = chat_ids(trained(), TURNS, answer=True)
    assert len(ids) == len(learned)
    spoken = [index for index, flag in zip(ids, learned, strict=True) if flag]
    assert spoken == [*trained().encode("네 \n"), 2, *trained().encode(" 끝 "), 2]
    assert ids[:2] == [1, 4]


def test_no_typed_text_becomes_a_marker() -> None:
    ids, _ = chat_ids(trained(), [Turn("user", LOOKALIKES)], answer=False)
    assert [index for index in ids if index in trained().control_ids] == [1, 5, 6]
    assert trained().decode(ids) == LOOKALIKES


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(TokenizerError, match="tool"):
        chat_ids(trained(), [Turn("tool", "x")], answer=False)
    with pytest.raises(Exception, match="role"):
        auto_tokenizer("bpe", chat=True).apply_chat_template([{"role": "tool", "content": "x"}])


def test_only_chat_models_have_a_template() -> None:
    plain = json.loads(hugging_face_files(trained(), chat=False, context=64)["tokenizer_config.json"])
    chat = json.loads(hugging_face_files(trained(), chat=True, context=64)["tokenizer_config.json"])
    assert "chat_template" not in plain
    assert "generation" in chat["chat_template"]
    assert (plain["split_special_tokens"], chat["split_special_tokens"]) == (True, False)
    assert plain["model_max_length"] == 64
