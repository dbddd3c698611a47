"""Words of a text, numbered and remembered in flat arrays: a Python dictionary of as many words would take several
times as long and hold the interpreter's lock all the while.

A word is what stands from one place where a text may be cut without changing an id to the next: a newline, a
mark between two texts, or any spaces and what follows them up to the next of the three.
"""

from __future__ import annotations

import numpy as np

from gencli.kernels.compiling import kernel
from gencli.kernels.memory import AT_ONCE, MARK, Bytes, Counts, Numbers, Slots, Words

_SPACE, _NEWLINE = 0x20, 0x0A
_SEED, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a
_WORD = 0xFFFFFFFFFFFFFFFF
_TAG = 0xFFFFFFFF00000000


@kernel
def numbered(
    data: Bytes,
    start: int,
    met: Counts,
    slots: Slots,
    starts: Numbers,
    letters: Bytes,
    id_starts: Numbers,
    ids: Numbers,
    numbers: Numbers,
    ends: Counts,
    values: Slots,
    result: Counts,
) -> None:
    """Write the number of each word from `start` on and remember new words.

    The result is how many numbers there are, and where it stopped: at the end, or before a word that has no room.
    Ends and values (AT_ONCE) are scratch.
    """
    words = Words(met, slots, starts, letters, id_starts, ids)
    found = 0
    while start < data.size:
        end, count = start, 0
        while end < data.size and count < AT_ONCE:
            end, values[count] = _word(data, end)
            ends[count] = end
            count += 1
        _fetch(values[:count], words)
        for place in range(count):
            number = _number(data, start, ends[place], values[place], words)
            if number < 0:
                result[0], result[1] = found, start
                return
            numbers[found] = number
            found += 1
            start = ends[place]
    result[0], result[1] = found, start


@kernel
def _fetch(values: Slots, words: Words) -> int:
    """Touch what looking up these words will read: the processor then waits for many of them at a time."""
    touched = 0
    mask = np.uint64(words.slots.size - 1)
    for value in values:
        entry = words.slots[(value ^ (value >> np.uint64(32))) & mask]
        number = int(entry & np.uint64(~_TAG & _WORD))
        touched += words.letters[words.starts[number - (number > 0)]]
    return touched


@kernel
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


@kernel
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


@kernel
def _is_word(data: Bytes, start: int, end: int, number: int, words: Words) -> bool:
    first = words.starts[number]
    same = words.starts[number + 1] - first == end - start
    place = start
    while same and place < end:
        same = words.letters[first + place - start] == data[place]
        place += 1
    return bool(same)


@kernel
def in_parts(
    met: Counts,
    slots: Slots,
    known_starts: Numbers,
    known_letters: Bytes,
    id_starts: Numbers,
    ids: Numbers,
    first: int,
    part_bytes: int,
    is_apart: int,
    letters: Bytes,
    starts: Numbers,
    result: Counts,
) -> None:
    """Copy the words from number `first` on to `letters`, and write to `starts` where to cut these into parts.

    The result is how many bytes and how many parts there are. A part has about `part_bytes`. A word that would grow
    together with the one before it, because it has no space in front or that one is nothing but spaces, begins
    a part if `is_apart`; otherwise a newline is written before it.
    """
    words = Words(met, slots, known_starts, known_letters, id_starts, ids)
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
    result[0], result[1] = size, found


@kernel
def written(numbers: Numbers, id_starts: Numbers, known: Numbers, ids: Numbers, result: Counts) -> None:
    """Write the ids of the numbered words one after the other; the result is how many these are."""
    found = 0
    for number in numbers:
        for place in range(id_starts[number], id_starts[number + 1]):
            ids[found] = known[place]
            found += 1
    result[0] = found
