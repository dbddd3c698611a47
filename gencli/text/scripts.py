"""Which script a character belongs to, as far as a report on a tokenizer needs to know."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SCRIPTS = ("hangul", "han", "kana", "latin", "digits", "other")

# first and last code points, from the blocks of the Unicode standard
_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "hangul": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)),
    "han": (
        (0x2E80, 0x2FDF),
        (0x3005, 0x3007),
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF),
        (0x20000, 0x3FFFD),
    ),
    "kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)),
    "latin": (
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0xC0, 0xD6),
        (0xD8, 0xF6),
        (0xF8, 0x24F),
        (0x1E00, 0x1EFF),
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
    ),
    "digits": ((0x30, 0x39), (0xFF10, 0xFF19)),
}
_BORDERS = sorted((first, last + 1, script) for script, ranges in _RANGES.items() for first, last in ranges)
_STARTS = np.array([first for first, _, _ in _BORDERS])
_ENDS = np.array([end for _, end, _ in _BORDERS])
_INDEXES = np.array([SCRIPTS.index(script) for _, _, script in _BORDERS])


def scripts_of(text: str) -> npt.NDArray[np.int64]:
    """Return for each character of `text` the index in SCRIPTS of its script."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    ranges = np.searchsorted(_STARTS, points, side="right") - 1
    return np.where((ranges >= 0) & (points < _ENDS[ranges]), _INDEXES[ranges], SCRIPTS.index("other"))


def script_bytes(text: str) -> npt.NDArray[np.int64]:
    """Return how many UTF-8 bytes of `text` belong to each of SCRIPTS."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return np.bincount(scripts_of(text), weights=sizes, minlength=len(SCRIPTS)).astype(np.int64)
