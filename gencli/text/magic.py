"""What a file really is, told by how it begins, whatever its name says."""

from __future__ import annotations

_KINDS = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"PK\x03\x04", "a zip archive (an office document, a PyTorch checkpoint?)"),
    (b"PAR1\x15", "a Parquet table"),
    (b"ARROW1\0", "an Arrow table"),
    (b"%PDF-", "a PDF"),
    (b"\x7fELF", "a program"),
    (b"BZh91AY&SY", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"(\xb5/\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF\x03\0", "a GGUF model"),
    (b"\x1f\x8b", "a gzip archive"),
    *((b"\x80" + bytes([protocol]), "a Python pickle") for protocol in range(2, 6)),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_CONVERT = "unpack or convert it first"
_POINTER = b"version https://git-lfs"


def foreign_kind(start: bytes) -> tuple[str, str]:
    """Return what a file is that begins with these bytes and holds no text, and what to do; empty if unknown."""
    if start.startswith(_POINTER):
        return "a git-lfs pointer", "fetch the file itself with: git lfs pull"
    if start[257:262] == b"ustar":
        return "a tar archive", _CONVERT
    return next(((kind, _CONVERT) for magic, kind in _KINDS if start.startswith(magic)), ("", ""))


def misnamed_kind(start: bytes) -> tuple[str, str]:
    """Return the same of a file that is no web page either."""
    if start[:512].lstrip().lower().startswith(_PAGES):
        return "a web page", "download the file itself"
    return foreign_kind(start)
