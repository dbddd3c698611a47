"""Words of a text, numbered and remembered in flat arrays, compiled by Numba: a Python dictionary of as many
words would take several times as long and hold the interpreter's lock all the while.

A word is what stands from one place where a text may be cut without changing an id to the next: a newline, a
mark between two texts, or any spaces and what follows them up to the next of the three.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gencli.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int32]

MARK = 0xFE  # between two texts; no byte of UTF-8
_SPACE, _NEWLINE = 0x20, 0x0A
_SEED, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a
_WORD = 0xFFFFFFFFFFFFFFFF
_AT_ONCE = 128
_TAG = 0xFFFFFFFF00000000


class Words(NamedTuple):
    """Words by number, in the order in which they were first met, and a hash table that finds them."""

    met: npt.NDArray[np.int64]  # (1,) how many there are
    slots: npt.NDArray[np.uint64]  # (a power of two,) number + 1 below 32 bits of the hash, or 0
    starts: Numbers  # (most + 1,) where the bytes of each begin
    letters: Bytes  # the bytes of all, one after the other
    id_starts: Numbers  # (most + 1,) where the ids of each begin
    ids: Numbers  # the ids of all, one after the other


def no_words(most: int, nbytes: int) -> Words:
    """Return room for `most` words of `nbytes` bytes in all; memory is taken as it fills."""
    return Words(
        met=np.zeros(1, np.int64),
        slots=np.zeros(1 << (2 * most - 1).bit_length(), np.uint64),
        starts=np.zeros(most + 1, np.int32),
        letters=np.empty(nbytes, np.uint8),
        id_starts=np.zeros(most + 1, np.int32),
        ids=np.empty(nbytes + 1, np.int32),  # no piece is shorter than a byte; a mark has two ids
    )


@compiled(nogil=True)
def numbered(data: Bytes, start: int, words: Words, numbers: Numbers) -> tuple[int, int]:
    """Write the number of each word from `start` on and remember new words.

    Return how many numbers there are, and where it stopped: at the end, or before a word that has no room.
    """
    ends = np.empty(_AT_ONCE, np.int64)
    values = np.empty(_AT_ONCE, np.uint64)
    found = 0
    while start < data.size:
        end, count = start, 0
        while end < data.size and count < _AT_ONCE:
            end, values[count] = _word(data, end)
            ends[count] = end
            count += 1
        _fetch(values[:count], words)
        for place in range(count):
            number = _number(data, start, ends[place], values[place], words)
            if number < 0:
                return found, start
            numbers[found] = number
            found += 1
            start = ends[place]
    return found, start


@compiled(nogil=True)
def _fetch(values: npt.NDArray[np.uint64], words: Words) -> int:
    """Touch what looking up these words will read: the processor then waits for many of them at a time."""
    touched = 0
    mask = np.uint64(words.slots.size - 1)
    for value in values:
        entry = words.slots[(value ^ (value >> np.uint64(32))) & mask]
        number = int(entry & np.uint64(~_TAG & _WORD))
        touched += words.letters[words.starts[number - (number > 0)]]
    return touched


@compiled(nogil=True)
def _word(data: Bytes, start: int) -> tuple[int, np.uint64]:
    """Return where the word ends that begins at `start`, and its hash."""
    letter = data[start]
    value = (np.uint64(_SEED) ^ np.uint64(letter)) * np.uint64(_PRIME)
    place = start + 1
    if letter not in (_NEWLINE, MARK):
        while place < data.size:
            before, letter = letter, data[place]
            if letter in (_NEWLINE, MARK) or (letter == _SPACE and before != _SPACE):
                break
            value = (value ^ np.uint64(letter)) * np.uint64(_PRIME)
            place += 1
    return place, value


@compiled(nogil=True)
def _number(data: Bytes, start: int, end: int, value: np.uint64, words: Words) -> int:
    """Return the number of the word data[start:end], whose hash is `value`; -1 if it is new and has no room."""
    mask = np.uint64(words.slots.size - 1)
    tag = value & np.uint64(_TAG)
    slot = (value ^ (value >> np.uint64(32))) & mask
    while words.slots[slot]:
        entry = words.slots[slot]
        number = int(entry & np.uint64(~_TAG & _WORD)) - 1
        if entry & np.uint64(_TAG) == tag and _is_word(data, start, end, number, words):
            return number
        slot = (slot + np.uint64(1)) & mask
    number = int(words.met[0])
    first = words.starts[number]
    if number == words.starts.size - 1 or first + end - start > words.letters.size:
        return -1
    for place in range(start, end):
        words.letters[first + place - start] = data[place]
    words.starts[number + 1] = first + end - start
    words.slots[slot] = tag | np.uint64(number + 1)
    words.met[0] = number + 1
    return number


@compiled(nogil=True)
def _is_word(data: Bytes, start: int, end: int, number: int, words: Words) -> bool:
    first = words.starts[number]
    same = words.starts[number + 1] - first == end - start
    place = start
    while same and place < end:
        same = words.letters[first + place - start] == data[place]
        place += 1
    return bool(same)


@compiled(nogil=True)
def in_parts(
    words: Words, first: int, part_bytes: int, is_apart: bool, letters: Bytes, starts: Numbers
) -> tuple[int, int]:
    """Copy the words from number `first` on to `letters`, and write to `starts` where to cut these into parts.

    Return how many bytes and how many parts there are. A part has about `part_bytes`. A word that would grow
    together with the one before it, because it has no space in front or that one is nothing but spaces, begins
    a part if `is_apart`; otherwise a newline is written before it.
    """
    size = found = 0
    begun = -part_bytes
    for number in range(first, words.met[0]):
        start = words.starts[number]
        grows = words.letters[start] != _SPACE or words.letters[start - 1] == _SPACE
        if size - begun >= part_bytes or (grows and is_apart):
            starts[found] = begun = size
            found += 1
        elif grows:
            letters[size] = _NEWLINE
            size += 1
        for place in range(start, words.starts[number + 1]):
            letters[size] = words.letters[place]
            size += 1
    return size, found


@compiled(nogil=True)
def written(numbers: Numbers, words: Words, ids: Numbers) -> int:
    """Write the ids of the numbered words one after the other, and return how many these are."""
    found = 0
    for number in numbers:
        for place in range(words.id_starts[number], words.id_starts[number + 1]):
            ids[found] = words.ids[place]
            found += 1
    return found
