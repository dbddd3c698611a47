"""Tokenizers lose no text, give no control id for any text, and refuse files that would."""

from __future__ import annotations

import random
import re
import struct
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencli.errors import CorpusError, MachineError, TokenizerError
from gencli.text.corpus import open_corpus
from gencli.text.pieces import USER_DEFINED, read_model_file
from gencli.text.report import tokenizer_report
from gencli.text.sampling import even_sample
from gencli.text.tokenizer import KINDS, LAYOUT, TextStream, Tokenizer
from gencli.text.tokenizer_training import LEAST_VOCABULARY, Pieces, suggested_vocabulary, train_tokenizer
from tests.trained import sentences, trained

if TYPE_CHECKING:
    from pathlib import Path

    from gencli.text.tokenizer_training import TrainedTokenizer

CONTROL_IDS = frozenset(range(7))
ANY_SIZE = Pieces()
ANY_TEXT = st.text(alphabet=st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]))
SPACED_TEXT = st.text(alphabet="a나 \n\t.", max_size=60)
PROBES = [
    "a\nb\tc\r\n d  e   ",
    "\0\x1b[2J",
    "👩‍👩‍👧‍👦 🇰🇷",
    unicodedata.normalize("NFD", "안녕하세요 é"),
    "    x  =  1\n\n\n",
    "</s><|user|><0x41><unk><pad>",
    "ﬁ ½ Ａ ㎏ 힣뷁",
]


def train(
    folder: Path, text: str, *, vocabulary: int | None = 400, kind: str = "bpe", pieces: Pieces = ANY_SIZE
) -> TrainedTokenizer:
    path = folder / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    return train_tokenizer(
        open_corpus([path]), folder / "tokenizer.model", vocabulary=vocabulary, kind=kind, pieces=pieces
    )


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def piece(text: bytes, score: float = 0.0, role: int = 1) -> bytes:
    body = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([role])
    return b"\x0a" + varint(len(body)) + body


