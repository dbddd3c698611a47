"""A corpus: what is read, how it is cut into documents, what is mended and counted, what is refused."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gencli.errors import CorpusError, MachineError, UsageError
from gencli.text import documents, sources
from gencli.text.corpus import Corpus, Document, open_corpus
from gencli.text.normalization import LONGEST_RUN, begins_safely, compose

PIECES = (
    *("a", "Z", " ", "가", "한국어", "\u1100", "\u1161", "\u11a8"),
    *("e", "\u0301", "\u0323", "😀", "\u0f71\u0f72"),
    *("\n", "\n\n", "\r\n", "\r", "\t", "\u2028", "\x85", "\u2581", "\ufffd"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
LINES = st.text(st.sampled_from("ab 가나\n😀")).map(str.split)
PARAGRAPHS = st.lists(LINES.filter(bool).map("\n".join), min_size=1)
FAST = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "text.txt"


def corpus_of(path: Path, content: bytes | str, **options: Any) -> Corpus:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_corpus([path], **options)


def read(path: Path, content: bytes | str, **options: Any) -> list[Document]:
    """The documents of a file; none for an empty corpus."""
    corpus = corpus_of(path, content, **options)
    try:
        return list(corpus.documents())
    except CorpusError as error:
        assert "no text" in error.message
        return []


def texts(path: Path, content: bytes | str, **options: Any) -> list[str]:
    return [document.text for document in read(path, content, **options)]


@given(text=TEXTS)
@FAST
def test_documents_are_the_normalised_text_between_blank_lines(scratch: Path, text: str) -> None:
    normalised = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    expected = [part for part in re.split("\n\n+", normalised.strip("\n")) if part and not part.isspace()]
    assert texts(scratch, text) == expected


@given(paragraphs=PARAGRAPHS)
@FAST
def test_sizes_of_a_canonical_file_add_up_to_the_file(scratch: Path, paragraphs: list[str]) -> None:
    content = "\n\n".join(paragraphs) + "\n"
    found = read(scratch, content)
    assert "\n\n".join(document.text for document in found) + "\n" == content
    assert sum(document.nbytes for document in found) == len(content.encode())


@given(text=TEXTS, chunk=st.sampled_from([1, 2, 3, 7]), limit=st.sampled_from([4, 9, 1000]))
@FAST
def test_chunk_borders_never_change_the_documents(scratch: Path, text: str, chunk: int, limit: int) -> None:
    content = text.encode() + b"\xed\xa0\x80\xff\n" + b"plain " * 40
    with patch.object(documents, "MAX_DOCUMENT_CHARACTERS", limit):
        whole = corpus_of(scratch, content)
        expected = list(whole.documents())
        with patch.object(sources, "CHUNK_BYTES", chunk):
            pieces = open_corpus([scratch])
            assert list(pieces.documents()) == expected
    assert pieces.tally == whole.tally


@example(text="a\u1161\u0f71\u0f72\u0301", limit=3)
@given(text=TEXTS.map(lambda text: re.sub(r"\s", "", text)), limit=st.sampled_from([3, 8, 64]))
@FAST
def test_cutting_a_long_line_loses_nothing(scratch: Path, text: str, limit: int) -> None:
    with patch.object(documents, "MAX_DOCUMENT_CHARACTERS", limit), patch.object(sources, "CHUNK_BYTES", 5):
        pieces = read(scratch, text + "x")
    assert all(len(piece.text) <= limit for piece in pieces)
    assert "".join(piece.text for piece in pieces) == unicodedata.normalize("NFC", text + "x")
    assert sum(piece.nbytes for piece in pieces) == len(unicodedata.normalize("NFC", text + "x").encode())


def test_long_documents_are_cut_at_line_ends_then_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_CHARACTERS", 8)
    corpus = corpus_of(tmp_path / "a.txt", "한국어 말\n길었다\n\nab cde fgh\n\n0123456789\n")
    found = list(corpus.documents())
    assert [document.text for document in found] == [
        "한국어 말",
        "길었다",
        "ab cde ",
        "fgh",
        "01234567",
        "89",
    ]
    assert found[0].nbytes == len("한국어 말\n".encode())
    assert sum(document.nbytes for document in found) == (tmp_path / "a.txt").stat().st_size
    assert corpus.tally.split_documents == 3
    assert any("cut 3 documents" in note for note in corpus.tally.notes())


def test_a_cut_never_parts_a_mark_from_its_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_CHARACTERS", 8)
    assert texts(tmp_path / "a.txt", "1234567x\u0323\u0336z") == ["1234567", "x\u0336\u0323z"]


def test_blank_lines_and_blank_documents_are_counted(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", "\n\n하나\n\n\n\n \t\n\nb\n \nc\n\n\n\n")
    found = list(corpus.documents())
    assert [(document.text, document.nbytes) for document in found] == [("하나", 8), ("b\n \nc", 7)]
    assert corpus.tally.blank_lines == 2 + 2 + 2
    assert corpus.tally.blank_documents == 1
    assert corpus.tally.characters == 7
    assert corpus.tally.nbytes == 15


def test_only_line_feeds_end_lines_and_crlf_counts(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", "a\r\n\r\nb\rc\u2028d\x85e\r\n")
    assert [document.text for document in corpus.documents()] == ["a", "b\rc\u2028d\x85e"]
    assert corpus.tally.carriage_returns == 3


def test_every_pass_gives_the_same_and_a_fresh_tally(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", "a\n\nb")
    assert list(corpus.documents()) == list(corpus.documents())
    assert (corpus.tally.files, corpus.tally.documents) == (1, 2)


@pytest.mark.parametrize("content", ["", "\n\n\n", "\ufeff", " \n\n\t\u3000\n", "\ufeff\r\n\r\n"])
def test_a_corpus_without_text_is_refused_at_the_end(tmp_path: Path, content: str) -> None:
    corpus = corpus_of(tmp_path / "a.txt", content)
    with pytest.raises(CorpusError, match="no text in the corpus") as caught:
        list(corpus.documents())
    assert str(tmp_path / "a.txt") in caught.value.where


@given(text=st.text(max_size=30), cut=st.integers(0, 30))
@FAST
def test_text_may_be_cut_wherever_a_character_begins_safely(text: str, cut: int) -> None:
    if cut < len(text) and begins_safely(text[cut]):
        parts = unicodedata.normalize("NFC", text[:cut]) + unicodedata.normalize("NFC", text[cut:])
        assert parts == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("second", ["\u0301", "\u1161", "\u11a8", "\u0f73", "\u0344", "\u09be", "\u102e"])
def test_what_composes_or_reorders_does_not_begin_safely(second: str) -> None:
    assert not begins_safely(second)


def test_endless_marks_take_linear_time() -> None:
    marks = "\u0301\u0323" * (100 * LONGEST_RUN)  # sorting this run as a whole takes half a minute
    for before in ("", "가", "나" * LONGEST_RUN):
        assert len(compose(before + marks)) == len(before + marks)


def test_decomposed_text_is_composed_and_counted(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", unicodedata.normalize("NFD", "한글\n\nabc\n\ncafé"))
    assert [document.text for document in corpus.documents()] == ["한글", "abc", "café"]
    assert corpus.tally.not_nfc == 2


def test_byte_order_mark_goes_at_the_start_and_stays_inside(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", "\ufeffa\ufeffb")
    assert [document.text for document in corpus.documents()] == ["a\ufeffb"]
    assert corpus.tally.byte_order_marks == 1


def test_invalid_bytes_are_replaced_and_counted_with_offsets(tmp_path: Path) -> None:
    content = (
        "가\ufffd".encode() * 50
        + b"\xff"
        + b"x" * 99
        + b"\xc0\xaf"
        + b"\xed\xa0\x80"
        + b"y" * 200
        + b"\xe2\x82"
    )
    corpus = corpus_of(tmp_path / "a.txt", content)
    assert [document.text for document in corpus.documents()] == [content.decode("utf-8", "replace")]
    assert corpus.tally.replaced == 1 + 2 + 3 + 1
    name = str(tmp_path / "a.txt")
    assert corpus.tally.replaced_at == [(name, 300), (name, 400), (name, 401)]
    assert f"{name} at byte 300" in "".join(corpus.tally.notes())


def test_nul_and_lower_blocks_are_kept_and_counted(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", "x" * 300 + "\0\u2581</s>")
    assert [document.text[-6:] for document in corpus.documents()] == ["\0\u2581</s>"]
    assert (corpus.tally.nul, corpus.tally.lower_blocks) == (1, 1)
    assert len(corpus.tally.notes()) == 2


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("한국어".encode("utf-16"), "UTF-16", "--encoding utf-16"),
        ("한국어".encode("utf-32"), "UTF-32", "--encoding utf-32"),
        ("안녕하세요, 세상아".encode("cp949"), "invalid", "--encoding cp949"),
        ("ÄÖÜ ça où né".encode("latin-1"), "invalid", "latin-1"),
        ("plain".encode("utf-16-le"), "NUL", "utf-16-le"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG", ""),
        (b"\xff\xd8\xff\xe0abc", "JPEG", ""),
        (b"PK\x03\x04abc", "zip", ""),
        (b"PAR1\x15\x04", "Parquet", ""),
        (b"%PDF-1.7", "PDF", ""),
        (b"\x7fELF\x02", "program", ""),
        (b"a" * 257 + b"ustar\x00", "tar", ""),
        (gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "gzip", ""),
    ],
)
def test_what_is_no_utf8_text_is_refused_with_a_hint(
    tmp_path: Path, content: bytes, message: str, hint: str
) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        corpus_of(tmp_path / "a.txt", content)
    assert str(tmp_path / "a.txt") in caught.value.where
    assert hint in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "UTF_32"])
def test_a_wide_encoding_without_its_mark_is_refused_with_the_two_that_need_none(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("한국어 text".encode(f"{encoding}-le"))
    with pytest.raises(CorpusError, match="mark of its byte order") as caught:
        open_corpus([path], encoding=encoding)
    order = re.search(r"--encoding (\S+-le)", caught.value.hint)
    assert order and next(open_corpus([path], encoding=order.group(1)).documents()).text == "한국어 text"


def test_the_places_of_bad_bytes_are_told_in_a_wide_encoding_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good, half = "x" * 100, b"\x00\xd8"  # one half of a surrogate pair
    path.write_bytes(b"\xff\xfe" + (good.encode("utf-16-le") + half) * 2 + good.encode("utf-16-le"))
    corpus = open_corpus([path], encoding="utf-16")
    assert [document.text for document in corpus.documents()] == [f"{good}\ufffd{good}\ufffd{good}"]
    assert [offset for _, offset in corpus.tally.replaced_at] == [202, 404]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-16-be", "latin-1", "UTF8", "utf-8-sig"])
def test_a_given_encoding_is_decoded_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, chunk: int
) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", chunk)
    text = "café" if encoding == "latin-1" else "안녕\r\n세상"
    assert texts(tmp_path / "a.txt", text.encode(encoding), encoding=encoding) == [text.replace("\r", "")]


def test_bad_bytes_of_a_given_encoding_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 7)
    content = "가나다 ".encode("cp949") * 40 + b"\xff!"
    corpus = corpus_of(tmp_path / "a.txt", content, encoding="cp949")
    assert [document.text[-3:] for document in corpus.documents()] == [" \ufffd!"]
    assert corpus.tally.replaced_at == [(str(tmp_path / "a.txt"), 280)]


def test_the_wrong_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cp949") as caught:
        corpus_of(tmp_path / "a.txt", "😀 ärger über öl " * 9, encoding="cp949")
    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize(("name", "hint"), [("utf-9", "utf"), ("hex", ""), ("idna", ""), ("?", "--encoding")])
def test_unknown_encodings_are_usage_errors(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(name)) as caught:
        corpus_of(tmp_path / "a.txt", "a", encoding=name)
    assert hint in caught.value.hint
    assert "hex" not in caught.value.hint


def test_folders_are_read_sorted_and_what_is_skipped_is_said(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("outside")
    folder = tmp_path / "books"
    (folder / "b" / ".hidden").mkdir(parents=True)
    for name in ("b/2.md", "b/1.TXT", "a.txt", ".secret.txt", "b/.hidden/x.txt", "photo.jpg"):
        (folder / name).write_text(name)
    (folder / "z.txt.gz").write_bytes(gzip.compress(b"packed"))
    (folder / "link.txt").symlink_to(outside)
    (folder / "same.txt").symlink_to(folder / "a.txt")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder)
    corpus = open_corpus([outside, folder])
    found = list(corpus.documents())
    assert [document.text for document in found] == [
        "outside",
        "a.txt",
        "b/1.TXT",
        "b/2.md",
        "a.txt",
        "packed",
    ]
    assert [document.source for document in found] == [0, 1, 1, 1, 1, 1]
    assert (corpus.arguments, len(corpus.files), corpus.tally.files) == (2, 6, 6)
    skipped = {path.name: why for path, why in corpus.tally.skipped_files}
    assert skipped.keys() == {"photo.jpg", "link.txt", "gone.txt", "loop"}
    assert "out of the folder" in skipped["link.txt"]
    assert corpus.tally.repeated_files == 1
    assert any("3 other files" in note for note in corpus.tally.notes())


def test_files_named_directly_are_read_whatever_their_ending(tmp_path: Path) -> None:
    assert texts(tmp_path / "a, b.log", "x") == ["x"]


def test_a_folder_without_text_names_the_endings(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("x")
    with pytest.raises(CorpusError) as caught:
        open_corpus([tmp_path])
    assert ".jsonl" in caught.value.hint


def test_missing_paths_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text("x")
    with pytest.raises(CorpusError, match="no such file") as caught:
        open_corpus([tmp_path / "storys.txt"])
    assert "stories.txt" in caught.value.hint
    with pytest.raises(CorpusError) as caught:
        open_corpus([tmp_path / "no" / "such" / "file.txt"])
    assert caught.value.hint.endswith(str(tmp_path / "no"))


def test_what_is_no_file_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        with pytest.raises(CorpusError, match="not a regular file"):
            open_corpus([path])


def test_refused_reading_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MachineError, match="permission") as caught:
        open_corpus([tmp_path / "a.txt"])
    assert caught.value.where == str(tmp_path / "a.txt")


def test_a_growing_file_is_read_as_it_was_and_a_shrunken_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    corpus = corpus_of(path, "one two")
    path.write_text("one two three")
    assert [document.text for document in corpus.documents()] == ["one two"]
    path.write_text("one")
    with pytest.raises(CorpusError, match="4 of 7 bytes"):
        list(corpus.documents())


def test_no_argument_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        open_corpus([])


def test_gzip_is_told_by_its_content(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", gzip.compress(b"a\n\n") + gzip.compress("나".encode())) == ["a", "나"]
    assert texts(tmp_path / "b.gz", "plain") == ["plain"]


def test_cut_and_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(os.urandom(3000).hex().encode()))
    with pytest.raises(CorpusError, match=r"cut short: it ends at byte 1,000") as caught:
        corpus_of(tmp_path / "a.gz", bytes(packed[:1000]))
    assert caught.value.where == str(tmp_path / "a.gz")
    packed[500:600] = bytes(100)
    with pytest.raises(CorpusError, match="damaged"):
        corpus_of(tmp_path / "a.gz", bytes(packed))


def test_a_gzip_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"a" * 2_000_000)
    assert sum(document.nbytes for document in read(tmp_path / "a.gz", packed)) == 2_000_000
    monkeypatch.setattr(sources, "BOMB_BYTES", 1_000_000)
    with pytest.raises(CorpusError, match="200 times"):
        list(corpus_of(tmp_path / "a.gz", packed).documents())


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_spooled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, "안녕\n\nb".encode())
    corpus = open_corpus(["-"], spool=tmp_path / "run")
    assert corpus.files[0].parent == tmp_path / "run"
    for _ in range(2):
        assert [document.text for document in corpus.documents()] == ["안녕", "b"]


def test_without_a_spool_the_copy_lives_as_long_as_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, gzip.compress(b"packed"))
    corpus = open_corpus(["-"])
    assert [document.text for document in corpus.documents()] == ["packed"]
    folder = corpus.files[0].parent
    assert folder.exists()
    del corpus
    gc.collect()
    assert not folder.exists()


def test_errors_in_standard_input_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, b"%PDF-1.7")
    with pytest.raises(CorpusError) as caught:
        open_corpus(["-"])
    assert caught.value.where == "stdin"


def test_a_terminal_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="terminal"):
        open_corpus(["-"])
    with pytest.raises(UsageError, match="once"):
        open_corpus(["-", "-"])


def test_json_lines_keep_blank_lines_inside_a_document(tmp_path: Path) -> None:
    rows = [{"text": "하나\n\n둘\r\n\n\n\n", "id": 1}, {"text": " "}, {"text": "e\u0301\ud800\u2581"}]
    content = "\n\n".join(json.dumps(row) for row in rows)
    corpus = corpus_of(tmp_path / "a.jsonl", content)
    found = list(corpus.documents())
    assert [(document.text, document.nbytes) for document in found] == [
        ("하나\n\n둘", 13),
        ("é\ufffd\u2581", 8),
    ]
    tally = corpus.tally
    assert (tally.blank_lines, tally.blank_documents, tally.carriage_returns) == (2, 1, 1)
    assert (tally.not_nfc, tally.replaced, tally.lower_blocks, tally.files) == (1, 1, 1, 1)


def test_the_text_field_can_be_named_and_gzip_is_read(tmp_path: Path) -> None:
    content = gzip.compress(b'{"body": "a"}\r\n{"body": "b"}\r\n')
    assert texts(tmp_path / "a.jsonl.gz", content, text_field="body") == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ('{"text": "a"', "3:13", "not JSON"),
        ('{"text": "a"} {}', "3:15", "more than one"),
        ('["a"]', "3:1", "expected a JSON object, found a list"),
        ('{"txt": "a"}', "3:1", "expected a key 'text'"),
        ('{"text": null}', "3:1", "found null"),
        ('{"text": "a", "text": "b"}', "3", "twice"),
    ],
)
def test_bad_json_lines_are_refused_with_their_place(
    tmp_path: Path, line: str, place: str, message: str
) -> None:
    corpus = corpus_of(tmp_path / "a.jsonl", '{"text": "fine"}\n\n' + line)
    with pytest.raises(CorpusError, match=re.escape(message)) as caught:
        list(corpus.documents())
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:{place}"
    assert corpus.tally.bad_lines == 1


def test_the_digest_follows_the_content_and_not_the_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.txt").write_text("c")
    (tmp_path / "c.txt").write_text("ab")
    (tmp_path / "d.txt").write_text("a")
    (tmp_path / "e.txt").write_text("bc")
    (tmp_path / "f.jsonl").write_text("ab")

    def digest(*names: str, **options: Any) -> str:
        return open_corpus([tmp_path / name for name in names], **options).digest()

    assert digest("a.txt", "b.txt") == digest("c.txt", "b.txt")
    others = [
        digest("a.txt"),
        digest("b.txt", "a.txt"),
        digest("d.txt", "e.txt"),
        digest("a.txt", "b.txt", encoding="cp949"),
        digest("a.txt", "b.txt", text_field="body"),
        digest("f.jsonl", "b.txt"),
        open_corpus([tmp_path]).digest(),
    ]
    assert len({digest("a.txt", "b.txt"), *others}) == len(others) + 1
    assert digest("a.txt", "b.txt", encoding="utf8") == digest("a.txt", "b.txt")
