"""Canonical composition (NFC) of a text that arrives in pieces.

Unicode Standard Annex #15: two neighbouring pieces may be normalised apart if the second begins with a
character that neither reorders nor composes with what stands before it.
"""

from __future__ import annotations

import functools
import re
import unicodedata

LONGEST_RUN = 1024  # characters without a safe place; real text has no ten marks on one letter
_MARK = re.compile(r"[^\w\s\x00-\x7f]")
_RUN_OF_MARKS = re.compile(rf"{_MARK.pattern}{{{LONGEST_RUN}}}")


def compose(text: str) -> str:
    """Return `text` in NFC.

    Runs of more than LONGEST_RUN combining marks are composed piece by piece, because sorting one run
    takes quadratic time.
    """
    if text.isascii():
        return text
    if len(text) >= LONGEST_RUN and _has_long_run(text):
        return "".join(unicodedata.normalize("NFC", piece) for piece in _pieces(text))
    return unicodedata.normalize("NFC", text)


def _has_long_run(text: str) -> bool:
    """Say whether LONGEST_RUN marks follow each other: they would cover a multiple of that number."""
    hits = (match.start() * LONGEST_RUN for match in _MARK.finditer(text[::LONGEST_RUN]))
    return any(_RUN_OF_MARKS.search(text, max(0, hit - LONGEST_RUN), hit + LONGEST_RUN) for hit in hits)


def safe_end(text: str) -> int:
    """Return the last position at which `text` may be cut without changing its NFC: 0 if there is none.

    Where even LONGEST_RUN characters hold no safe place, the end is taken for one.
    """
    for position in range(len(text) - 1, max(0, len(text) - LONGEST_RUN), -1):
        if begins_safely(text[position]):
            return position
    return len(text) if len(text) >= LONGEST_RUN else 0


def begins_safely(character: str) -> bool:
    """Say whether NFC leaves everything before `character` alone, whatever that is."""
    if character < "\u0300" or "\uac00" <= character <= "\ud7a3":
        return True
    first = unicodedata.normalize("NFD", character)[0]
    return unicodedata.combining(first) == 0 and first not in _second_starters()


def _pieces(text: str) -> list[str]:
    """Cut `text` every LONGEST_RUN characters, a little earlier where that gives a safe place."""
    pieces = []
    start = 0
    while start < len(text):
        window = text[start : start + LONGEST_RUN]
        stop = start + (safe_end(window) if start + LONGEST_RUN < len(text) else len(window))
        pieces.append(text[start:stop])
        start = stop
    return pieces


@functools.cache
def _second_starters() -> frozenset[str]:
    """Return the characters of combining class 0 that may compose with the one before them."""
    vowels_and_finals = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    seconds = {chr(point) for point in vowels_and_finals}
    for point in range(0x110000):
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    return frozenset(seconds)
