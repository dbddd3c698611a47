"""Strict JSON with places: an object, objects on lines or in an array; nothing that Python would quietly accept."""

from __future__ import annotations

import codecs
import difflib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gencli.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_INTEGER = 4300
_EXCERPT = 20
_LONGEST_SPELLED = 40
_WHOLE = "put one whole JSON object on each line"


class _RefusedError(Exception):
    """JSON that Python's parser takes but gencli doesn't."""


def numbered_lines(
    blocks: Iterable[str], *, name: str, longest: int, kind: type[InputError]
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); `kind` for more than `longest` characters."""
    number = 1
    held = ""
    for block in blocks:
        *lines, held = (held + block).split("\n")
        for line in lines:
            _check_length(line, number, name=name, longest=longest, kind=kind)
            yield number, line
            number += 1
        _check_length(held, number, name=name, longest=longest, kind=kind)
    if held:
        yield number, held


def parsed_line(line: str, *, where: str, kind: type[InputError]) -> dict[str, object]:
    """Return the one JSON object on a line; `where` is "path:line".

    Raises `kind` for anything else, for keys given twice, NaN, Infinity, huge integers and deep nesting.
    """
    start = _after_space(line, 0)
    value, end = _decoded(line, start, where=where, kind=kind)
    end = _after_space(line, end)
    if end < len(line):
        raise kind(
            f"more than one JSON value on the line: {_excerpt(line, end)}",
            where=f"{where}:{end + 1}",
            hint=_WHOLE,
        )
    return _object(value, where=f"{where}:{start + 1}", kind=kind)


def parsed_array(text: str, *, name: str, kind: type[InputError]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object) for each object of the JSON array that is the whole of `text`."""
    position = _after_space(text, _after_space(text, 0) + 1)
    line = 1 + text.count("\n", 0, position)
    is_open = not text.startswith("]", position)
    while is_open:
        value, end = _decoded(text, position, where=f"{name}:{line}", kind=kind, file=name)
        yield line, _object(value, where=f"{name}:{line}", kind=kind)
        end = _after_space(text, end)
        is_open = text.startswith(",", end)
        if not is_open and not text.startswith("]", end):
            message = f"not JSON: expected a comma or ] {_excerpt(text, end)}"
            raise kind(message, where=f"{name}:{_place(text, end)}")
        line += text.count("\n", position, end)
        position = _after_space(text, end + 1) if is_open else end
        line += text.count("\n", end, position)
    rest = _after_space(text, position + 1)
    if rest < len(text):
        message = f"there is text after the JSON array: {_excerpt(text, rest)}"
        raise kind(message, where=f"{name}:{_place(text, rest)}")


def parsed_file(data: bytes, *, name: str, kind: type[InputError]) -> dict[str, object]:
    """Return the one JSON object that a file of UTF-8 holds. Raises `kind` as `parsed_line` does."""
    if data.startswith(codecs.BOM_UTF8):
        raise kind("the JSON begins with a byte order mark", where=f"{name}:1:1", hint="save it without one")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise kind("not JSON: this is not UTF-8", where=f"{name}, byte {error.start}") from error
    value, end = _decoded(text, _after_space(text, 0), where=name, kind=kind, file=name)
    end = _after_space(text, end)
    if end < len(text):
        message = f"there is text after the JSON object: {_excerpt(text, end)}"
        raise kind(message, where=f"{name}:{_place(text, end)}")
    return _object(value, where=name, kind=kind)


def _place(text: str, position: int) -> str:
    """Return "line:column" of a position, both from 1."""
    return f"{1 + text.count(chr(10), 0, position)}:{position - text.rfind(chr(10), 0, position)}"


def _decoded(
    text: str, start: int, *, where: str, kind: type[InputError], file: str = ""
) -> tuple[object, int]:
    """Return the value at `start` and where it ends; `where` is its line, `file` what it is more than a line of."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        place = f"{file}:{_place(text, error.pos)}" if file else f"{where}:{error.pos + 1}"
        reason = error.msg[:1].lower() + error.msg[1:]
        raise kind(
            f"not JSON: {reason} {_excerpt(text, error.pos)}", where=place, hint="" if file else _WHOLE
        ) from error
    except _RefusedError as error:
        raise kind(str(error), where=where) from error
    except RecursionError as error:
        raise kind("the JSON is nested too deeply", where=where) from error
    return value, end


def _object(value: object, *, where: str, kind: type[InputError]) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise kind(f"expected a JSON object, found {json_type(value)}", where=where)


def near_name(name: str, known: Iterable[str]) -> str:
    """Return the known name that `name` was probably meant to be, or an empty string."""
    lowered = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), lowered, n=1)
    return lowered[near[0]] if near else ""


def json_type(value: object) -> str:
    """Return what a JSON value is, in words with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"


def spelled(value: object) -> str:
    """Return a JSON value for a message: itself, cut to a few characters, or what it is if it holds others."""
    return repr(value)[:_LONGEST_SPELLED] if isinstance(value, str | int | float) else json_type(value)


def _check_length(line: str, number: int, *, name: str, longest: int, kind: type[InputError]) -> None:
    if len(line) > longest:
        raise kind(
            f"the line is longer than {longest:,} characters",
            where=f"{name}:{number}",
            hint="put one example on each line",
        )


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _excerpt(text: str, position: int) -> str:
    """Quote what stands around a position, escaped, on one line."""
    if position >= len(text):
        return "at the end"
    start = max(0, position - _EXCERPT, text.rfind("\n", 0, position) + 1)
    piece = text[start : position + _EXCERPT].partition("\n")[0]
    return f"near {piece!r}"


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"the key {twin!r} is given twice in one object")
    return value


def _without_names(name: str) -> object:
    raise _RefusedError(f"{name} is not JSON")


def _without_giants(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise _RefusedError(f"an integer of more than {_LONGEST_INTEGER:,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_twins, parse_constant=_without_names, parse_int=_without_giants
)
