"""Spelling rules that join words: Korean particles and the English article.

A Korean particle follows from the final consonant of the word before it, which is arithmetic on the code
point: a Hangul syllable is 0xAC00 + (initial * 21 + vowel) * 28 + final, with final 0 for none.
"""

from __future__ import annotations

_FIRST_SYLLABLE, _LAST_SYLLABLE, _FINALS, _FINAL_RIEUL = 0xAC00, 0xD7A3, 28, 8


def with_particle(word: str, pair: str) -> str:
    """Return `word` and the half of `pair` that fits, as in "은/는": after a consonant / after a vowel.

    "으로/로" takes its second half after ㄹ too. Raises ValueError if `word` does not end in a syllable.
    """
    code = ord(word[-1])
    if not _FIRST_SYLLABLE <= code <= _LAST_SYLLABLE:
        raise ValueError(f"{word!r} does not end in a Hangul syllable")
    final = (code - _FIRST_SYLLABLE) % _FINALS
    after_consonant, after_vowel = pair.split("/")
    is_vowel = final == 0 or (final == _FINAL_RIEUL and pair == "으로/로")
    return word + (after_vowel if is_vowel else after_consonant)


def topic(word: str) -> str:
    """Return `word` with 은 or 는."""
    return with_particle(word, "은/는")


def subject(word: str) -> str:
    """Return `word` with 이 or 가."""
    return with_particle(word, "이/가")


def target(word: str) -> str:
    """Return `word` with 을 or 를, as the object of a verb."""
    return with_particle(word, "을/를")


def indefinite(noun: str) -> str:
    """Return an English noun with "a" or "an", by its first letter; the lexicon has no exceptions."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