# --- text and back


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=120)
@given(text=ANY_TEXT | SPACED_TEXT)
def test_every_text_comes_back_in_nfc(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert CONTROL_IDS.isdisjoint(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", PROBES)
def test_text_that_other_tokenizers_lose(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)
    assert CONTROL_IDS.isdisjoint(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_cut_without_a_trace(kind: str) -> None:
    tokenizer = trained(kind)
    line = sentences(400, seed=9).replace("\n", "  ")
    for text in (line, line.replace("  ", "\n\n"), "a" * 9000, " " * 9000):
        whole = tokenizer._processor.encode(text.split("\n") if kind == "unigram" else [text])
        if kind == "unigram":
            whole = [[*ids, 7] for ids in whole]
            whole[-1].pop()
        assert tokenizer.encode(text) == [index for ids in whole for index in ids]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_halves_of_surrogate_pairs_become_the_replacement_character() -> None:
    assert trained().decode(trained().encode("가\ud800나")) == "가\ufffd나"


def test_batches_equal_single_texts() -> None:
    texts = ["", "하나", "two\n", *sentences(40).split("\n")]
    assert trained().encode_batch(texts, threads=2) == [trained().encode(text) for text in texts]
    assert trained().encode_batch([], threads=2) == []


def test_frequent_words_are_shorter_than_their_bytes() -> None:
    text = "오늘 아침에 학교에 갑니다"
    assert len(trained().encode(text)) < len(text) < len(text.encode())


# --- ids


def test_special_ids_are_fixed() -> None:
    tokenizer = trained()
    assert (tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 1, 2, 3)
    assert tokenizer.roles == {"system": 4, "user": 5, "assistant": 6}
    assert tokenizer.control_ids == CONTROL_IDS
    assert tokenizer.encode("\n") == [7]
    assert [tokenizer.piece(index) for index in range(len(LAYOUT))] == [text for text, _ in LAYOUT]
    assert tokenizer.decode(sorted(CONTROL_IDS)) == ""


def test_every_id_stands_for_bytes() -> None:
    tokenizer = trained()
    assert len(tokenizer.piece_bytes) == tokenizer.vocabulary == 600
    assert [tokenizer.bytes_of(8 + value) for value in range(256)] == [bytes([value]) for value in range(256)]
    assert [index for index in range(tokenizer.vocabulary) if tokenizer.is_byte(index)] == list(range(8, 264))
    spaced = next(index for index in range(264, 600) if tokenizer.piece(index).startswith("\u2581"))
    assert tokenizer.bytes_of(spaced).startswith(b" ")


@pytest.mark.parametrize("index", [-1, 600, 10**6])
def test_an_unknown_id_is_refused(index: int) -> None:
    with pytest.raises(TokenizerError, match="0 to 599"):
        trained().decode([5, index])
    with pytest.raises(TokenizerError):
        trained().piece(index)


# --- streams


@settings(deadline=None, max_examples=200)
@given(
    ids=st.lists(st.integers(0, 599) | st.integers(8, 263) | st.sampled_from([8 + 0xED, 8 + 0x9E, 8 + 0xA3]))
)
def test_a_stream_gives_what_decode_gives(ids: list[int]) -> None:
    stream = TextStream(trained())
    given_out = "".join([stream.add(index) for index in ids]) + stream.flush()
    assert given_out == trained().decode(ids)


@settings(deadline=None, max_examples=80)
@given(text=ANY_TEXT)
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    expected = unicodedata.normalize("NFC", text)
    stream, shown = TextStream(trained()), ""
    for index in trained().encode(text):
        shown += stream.add(index)
        assert expected.startswith(shown)
    assert shown == expected
    assert stream.flush() == ""


# --- files that are no tokenizer


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b'{"version": "1.0", "model": {}}', "JSON"),
        (b"\x93NUMPY random bytes", "not a SentencePiece model"),
        (piece(b"<unk>", role=2), "not a gencli tokenizer"),
        (piece(b"a" * 100_000), "100000 bytes"),
        (piece(b""), "0 bytes"),
        (piece(b"a\0b"), "NUL"),
        (piece(b"\xff\xfe"), "not UTF-8"),
        (piece(b"a", float("nan")), "not a number"),
        (piece(b"a") * 2, "twice"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=reason) as caught:
        Tokenizer.open(path)
    assert str(path) in caught.value.where


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        Tokenizer.open(tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match="folder"):
        Tokenizer.open(tmp_path)
    large = tmp_path / "large.model"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(TokenizerError, match="64 MB"):
        Tokenizer.open(large)


def test_a_cut_file_is_refused_at_every_length() -> None:
    data = trained().model_bytes
    for size in range(1, len(data), max(1, len(data) // 200)):
        with pytest.raises(TokenizerError):
            Tokenizer.from_bytes(data[:size], "cut")


def test_control_pieces_within_reach_of_text_are_refused() -> None:
    for text in (b"</s>", b"<|user|>"):
        safe = b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\0\0\x18\x03"
        assert trained().model_bytes.count(safe) == 1
        unsafe = trained().model_bytes.replace(safe, safe[:-1] + bytes([USER_DEFINED]))
        with pytest.raises(TokenizerError, match=f"{re.escape(text.decode())}.*another type"):
            Tokenizer.from_bytes(unsafe, "unsafe")


@pytest.mark.parametrize(
    "settings",
    [
        b"\x1a\x04\x18\x01\x20\x01",  # normaliser: a dummy prefix, extra spaces removed
        b"\x1a\x09\x12\x01x\x18\x00\x20\x00\x28\x01",  # normaliser: a table of replacements
        b"\x2a\x03\x12\x01x",  # denormaliser: a table of replacements
        b"\x12\x02\x18\x02",  # trainer: no byte fallback
    ],
)
def test_a_model_that_changes_text_is_refused(settings: bytes) -> None:
    with pytest.raises(TokenizerError, match="changes text"):
        Tokenizer.from_bytes(trained().model_bytes + settings, "lossy")


def test_a_model_without_settings_is_refused() -> None:
    pieces = b"".join(piece(entry.text.encode(), entry.score, entry.role) for entry in trained().model.pieces)
    with pytest.raises(TokenizerError, match="changes text"):
        Tokenizer.from_bytes(pieces + b"\x12\x05\x18\x02\x98\x02\x01", "bare")


def test_pieces_across_spaces_and_foreign_symbols_are_refused() -> None:
    for extra in (piece("a\u2581b".encode()), piece(b"symbol", role=USER_DEFINED)):
        with pytest.raises(TokenizerError, match="not a gencli tokenizer"):
            Tokenizer.from_bytes(trained().model_bytes + extra, "foreign")


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_byte_never_crashes(place: int, value: int) -> None:
    data = bytearray(trained().model_bytes)
    data[place % len(data)] = value
    try:
        tokenizer = Tokenizer.from_bytes(bytes(data), "damaged")
    except TokenizerError:
        return
    assert CONTROL_IDS.isdisjoint(tokenizer.encode("a 나 </s>"))


def test_an_old_sentencepiece_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentencepiece.__version__", "0.2.1")
    with pytest.raises(MachineError, match="CVE-2026-1260"):
        Tokenizer.from_bytes(trained().model_bytes, "old")


def test_the_file_says_what_sentencepiece_says() -> None:
    for kind in KINDS:
        tokenizer = trained(kind)
        model = read_model_file(tokenizer.model_bytes, "file")
        processor = tokenizer._processor
        assert model.kind == kind
        assert [entry.text for entry in model.pieces] == [
            processor.id_to_piece(index) for index in range(len(model.pieces))
        ]
        assert all(entry.score == processor.get_score(index) for index, entry in enumerate(model.pieces))


# --- training


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_repeatable_and_written(tmp_path: Path, kind: str) -> None:
    first = train(tmp_path, sentences(200), kind=kind).tokenizer
    second = train(tmp_path, sentences(200), kind=kind).tokenizer
    assert first.model_bytes == second.model_bytes
    assert Tokenizer.open(tmp_path / "tokenizer.model").digest == first.digest
    assert [entry.name for entry in tmp_path.glob("*.model")] == ["tokenizer.model"]


def test_training_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, sentences(50))
    assert capfd.readouterr() == ("", "")


def test_a_vocabulary_that_the_corpus_cannot_fill_is_lowered(tmp_path: Path) -> None:
    for kind in KINDS:
        result = train(tmp_path, "hello world\n안녕 세상\n", vocabulary=5000, kind=kind)
        assert result.tokenizer.vocabulary < 400
        assert any("pieces of 5000" in note for note in result.notes)
        assert result.tokenizer.decode(result.tokenizer.encode("hello 안녕")) == "hello 안녕"


def test_characters_without_room_are_left_to_bytes(tmp_path: Path) -> None:
    hangul = "\n".join(chr(0xAC00 + index) * (2 + (index < 20)) for index in range(1500))
    for kind in KINDS:
        result = train(tmp_path, hangul, vocabulary=LEAST_VOCABULARY, kind=kind)
        assert any("--vocab-size" in note for note in result.notes)
        assert result.tokenizer.decode(result.tokenizer.encode(hangul)) == hangul
        assert result.tokenizer.vocabulary <= LEAST_VOCABULARY


def test_coverage_below_sentencepieces_limit_is_honoured(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("aaaaaaaaab " * 50, "utf-8")
    corpus = open_corpus([path])
    few = train_tokenizer(corpus, tmp_path / "few", vocabulary=400, character_coverage=0.5).tokenizer
    all_of_them = train_tokenizer(corpus, tmp_path / "all", vocabulary=400, character_coverage=1.0).tokenizer
    assert few.is_byte(few.encode("b")[0])
    assert not all_of_them.is_byte(all_of_them.encode("b")[0])


@pytest.mark.parametrize(
    "text", ["a", "a" * 5000, "a\t", "\u2585", "가" * 99 + "\0나", "1" * 3000, "가 " * 4000 + "."]
)
def test_odd_corpora_train(tmp_path: Path, text: str) -> None:
    for kind in KINDS:
        tokenizer = train(tmp_path, text + "\n", kind=kind).tokenizer
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_lines_are_learned_from(tmp_path: Path) -> None:
    line = "".join(chr(0xAC00 + index) * 2 for index in range(4000))
    tokenizer = train(tmp_path, line, vocabulary=6000).tokenizer
    assert sum(map(tokenizer.is_byte, tokenizer.encode(line))) < 0.01 * len(line)


def test_nothing_is_learned_from_what_is_held_out(tmp_path: Path) -> None:
    first, second = sentences(300), "".join(f"나는 {word} 간다\n" for word in ("학교에", "집에", "산에") * 50)
    unseen = "뷁쀍쉛"
    for name, text in (("one", first), ("two", second)):
        end = f"{unseen}\n" * (len(text.encode()) // 100)  # about a tenth of the whole
        (tmp_path / name).write_text(text + end, "utf-8")
    both = open_corpus([tmp_path / "one", tmp_path / "two"])
    seen = train_tokenizer(both, tmp_path / "whole", vocabulary=800).tokenizer
    held = train_tokenizer(both, tmp_path / "part", vocabulary=800, held_out=0.1).tokenizer
    assert not any(map(seen.is_byte, seen.encode(unseen)))
    assert all(map(held.is_byte, held.encode(unseen)))
    assert not any(map(held.is_byte, held.encode("나는 학교에 간다")))


def test_one_line_is_learned_from_even_if_some_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("나는 학교에 간다\n", "utf-8")
    tokenizer = train_tokenizer(
        open_corpus([path]), tmp_path / "model", vocabulary=400, held_out=0.5
    ).tokenizer
    assert not any(map(tokenizer.is_byte, tokenizer.encode("학교")))


def test_a_large_corpus_is_sampled_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(sentences(500), "utf-8")
    result = train_tokenizer(open_corpus([path]), tmp_path / "model", vocabulary=400, sample_bytes=8000)
    assert "even sample" in result.notes[0]


@pytest.mark.parametrize(
    ("vocabulary", "kind", "coverage"),
    [
        (0, "bpe", 0.9),
        (LEAST_VOCABULARY - 1, "bpe", 0.9),
        (10**7, "bpe", 0.9),
        (400, "word", 0.9),
        (400, "bpe", 0.0),
        (400, "bpe", 1.01),
        (400, "bpe", float("nan")),
    ],
)
def test_odd_arguments_are_refused(tmp_path: Path, vocabulary: int, kind: str, coverage: float) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("text", "utf-8")
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(
            open_corpus([path]),
            tmp_path / "model",
            vocabulary=vocabulary,
            kind=kind,
            character_coverage=coverage,
        )
    assert caught.value.hint
    assert not (tmp_path / "model").exists()


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        train(tmp_path, "\n \n")
    assert not (tmp_path / "tokenizer.model").exists()


def test_the_suggested_vocabulary_grows_with_the_corpus() -> None:
    sizes = [0, 10_000, 10**6, 10**7, 10**9]
    suggestions = [suggested_vocabulary(size) for size in sizes]
    assert suggestions == [512, 512, 1024, 5760, 16_000]


def test_finer_pieces_are_fewer_but_leave_many_characters_room(tmp_path: Path) -> None:
    draw = random.Random(1)
    few, many = (
        "\n".join("".join(draw.choices(letters, k=6)) for _ in range(400_000))
        for letters in ([chr(0x61 + n) for n in range(20)], [chr(0xAC00 + n) for n in range(400)])
    )
    sizes = [
        train(tmp_path, text, vocabulary=None, pieces=Pieces(fineness)).tokenizer.vocabulary
        for text in (few, many)
        for fineness in (1.0, 2.0)
    ]
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=64)
    assert sizes[2] > sizes[3] > 400 * 3


def test_without_a_vocabulary_the_characters_decide(tmp_path: Path) -> None:
    hangul = "\n".join(chr(0xAC00 + index) * 9 for index in range(1000))
    assert train(tmp_path, hangul, vocabulary=None).notes == () or len(hangul) < 12_000
    tokenizer = train(tmp_path, hangul, vocabulary=None).tokenizer
    assert sum(map(tokenizer.is_byte, tokenizer.encode(hangul))) < 0.03 * len(hangul)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=300), limit=st.integers(1, 60))
def test_samples_are_even_and_small(sizes: list[int], limit: int) -> None:
    texts = [f"{index % 10}" * size for index, size in enumerate(sizes)]
    sample = even_sample(iter(texts), limit)
    assert sample.total_bytes == sum(sizes)
    assert sample.nbytes == sum(map(len, sample.texts))
    assert sample.texts == [
        ("".join(texts))[s : s + len(t)] for s, t in zip(sample.starts, sample.texts, strict=True)
    ]
    assert sample.nbytes <= limit or len(sample.texts) == 1
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if texts[::step] == sample.texts)
    assert step == 1 or sum(map(len, texts[:: step // 2])) > limit


# --- report


def test_the_report_counts_bytes_by_script(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    text = "오늘아침에뷁cat日本ひら12."
    path.write_text(text + "\n", "utf-8")
    report = tokenizer_report(trained(), open_corpus([path]))
    sizes = {name: script.nbytes for name, script in report.scripts.items()}
    assert sizes == {"hangul": 18, "han": 6, "kana": 6, "latin": 3, "digits": 2, "other": 1}
    assert report.nbytes == len(text.encode())
    assert report.scripts["kana"].tokens == 6
    ids = trained().encode(text)
    assert report.tokens == len(ids)
    assert report.byte_fallback_share == pytest.approx(sum(map(trained().is_byte, ids)) / 36, abs=1e-6)
    assert report.unused_pieces == 336 - len({index for index in ids if index >= 264})
    assert sum(script.tokens for script in report.scripts.values()) == pytest.approx(report.tokens, abs=0.5)
    assert report.record()["scripts"]["han"]["nbytes"] == 6


def test_a_space_counts_with_the_word_after_it(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the the the\n", "utf-8")
    scripts = tokenizer_report(trained(), open_corpus([path])).scripts
    assert (set(scripts), scripts["latin"].nbytes) == ({"latin"}, 11)


def test_the_report_names_the_flag_that_mends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("쀍 뷁 꿹 ▁ 쉐\n" * 3, "utf-8")
    report = tokenizer_report(trained(), open_corpus([path]))
    assert report.byte_fallback_share > 0.5
    assert report.round_trip_failures == 1
    assert "▁" in report.failures[0]
    advice = "\n".join(report.advice)
    assert "--vocab-size" in advice
    assert "--character-coverage" in advice
    assert "lower" in advice
    assert "U+2581" in advice
    path.write_text(sentences(600), "utf-8")
    good = tokenizer_report(trained(), open_corpus([path]))
    assert (good.round_trip_failures, good.failures) == (0, ())
    assert "spelled" not in "\n".join(good.advice)
    assert good.bytes_per_token > 3
    assert "--kind bpe" in "\n".join(tokenizer_report(trained("char"), open_corpus([path])).advice)
