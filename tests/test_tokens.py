"""The token file holds exactly the corpus, is made once, and is never trusted when damaged."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gencli.errors import CorpusError, UsageError
from gencli.text import word_rows
from gencli.text.corpus import open_corpus
from gencli.text.normalization import compose
from gencli.text.tokenizer import KINDS
from gencli.text.tokens import TokenFile, held_out, tokenize_corpus
from gencli.text.word_rows import WordRows
from tests.trained import sentences, trained

if TYPE_CHECKING:
    from pathlib import Path

    from gencli.text.corpus import Corpus
    from gencli.text.tokenizer import Tokenizer


def corpus_of(folder: Path, *texts: str) -> Corpus:
    paths = []
    for index, text in enumerate(texts):
        paths.append(folder / f"{index}.txt")
        paths[-1].write_text(text, "utf-8")
    return open_corpus(paths)


class Nines(NamedTuple):
    """What `held_out` asks of a tokenizer: here id 9 is a piece of one byte, id 8 of four, and the others of none."""

    piece_bytes: tuple[bytes, ...] = (*[b""] * 8, b"four", b"9")
    bos: int = 1


NINES = cast("Tokenizer", Nines())


def token_file(sources: list[list[int]]) -> TokenFile:
    """Return a token file whose documents, by source, have these many ids beside bos and eos."""
    rows = [[index for size in source for index in [1, *[9] * size, 2]] for source in sources]
    ids = np.array([index for row in rows for index in row], np.uint16)
    return TokenFile(ids, tuple(map(len, rows)), 1, 0, 0, (), "")


def test_every_document_stands_between_bos_and_eos(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "하나 둘\n\nthe cat\n", sentences(60))
    tokens = tokenize_corpus(corpus, trained(), tmp_path / "cache")
    documents = list(corpus.documents())
    expected = [[1, *trained().encode(document.text), 2] for document in documents]
    assert tokens.ids.tolist() == [index for row in expected for index in row]
    assert tokens.ids.dtype == np.uint16
    by_source = [
        sum(len(row) for row, document in zip(expected, documents, strict=True) if document.source == source)
        for source in (0, 1)
    ]
    assert tokens.sources == tuple(by_source)
    assert tokens.documents == len(documents)
    assert tokens.text_bytes == sum(len(document.text.encode()) for document in documents)
    assert tokens.source_bytes == sum(document.nbytes for document in documents)
    assert tokens.end_bytes == (tokens.source_bytes - tokens.text_bytes) / len(documents) > 0


def test_batches_and_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(tmp_path, sentences(300))
    whole = tokenize_corpus(corpus, trained(), tmp_path / "one", threads=1)
    monkeypatch.setattr("gencli.text.tokens._BATCH_BYTES", 100)
    parts = tokenize_corpus(corpus, trained(), tmp_path / "two", threads=2)
    assert np.array_equal(whole.ids, parts.ids)
    assert (tmp_path / "one").exists()


def test_progress_grows_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gencli.text.tokens._BATCH_BYTES", 500)
    corpus = corpus_of(tmp_path, sentences(200))
    seen: list[int] = []
    tokens = tokenize_corpus(corpus, trained(), tmp_path / "cache", progress=seen.append)
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == tokens.source_bytes == corpus.tally.nbytes


def test_a_second_call_reads_the_cache(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, sentences(20) + "\n\n\n\nend")
    first = tokenize_corpus(corpus, trained(), tmp_path / "cache")
    calls: list[int] = []
    second = tokenize_corpus(corpus, trained(), tmp_path / "cache", progress=calls.append)
    assert calls == []
    assert np.array_equal(first.ids, second.ids)
    assert isinstance(second.ids, np.memmap)
    assert second.notes == first.notes == tuple(corpus.tally.notes())
    assert first.notes
    assert (second.sources, second.documents) == (first.sources, first.documents)


def test_another_corpus_or_tokenizer_has_another_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tokenize_corpus(corpus_of(tmp_path, "하나"), trained(), cache)
    tokenize_corpus(corpus_of(tmp_path, "둘"), trained(), cache)
    tokens = tokenize_corpus(corpus_of(tmp_path, "둘"), trained("char"), cache)
    assert tokens.ids.tolist() == [1, *trained("char").encode("둘"), 2]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "header", "list", "format", "missing"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    corpus = corpus_of(tmp_path, sentences(30))
    ids = tokenize_corpus(corpus, trained(), tmp_path / "cache").ids.tolist()
    (folder,) = (tmp_path / "cache").iterdir()
    data, header = folder / "tokens.bin", folder / "tokens.json"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-2])
    elif damage == "flip":
        data.write_bytes(b"\xff\xff" + data.read_bytes()[2:])
    elif damage == "header":
        header.write_text('{"format": 1')
    elif damage == "list":
        header.write_text("[]")
    elif damage == "format":
        header.write_text(json.dumps({**json.loads(header.read_text()), "format": 99}))
    else:
        header.unlink()
    calls: list[int] = []
    assert tokenize_corpus(corpus, trained(), tmp_path / "cache", progress=calls.append).ids.tolist() == ids
    assert calls
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained(), "vocabulary", 70_000)
    tokens = tokenize_corpus(corpus_of(tmp_path, "하나 둘"), trained(), tmp_path / "cache")
    assert tokens.ids.dtype == np.uint32
    assert tokens.ids.tolist() == [1, *trained().encode("하나 둘"), 2]


def test_an_empty_corpus_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        tokenize_corpus(corpus_of(tmp_path, "\n\n"), trained(), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- word by word, as large corpora are


WORDS = (
    "the",
    " cat",
    " 한국어",
    "하나",
    " ",
    "  ",
    "\n",
    "\u2581",
    " \u2581",
    "\t",
    "\0",
    "é",
    " é",
    "😀",
    "\r",
    "12",
    "</s>",
)


@pytest.mark.parametrize("kind", KINDS)
def test_word_by_word_gives_the_same_ids(kind: str) -> None:
    rows = WordRows(trained(kind), threads=1)

    @given(texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map("".join), min_size=1, max_size=4))
    @example(texts=[" ", "  the", "the ", "  cat"])
    @example(texts=["", "\n\n  a", "a\n", " " * 5000, "가" * 3000])
    @example(texts=[sentences(40), "lone \ud800 half"])
    @settings(deadline=None, max_examples=400)
    def check(texts: list[str]) -> None:
        texts = [compose(text) for text in texts]
        expected = [index for text in texts for index in (1, *trained(kind).encode(text), 2)]
        assert rows.row(texts).tolist() == expected

    check()


def test_a_full_memory_of_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_rows, "MOST_WORDS", 20)
    monkeypatch.setattr(word_rows, "MOST_BYTES", 64)
    rows = WordRows(trained(), threads=1)
    text = sentences(100) + "\n" + "x" * 500
    for _ in range(2):
        assert rows.row([text]).tolist() == [1, *trained().encode(text), 2]


def test_a_large_corpus_has_the_same_token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(tmp_path, sentences(300), "둘\n\n  셋\n")
    plain = tokenize_corpus(corpus, trained(), tmp_path / "one")
    monkeypatch.setattr("gencli.text.tokens.WORTH_WORDS", 0)
    monkeypatch.setattr("gencli.text.tokens._BATCH_BYTES", 1000)
    large = tokenize_corpus(corpus, trained(), tmp_path / "two")
    assert np.array_equal(plain.ids, large.ids)
    assert plain.sources == large.sources


def test_stopping_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gencli.text.tokens._BATCH_BYTES", 100)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(corpus_of(tmp_path, sentences(90)), trained(), tmp_path / "cache", progress=stop)
    assert list((tmp_path / "cache").iterdir()) == []
    assert threading.active_count() == before


def test_the_file_names_the_corpus_that_it_was_made_of(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "하나")
    for _ in range(2):
        assert tokenize_corpus(corpus, trained(), tmp_path / "cache").corpus_digest == corpus.digest()


# --- what is held out


def test_validation_starts_with_a_document() -> None:
    tokens = token_file([[8] * 20, [8] * 10])
    training, validation = held_out(tokens, NINES, share=0.15)
    assert validation == [(170, 200), (290, 300)]
    assert training == [(0, 170), (200, 290)]


def test_one_long_document_is_cut_inside() -> None:
    assert held_out(token_file([[998]]), NINES, share=0.1) == ([(0, 900)], [(900, 1000)])


@pytest.mark.parametrize("chunk", [3, 1 << 16])
def test_bytes_decide_and_not_tokens(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gencli.text.tokens._SEARCHED_AT_ONCE", chunk)
    ids = np.array([1, *[8] * 10, *[9] * 40, 2], np.uint16)  # 80 bytes
    tokens = TokenFile(ids, (len(ids),), 1, 0, 0, (), "")
    assert held_out(tokens, NINES, share=0.25)[1] == [(31, 52)]  # 20 bytes
    assert held_out(tokens, NINES, share=0.75)[1] == [(6, 52)]  # 60 bytes: five pieces of four, forty of one


def test_no_share_holds_nothing_out() -> None:
    assert held_out(token_file([[8], [3]]), NINES, share=0.0) == ([(0, 10), (10, 15)], [])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), float("inf")])
def test_odd_shares_are_refused(share: float) -> None:
    with pytest.raises(UsageError):
        held_out(token_file([[8]]), NINES, share=share)


@settings(deadline=None, max_examples=150)
@given(
    sources=st.lists(st.lists(st.integers(1, 30), max_size=12), min_size=1, max_size=4),
    share=st.floats(0, 0.99),
)
def test_training_and_validation_cover_everything_once(sources: list[list[int]], share: float) -> None:
    tokens = token_file(sources)
    training, validation = held_out(replace(tokens), NINES, share=share)
    covered = sorted(training + validation)
    assert all(start < end for start, end in covered)
    assert [position for start, end in covered for position in range(start, end)] == list(
        range(len(tokens.ids))
    )
    held = sum(int((tokens.ids[start:end] == 9).sum()) for start, end in validation)
    assert held <= share * int((tokens.ids == 9).sum()) + 1e-6


def test_the_search_for_a_document_reaches_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gencli.text.tokens._SEARCHED_AT_ONCE", 7)
    assert held_out(token_file([[50, 30, 8]]), NINES, share=0.5)[1] == [(52, 94)]
