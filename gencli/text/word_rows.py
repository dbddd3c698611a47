"""Texts to rows of ids, word by word: the ids of `Tokenizer.encode`, several times as fast.

Most words of a text were in the text before it, so their ids are looked up and not found again.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gencli.kernels.machine_code import Function
from gencli.kernels.memory import AT_ONCE, MARK, no_words
from gencli.text.tokenizer import NEWLINE_ID, Ids, normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gencli.kernels.memory import Bytes, Numbers, Words
    from gencli.text.tokenizer import Tokenizer

MOST_WORDS = 1 << 19  # remembered at a time
MOST_BYTES = 8 << 20  # of all of these
PART_BYTES = 2048  # that the tokenizer reads at a time
_numbered, _in_parts, _written = (Function("words", name) for name in ("numbered", "in_parts", "written"))
_LOWER_BLOCK = "\u2581".encode()  # the tokenizer takes it for a space


class WordRows:
    """Encode many texts with one tokenizer, remembering words in constant memory."""

    def __init__(self, tokenizer: Tokenizer, *, threads: int) -> None:
        self._tokenizer = tokenizer
        self._threads = threads
        self._piece_sizes = np.array([len(piece) for piece in tokenizer.piece_bytes], np.int64)
        self._words = self._no_words(MOST_BYTES)

    def row(self, texts: Sequence[str]) -> Ids:
        """Return `<s>` ids `</s>` of each text in NFC, one after the other."""
        mark = bytes([MARK])
        try:
            joined = mark.join([text.encode() for text in texts])
        except UnicodeEncodeError:
            joined = mark.join([normalised(text).encode() for text in texts])
        joined = joined.replace(_LOWER_BLOCK, b" ")
        data = np.frombuffer(joined, np.uint8)
        ids = np.empty(len(data) + len(texts) + 1, np.int32)  # a piece has a byte at least, a mark two ids
        numbers = np.empty(len(data), np.int32)
        ids[0] = self._tokenizer.bos
        end, stop = 1, 0
        while stop < len(data):
            known = int(self._words.met[0])
            found, stop = numbered(data, stop, self._words, numbers)
            if self._words.met[0] > known:
                self._encode(known)
            end += _ids(numbers[:found], self._words, ids[end:])
            if stop < len(data):
                self._words = self._no_words(max(MOST_BYTES, len(data)))
        ids[end] = self._tokenizer.eos
        return ids[: end + 1]

    def _encode(self, first: int) -> None:
        """Find the ids of the words from number `first` on: of all together, told apart by their sizes."""
        words, count = self._words, int(self._words.met[0])
        ends = words.starts[first + 1 : count + 1]
        ids = np.concatenate(self._tokenizer.encode_parts(self._parts(first, count), threads=self._threads))
        ids = ids[ids != NEWLINE_ID]  # they stood between words
        pieces_end = np.cumsum(self._piece_sizes[ids]) + words.starts[first]
        assert pieces_end[-1] == ends[-1], "the tokenizer changed a text"
        begin = words.id_starts[first]
        words.ids[begin : begin + len(ids)] = ids
        words.id_starts[first + 1 : count + 1] = begin + np.searchsorted(pieces_end, ends) + 1

    def _parts(self, first: int, count: int) -> list[bytes]:
        """Return the bytes of the words, in parts whose ids, together, are those of the words.

        A newline keeps two words apart, but for unigram it would make sums of scores inexact.
        """
        words = self._words
        starts: Numbers = np.empty(count - first, np.int32)
        letters = np.empty(words.starts[count] - words.starts[first] + count - first, np.uint8)
        is_apart = self._tokenizer.kind == "unigram"
        result = np.zeros(2, np.int64)
        _in_parts.call(*words, first, PART_BYTES, is_apart, letters, starts, result)()
        size, found = result.tolist()
        data = letters[:size].tobytes()
        return [data[start:end] for start, end in pairwise([*starts[:found].tolist(), size])]

    def _no_words(self, nbytes: int) -> Words:
        """Return an empty memory that knows the newline and the mark between texts."""
        words = no_words(MOST_WORDS, nbytes + 2)
        known = np.array([ord("\n"), MARK], np.uint8)
        numbered(known, 0, words, np.empty(2, np.int32))
        words.ids[:3] = NEWLINE_ID, self._tokenizer.eos, self._tokenizer.bos
        words.id_starts[:3] = 0, 1, 3
        return words


def numbered(data: Bytes, start: int, words: Words, numbers: Numbers) -> tuple[int, int]:
    """Write the number of each word from `start` on and remember new words.

    Return how many numbers there are, and where it stopped: at the end, or before a word that has no room.
    """
    result: npt.NDArray[np.int64] = np.zeros(2, np.int64)
    ends, values = np.empty(AT_ONCE, np.int64), np.empty(AT_ONCE, np.uint64)
    _numbered.call(data, start, *words, numbers, ends, values, result)()
    found, stop = result.tolist()
    return found, stop


def _ids(numbers: Numbers, words: Words, ids: Ids) -> int:
    """Write the ids of the numbered words one after the other, and return how many these are."""
    result: npt.NDArray[np.int64] = np.zeros(1, np.int64)
    _written.call(numbers, words.id_starts, words.ids, ids, result)()
    return int(result[0])
