"""Ways to damage a file, each a function of a random generator and bytes."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

LONGEST = 1 << 20
NUMBERS = (
    b"0", b"-1", b"1", b"2", b"3", b"255", b"256", b"65536", b"2147483647", b"2147483648", b"4294967296",
    b"9223372036854775807", b"9223372036854775808", b"1e999", b"-1e-999", b"1.5", b"NaN", b"Infinity", b"-0", b"0x10",
    b"true", b"null", b"9" * 400, b"9" * 5000, b'"12"', b"[]", b"{}",
)  # fmt: skip
INTEGERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**64 - 1,
)
WORDS = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b'"', b"'", b"\\",
    b"{", b"}", b"[", b"]", b",", b":", b";", b"=", b"#", b'"""', b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\\x",
    b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x96\x81", b"\xe2\x80\xa8", b"\xcc\x81" * 40, b"\xc2\x9b",
    b"../../etc/passwd", b"/dev/zero", b"__class__", b"!!python/object", b"prompt", b"completion", b"messages", b"text",
    b"label", b"role", b"content", b"[" * 3000, b'{"a":' * 2000, b"(" * 3000, b"\x1f\x8b\x08\0", b"\x93NUMPY", b"PK\x03\x04",
)  # fmt: skip

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def flip_bits(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _number in range(draw.choice((1, 1, 1, 2, 4, 16, 64))):
        if changed:
            changed[place(draw, changed)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def other_bytes(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = part(draw, data, 16)
    return data[:start] + draw.randbytes(end - start) + data[end:]


def cut(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = part(draw, data, len(data))
    return draw.choice((data[:start], data[start:], data[:start] + data[end:], data[start:end]))


def splice(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    start, end = part(draw, other, 4096)
    at = place(draw, data)
    return data[:at] + other[start:end] + data[at + draw.choice((0, end - start)) :]


def join(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    return data[: place(draw, data)] + other[place(draw, other) :]


def repeat(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = part(draw, data, draw.choice((1, 8, 64, 1024)))
    times = min(draw.choice((2, 2, 3, 10, 100, 1000, 100_000)), LONGEST // max(1, end - start))
    return data[:end] + data[start:end] * times + data[end:]


def move(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = part(draw, data, 256)
    rest = data[:start] + data[end:]
    at = place(draw, rest)
    return rest[:at] + data[start:end] + rest[at:]


def word(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = place(draw, data)
    return data[:at] + draw.choice(WORDS) + data[at + draw.choice((0, 0, 1, 8)) :]


def written_number(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put another number in place of one that is written in digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return word(draw, data, ())
    number = draw.choice(found)
    return data[: number.start()] + draw.choice(NUMBERS) + data[number.end() :]


def binary_number(draw: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put another number in place of 1 to 8 bytes, or of a varint."""
    at = draw.choice((place(draw, data), draw.randrange(16)))
    value = draw.choice(INTEGERS)
    if draw.random() < 0.3:
        return data[:at] + varint(value) + data[at + draw.choice((0, 1, 2)) :]
    size = draw.choice((1, 2, 4, 8))
    packed = struct.pack("<Q", value)[:size]
    return data[:at] + (packed if draw.random() < 0.7 else packed[::-1]) + data[at + size :]


def line(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Leave a line out, say it twice, or bring one of another file in."""
    lines = data.splitlines(keepends=True) or [b""]
    at = draw.randrange(len(lines))
    foreign = draw.choice(draw.choice(others).splitlines(keepends=True) or [b""])
    lines[at : at + 1] = draw.choice(([], [lines[at]] * 2, [foreign], [lines[at], foreign]))
    return b"".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, other_bytes, cut, splice, join, repeat, move, word, written_number, binary_number, line,
)  # fmt: skip


def mutated(draw: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the data after one to four mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        data = draw.choice(MUTATIONS)(draw, data, others)[: 4 * LONGEST]
    return data


def place(draw: random.Random, data: bytes | bytearray) -> int:
    """Return a place in the data: any, or one near the start, where most of the structure is."""
    if not data:
        return 0
    return draw.randrange(len(data)) if draw.random() < 0.6 else draw.randrange(min(len(data), 128))


def part(draw: random.Random, data: bytes, longest: int) -> tuple[int, int]:
    """Return where some part of the data starts and ends."""
    start = place(draw, data)
    return start, min(len(data), start + draw.randrange(1, max(2, longest + 1)))


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])
