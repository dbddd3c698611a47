"""Small tokenizers for tests, trained on sentences put together from a few words."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

from gencli.text.corpus import open_corpus
from gencli.text.tokenizer import Tokenizer
from gencli.text.tokenizer_training import train_tokenizer

_KOREAN = [
    "나는",
    "너는",
    "오늘",
    "내일",
    "아침에",
    "저녁에",
    "학교에",
    "바다로",
    "산으로",
    "갑니다",
    "왔습니다",
    "먹었다",
    "봅니다",
    "별을",
    "꽃이",
    "하늘은",
    "푸르다",
]
_ENGLISH = [
    "the",
    "a",
    "small",
    "old",
    "cat",
    "river",
    "house",
    "tells",
    "walked",
    "sings",
    "under",
    "over",
    "quietly",
    "morning",
    "light",
    "of",
    "and",
    "then",
]
_ODD = ["3.14", "2024", "…", "「책」", "日本", "aaaa", "!!", "x  =  1", "    indent", "\ttab", "😀"]


def sentences(count: int, *, seed: int = 1) -> str:
    """Return `count` lines of made-up Korean and English, an empty line after every fifth."""
    draw = random.Random(seed)
    lines = []
    for index in range(count):
        words = draw.choices(_KOREAN if index % 2 else _ENGLISH, k=draw.randrange(3, 12))
        if index % 7 == 0:
            words.append(draw.choice(_ODD))
        lines.append(" ".join(words) + "." + "\n" * (index % 5 == 4))
    return "\n".join(lines) + "\n"


@functools.cache
def trained(kind: str = "bpe", vocabulary: int = 600) -> Tokenizer:
    """Return a tokenizer of this kind; it is trained once in a test run."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(sentences(600), "utf-8")
        return train_tokenizer(
            open_corpus([text]), Path(folder, "tokenizer.model"), vocabulary=vocabulary, kind=kind
        ).tokenizer
