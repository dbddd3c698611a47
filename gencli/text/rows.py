"""Rows of a labelled file, whatever its format: JSON lines, one JSON array, comma- or tab-separated."""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gencli.errors import PairsError
from gencli.text.fields import Fields, detected_fields, looks_like_header, unknown_fields
from gencli.text.json_lines import numbered_lines, parsed_array, parsed_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_LINE = 16_000_000
LONGEST_ARRAY = 256_000_000
SAMPLE_ROWS = 20
SAMPLE_CHARACTERS = 1 << 16

_ARRAY = re.compile(r"\s*\[\s*[{\]]")
_OBJECT = re.compile(r'\s*\{\s*["}]')
_NAMES = {"jsonl": "JSON lines", "json": "one JSON array", "csv": "comma-separated", "tsv": "tab-separated"}


@dataclass(frozen=True)
class Row:
    """One example as it stands in the file; `line` counts from 1."""

    line: int
    values: dict[str, object]


@dataclass(frozen=True)
class Rows:
    """All rows of a file; `fields` are None where no header could tell them."""

    format: str
    rows: Iterator[Row]
    fields: Fields | None
    notes: tuple[str, ...]


def open_rows(
    blocks: Iterator[str], *, name: str, ending: str, prompt_key: str | None, completion_key: str | None
) -> Rows:
    """Tell the format by the content first and the ending second; PairsError names the line of a bad row.

    Rows are read as they are asked for; only a JSON array is held in memory.
    """
    head = ""
    while len(head) < SAMPLE_CHARACTERS and (block := next(blocks, "")):
        head += block
    blocks = itertools.chain([head], blocks)
    if _ARRAY.match(head):
        found, rows = "json", _array_rows(blocks, name)
    elif _OBJECT.match(head) or ending in (".json", ".jsonl") or not head.strip():
        found, rows = "jsonl", _line_rows(blocks, name)
    else:
        return _table(blocks, head, name=name, ending=ending, keys=(prompt_key, completion_key))
    return Rows(found, rows, None, _surprise(found, ending))


def _surprise(found: str, ending: str) -> tuple[str, ...]:
    """Return a note if the ending promises another format than the one found."""
    if ending[1:] in _NAMES and ending[1:] != found:
        return (f"read as {_NAMES[found]}, though its ending is {ending}",)
    return ()


def _array_rows(blocks: Iterable[str], name: str) -> Iterator[Row]:
    pieces: list[str] = []
    characters = 0
    for block in blocks:
        pieces.append(block)
        characters += len(block)
        if characters > LONGEST_ARRAY:
            raise PairsError(
                f"the JSON array is longer than {LONGEST_ARRAY:,} characters",
                where=f"{name}:1",
                hint="write it as JSON lines: one object on each line",
            )
    for line, value in parsed_array("".join(pieces), name=name, kind=PairsError):
        yield Row(line, value)


def _line_rows(blocks: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in numbered_lines(blocks, name=name, longest=LONGEST_LINE, kind=PairsError):
        if line.strip():
            yield Row(number, parsed_line(line, where=f"{name}:{number}", kind=PairsError))


def _table(
    blocks: Iterable[str], head: str, *, name: str, ending: str, keys: tuple[str | None, str | None]
) -> Rows:
    delimiter = _delimiter(head, ending, name)
    found = "tsv" if delimiter == "\t" else "csv"
    lines = numbered_lines(blocks, name=name, longest=LONGEST_LINE, kind=PairsError)
    cells = _cells(lines, delimiter, name)
    line, first = next(cells)
    header, fields, note = _header(first, where=f"{name}:{line}", keys=keys)
    notes = _surprise(found, ending)
    if delimiter == ";":
        notes += ("the columns are separated by semicolons",)
    if note:
        notes += (note,)
    if header is None:
        cells = itertools.chain([(line, first)], cells)
        header = _column_names(len(first))
    return Rows(found, _table_rows(cells, header, name), fields, notes)


def _header(
    first: list[str], *, where: str, keys: tuple[str | None, str | None]
) -> tuple[list[str] | None, Fields, str]:
    """Return the names in the first row (None if it holds an example), the fields, and a note."""
    prompt_key, completion_key = keys
    names = [cell.strip() for cell in first]
    fields = detected_fields(names, prompt_key=prompt_key, completion_key=completion_key)
    is_header = fields is not None and not fields.turns
    if not is_header and (prompt_key or completion_key):
        raise unknown_fields(names, where=where, prompt_key=prompt_key, completion_key=completion_key)
    if (is_header or looks_like_header(names)) and len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise PairsError(f"two columns are named {twin!r}", where=where)
    if fields is not None and is_header:
        return names, fields, ""
    if looks_like_header(names):
        words = f"columns {names[0]} → {names[1]}"
        return names, Fields(words, prompt=names[0], completion=names[1]), ""
    unnamed = _column_names(len(first))
    words = "prompt → completion" if len(first) == 2 else "columns 1 → 2"
    note = "the first row holds no known names, so it was read as an example"
    return None, Fields(words, prompt=unnamed[0], completion=unnamed[1]), note


def _column_names(columns: int) -> list[str]:
    return [f"column {index}" for index in range(1, columns + 1)]


def _table_rows(cells: Iterator[tuple[int, list[str]]], header: list[str], name: str) -> Iterator[Row]:
    for line, values in cells:
        if len(values) != len(header):
            raise PairsError(
                f"expected {len(header)} columns, found {len(values)}",
                where=f"{name}:{line}",
                hint="a text that holds the separator, a quote or a line end stands in double quotes",
            )
        yield Row(line, dict(zip(header, values, strict=True)))


def _cells(lines: Iterator[tuple[int, str]], delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) for each row; quotes are plain text where tabs separate."""
    if delimiter == "\t":
        yield from ((number, line.split("\t")) for number, line in lines if line)
        return
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            is_open = "unexpected end" in str(error)
            message = "a double quote is left open" if is_open else f"not comma-separated: {error}"
            hint = "write a double quote inside of double quotes twice"
            raise PairsError(message, where=f"{name}:{start}", hint=hint) from error
        if row:
            yield start, row
        start = reader.line_num + 1


def _delimiter(head: str, ending: str, name: str) -> str:
    """Return the separator that gives the first rows the same number of columns, two at least."""
    order = ",;\t" if ending == ".csv" else "\t,;"
    sample = head[: head.rfind("\n") + 1] or head
    widths = {delimiter: _widths(sample, delimiter, name) for delimiter in order}
    tables = {delimiter: found for delimiter, found in widths.items() if found and found[0] > 1}
    even = [delimiter for delimiter, found in tables.items() if len(set(found)) == 1]
    is_table = ending in (".csv", ".tsv")
    usable = even + [delimiter for delimiter in tables if is_table or delimiter == "\t"]
    if usable:
        return usable[0]
    raise PairsError(
        "can't tell the format: no JSON, and no tab, comma or semicolon parts the first row",
        where=f"{name}:1",
        hint='one example on each line, as {"prompt": "...", "completion": "..."} or prompt, tab, completion',
    )


def _widths(sample: str, delimiter: str, name: str) -> list[int]:
    widths: list[int] = []
    try:
        for _, cells in itertools.islice(_cells(enumerate(sample.split("\n")), delimiter, name), SAMPLE_ROWS):
            widths.append(len(cells))
    except PairsError:
        return widths
    return widths
