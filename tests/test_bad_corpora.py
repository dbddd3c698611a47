"""Corpora as users have them: what can't be read is refused with its place, what can be mended is mended and told."""

from __future__ import annotations

import gzip
import io
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gencli.text import sources
from gencli.text.corpus import Corpus
from tests.bad_inputs import Row, met, row, time_limit
from tests.conftest import Cli, tiny_text

TEXT = tiny_text(20).encode()
TOKENIZE = "tokenize {bad} -m {new}"
TRAINED = f"{TOKENIZE} --vocab-size 400"
EVALUATE = "evaluate {bad} -m {model} --json"
KOREAN = "안녕하세요, 세상아. " * 20


def folder_of(**files: bytes) -> Callable[[Path], None]:
    """Return what makes a folder of files; a dot in a name is written __."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return make


def linked_outside(path: Path) -> None:
    folder_of(a__txt=TEXT)(path)
    (path.parent / "outside.txt").write_bytes(TEXT)
    (path / "link.txt").symlink_to(path.parent / "outside.txt")


def near_a_name(path: Path) -> None:
    path.with_name("stories.txt").write_bytes(TEXT)


def link(path: Path) -> None:
    path.with_name("real.txt").write_bytes(TEXT)
    path.symlink_to("real.txt")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 107 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


REFUSED = [
    row("C01-missing", near_a_name, "tokenize {tmp}/storys.txt -m {new}", 3, "no such file", "stories.txt"),
    row("C02-empty", b"", TOKENIZE, 3, "no text in the corpus", "bad.txt"),
    row("C03-blank-lines", "\n\n\n", TOKENIZE, 3, "no text in the corpus"),
    row("C03-spaces", "  \n\t\u3000\n", TOKENIZE, 3, "no text in the corpus"),
    row("C03-mark-alone", "\ufeff", TOKENIZE, 3, "no text in the corpus"),
    row("C04-no-texts", folder_of(a__jpg=b"x"), TOKENIZE, 3, "no text file", ".jsonl", file="folder"),
    row("C07-link-to-itself", lambda path: path.symlink_to(path), TOKENIZE, 3, "no such file", "symbolic links"),
    row("C07-link-to-nothing", lambda path: path.symlink_to(path.parent / "no"), TOKENIZE, 3, "no such file"),
    row("C09-pipe", os.mkfifo, TOKENIZE, 3, "not a regular file", "pipe it in"),
    row("C09-device", b"", "tokenize /dev/zero -m {new}", 3, "not a regular file"),
    row("C09-link-to-device", lambda path: path.symlink_to("/dev/zero"), TOKENIZE, 3, "not a regular file"),
    row("C09-socket", listening, TOKENIZE, 3, "not a regular file"),
    row("C09-pipe-evaluated", os.mkfifo, EVALUATE, 3, "not a regular file", file="bad.jsonl"),
    row("C14-latin-1", "où né ÄÖÜ ".encode("latin-1") * 9, TOKENIZE, 3, "invalid", "--encoding latin-1"),
    row("C14-euc-kr", KOREAN.encode("euc-kr"), TOKENIZE, 3, "invalid", "--encoding cp949"),
    row("C15-utf-16", KOREAN.encode("utf-16"), TOKENIZE, 3, "UTF-16 text", "--encoding utf-16"),
    row("C15-utf-16-unmarked", b"p\0l\0a\0i\0n\0" * 9, TOKENIZE, 3, "NUL", "utf-16-le"),
    row("C21-many-nuls", TEXT + bytes(200), TOKENIZE, 3, "looks binary"),
    row("C22-image", b"\x89PNG\r\n\x1a\n" + bytes(90), TOKENIZE, 3, "a PNG image", "convert"),
    row("C22-zip", b"PK\x03\x04" + bytes(90), TOKENIZE, 3, "a zip archive"),
    row("C22-parquet", b"PAR1\x15\x04" + bytes(90), TOKENIZE, 3, "a Parquet table"),
    row("C22-pickle", b"\x80\x04\x95" + bytes(90), TOKENIZE, 3, "a Python pickle"),
    row("C22-pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", TOKENIZE, 3, "git lfs pull"),
    row("C27-cut-gzip", gzip.compress(os.urandom(3000))[:1000], TOKENIZE, 3, "cut short", "byte 1,000"),
    row("C27-damaged-gzip", gzip.compress(TEXT)[:20] + bytes(90), TOKENIZE, 3, "damaged"),
    row("C28-bomb", gzip.compress(b"a b\n" * 2_000_000), TOKENIZE, 3, "200 times", "unpack it yourself"),
    row("C30-too-short", "강 산 바다 하늘\n" * 9, "pretrain {bad} -m {new} --context 512 --steps 1", 3, "too small"),
    row(
        "C31-nothing-held-out", TEXT, "pretrain {bad} -m {new} --validation 0.0001 --steps 1 --layers 1 --width 32",
        3, "no text is left to judge", "--validation 0",
    ),
    row("C35-steering-path", b"", TOKENIZE, 3, "\\x1b[31m\\x202e[red]", file="a\n\x1b[31m\u202e[red].txt"),
    row("C35-path-of-other-bytes", b"", TOKENIZE, 3, "caf\\xdce9", file="caf\udce9.txt"),
    row("C35-endless-path", b"", f"tokenize {'a' * 5000} -m {{new}}", 4, "file name too long", "…"),
    row("json-lines-no-object", '{"text": "a"}\n7\n', TOKENIZE, 3, "bad.jsonl:2", file="bad.jsonl"),
    row("json-lines-too-deep", "[" * 100_000, EVALUATE, 3, "nested", file="bad.jsonl"),
    row("unknown-encoding", TEXT, f"{TOKENIZE} --encoding utf-9", 2, "utf-9", "did you mean"),
]  # fmt: skip

MENDED = [
    row("C05-mixed-folder", folder_of(b__txt=TEXT, a__md=TEXT, __hidden=b"x", c__jpg=b"x"), EVALUATE, 0, "skipped"),
    row("C06-link", link, EVALUATE, 0),
    row("C08-link-outside", linked_outside, EVALUATE, 0, "a link out of the folder", file="folder"),
    row("C13-lone-byte", TEXT + b"\xff" + TEXT, EVALUATE, 0, "replaced 1 invalid", f"at byte {len(TEXT):,}"),
    row("C13-cut-at-the-end", TEXT + b"\xea\xb0", EVALUATE, 0, "replaced 1 invalid"),
    row("C13-overlong", TEXT + b"\xc0\xaf" + TEXT, EVALUATE, 0, "replaced 2 invalid"),
    row("C13-surrogate", TEXT + b"\xed\xa0\x80" + TEXT, EVALUATE, 0, "replaced 3 invalid"),
    row("C15-named-encoding", KOREAN.encode("utf-16"), f"{EVALUATE} --encoding utf-16", 0),
    row("C16-mark", b"\xef\xbb\xbf" + TEXT, EVALUATE, 0, "removed 1 byte order mark"),
    row("C17-mark-inside", TEXT + b"\xef\xbb\xbf" + TEXT, EVALUATE, 0),
    row("C18-windows-lines", TEXT.replace(b"\n", b"\r\n"), EVALUATE, 0, "Windows line ends"),
    row("C19-lone-return", TEXT.replace(b" ", b"\r"), EVALUATE, 0),
    row("C20-other-separators", "a\u2028b\x85c\n".encode() + TEXT, EVALUATE, 0),
    row("C21-a-nul", TEXT + b"a\0b\n", EVALUATE, 0, "kept 1 NUL character"),
    row("C23-long-line", "강 river 산 " * 120_000, TRAINED, 0, "cut 1 document longer than 1,000,000"),
    row("C24-line-beyond-the-trainer", b"a" * 9000 + b"\n" + TEXT, TRAINED, 0),
    row("C25-no-last-line-end", TEXT.rstrip(), EVALUATE, 0),
    row("C26-gzip", gzip.compress(TEXT), EVALUATE, 0, file="bad.txt.gz"),
    row("C26-gzip-unnamed", gzip.compress(TEXT), EVALUATE, 0),
    row("C29-text-named-gz", TEXT, EVALUATE, 0, file="bad.gz"),
    row("C32-one-character", "a" * 3000, f"{TOKENIZE} --vocab-size 5000", 0, "the vocabulary was lowered"),
    row(
        "C33-no-room", "".join(chr(0xAC00 + i) + "\n" for i in range(900)), f"{TOKENIZE} --vocab-size 320",
        0, "no room for", "--vocab-size",
    ),
    row("C34-comma-in-the-path", TEXT, EVALUATE, 0, file="a, b.txt"),
    row("C36-control-symbols", "</s> <|user|> \u2581 <unk>\n".encode() + TEXT, EVALUATE, 0, "1 character U+2581"),
    row("C37-empty-documents", b" \n\n" * 100_000 + TEXT, EVALUATE, 0, "dropped 100,000 documents"),
    row("C39-twice", TEXT, TRAINED.replace("{bad}", "{bad} {bad}"), 0, "read 1 file that had been read before"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_a_corpus_that_cannot_be_used_is_refused(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BOMB_BYTES", 1 << 20)
    outcome = met(row, cli, tmp_path, model=model_folder)
    assert "\x1b" not in outcome.err and "\u202e" not in outcome.err
    assert not (tmp_path / "new" / "tokenizer.model").exists() or row.command.startswith("pretrain")


@pytest.mark.parametrize("row", MENDED, ids=str)
def test_a_corpus_that_can_be_mended_is_used_and_the_mending_told(
    row: Row, cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    outcome = met(row, cli, tmp_path, model=model_folder)
    if row.command.startswith("evaluate"):
        assert float(str(outcome.records[0]["bits_per_byte"])) > 0
    else:
        assert (tmp_path / "new" / "tokenizer.model").exists()


def test_c11_a_terminal_is_no_corpus(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    met(row("C11", b"", "tokenize - -m {new}", 2, "that is a terminal", "pipe a file"), cli, tmp_path)


def test_c10_standard_input_is_read_as_often_as_needed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
    outcome = cli("tokenize", "-", "-m", tmp_path / "new", "--vocab-size", 400, "--json")
    assert outcome.code == 0 and outcome.records[0]["documents"] == 20
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["new"]


def test_c12_a_file_that_may_not_be_read_is_named(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refuse(path: Path, *arguments: str, **more: str) -> object:
        if path.name == "bad.txt":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **more)  # type: ignore[call-overload]

    (tmp_path / "bad.txt").write_bytes(TEXT)
    monkeypatch.setattr(Path, "open", refuse)
    outcome = cli("tokenize", tmp_path / "bad.txt", "-m", tmp_path / "new")
    assert outcome.code == 4 and "no permission to read" in outcome.err and "bad.txt" in outcome.err


def test_c38_a_file_that_grows_is_read_as_it_was(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(TEXT)
    real = Corpus.digest

    def growing(corpus: Corpus) -> str:
        found = real(corpus)
        with path.open("ab") as file:
            file.write(b"more\n")
        return found

    monkeypatch.setattr(Corpus, "digest", growing)
    outcome = cli("evaluate", path, "-m", model_folder, "--json")
    assert outcome.code == 0 and outcome.records[0]["bytes"] == len(TEXT)


def test_c40_other_text_of_the_same_size_and_time_gets_ids_of_its_own(
    cli: Cli, tmp_path: Path, model_folder: Path
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"river " * 200)
    before, status = cli("evaluate", path, "-m", model_folder, "--json").records, path.stat()
    path.write_bytes(b"tree h " * 171 + b"sea")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    after = cli("evaluate", path, "-m", model_folder, "--json").records
    assert after[0]["tokens"] != before[0]["tokens"] or after[0]["loss"] != before[0]["loss"]


@pytest.mark.parametrize("damage", ["odd", "other", "cut-counts", "foreign-counts", "gone"])
def test_c41_a_damaged_cache_is_made_again(cli: Cli, tmp_path: Path, model_folder: Path, damage: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(TEXT)
    before = cli("evaluate", path, "-m", model_folder, "--json").records
    (ids,) = (tmp_path / "cache").rglob("tokens.bin")
    whole, counts = ids.read_bytes(), ids.with_name("tokens.json")
    if damage == "odd":
        ids.write_bytes(whole + b"\1")
    elif damage == "other":
        ids.write_bytes(b"\xff\xff" + whole[2:])  # an id beyond the vocabulary
    elif damage == "gone":
        ids.unlink()
    else:
        counts.write_bytes(counts.read_bytes()[:-9] if damage == "cut-counts" else b'{"format": "x"}')
    with time_limit(20):
        again = cli("evaluate", path, "-m", model_folder, "--json")
    assert again.code == 0 and again.records == before
    assert ids.read_bytes() == whole
