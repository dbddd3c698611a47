"""The pairs of a fine-tuning run, to be found again by a prompt: answers that name where they are from.

    memory.jsonl         a row for each pair: prompt, answer, file, line
    memory.safetensors   keys (N, W): what the model made of each pair's prompt, as unit vectors of float16;
                         centre (W,): the mean that was taken off before

How alike two prompts are is the cosine of their character n-grams, those in fewer prompts counting more (Spärck
Jones 1972), and so many times the cosine of their keys. A key is the vector that the head turns into logits where
the answer begins, as in the nearest-neighbour language model (Khandelwal et al. 2020); saying what was found, with
its source, is retrieval (Lewis et al. 2020).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gencli.errors import ModelError
from gencli.model.card import with_memory
from gencli.model.folder import CARD
from gencli.model.ngram_index import NgramIndex
from gencli.model.tensors import open_tensors
from gencli.storage import digest_of, remove_file, replace_file, staged_file
from gencli.text.json_lines import parsed_line
from gencli.text.pairs import Pair

ROWS, KEYS = "memory.jsonl", "memory.safetensors"

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Remembered:
    """A pair of a fine-tuning run: the last question, its answer, and where they stood."""

    prompt: str
    answer: str
    file: str
    line: int

    @property
    def source(self) -> dict[str, object]:
        """Return, as part of a record, where an answer is from."""
        return {"prompt": self.prompt, "file": self.file, "line": self.line}


@dataclass(frozen=True, eq=False)
class Memory:
    """N pairs with their keys (N, W), unit vectors from the centre (W,)."""

    rows: Sequence[Remembered]
    keys: Floats
    centre: Floats

    @cached_property
    def index(self) -> NgramIndex:
        """Return the index of the prompts' n-grams, made when it is first asked for."""
        return NgramIndex([row.prompt for row in self.rows])

    def first(self, count: int | None) -> Memory:
        """Return a memory of the first pairs alone, of all if no number is given."""
        return self if count is None else Memory(self.rows[:count], self.keys[:count], self.centre)

    def cosines(self, prompts: Sequence[str], vectors: Floats) -> tuple[Floats, Floats]:
        """Return the cosines [B, N] of B prompts with all pairs: by their n-grams, and by their vectors [B, W]."""
        return self.index.cosines(prompts), directions(vectors, self.centre) @ self.keys.T


def memory_of(pairs: Sequence[Pair], vectors: Floats) -> Memory:
    """Return a memory of pairs, with the vectors [N, W] that a model made of their prompts."""
    centre = vectors.mean(axis=0)
    rows = [Remembered(pair.prompt, pair.completion, pair.file, pair.line) for pair in pairs]
    return Memory(rows, directions(vectors, centre), centre)


def directions(vectors: Floats, centre: Floats) -> Floats:
    """Return vectors [B, W] from the centre, of length one; what lies at the centre stays there."""
    moved = vectors - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(lengths, 1e-12), np.float32)


def write_memory(path: Path, memory: Memory) -> tuple[str, str]:
    """Keep a memory in a model folder, and say so in its card; return the digests of its files.

    Raises MachineError when the disk refuses.
    """
    from safetensors.numpy import save_file

    rows = [
        {"prompt": row.prompt, "answer": row.answer, "file": row.file, "line": row.line}
        for row in memory.rows
    ]
    replace_file(path / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with staged_file(path / KEYS) as staging:
        save_file({"keys": memory.keys.astype(np.float16), "centre": memory.centre}, staging)
    if (path / CARD).is_file():
        replace_file(path / CARD, with_memory((path / CARD).read_text(encoding="utf-8")))
    return memory_digests(path)


def memory_digests(path: Path) -> tuple[str, str]:
    """Return the digests of the files of the memory in a model folder, "" for one that is not there."""
    first, second = (digest_of(path / name) if (path / name).is_file() else "" for name in (ROWS, KEYS))
    return first, second


def remove_memory(path: Path) -> None:
    """Delete the memory in a model folder, if there is one."""
    for name in (ROWS, KEYS):
        remove_file(path / name)


def read_memory(path: Path, width: int) -> Memory:
    """Return the memory in the folder of a model of this width. Raises ModelError for files of anything else."""
    file = open_tensors(path / KEYS)
    rows = _rows(path / ROWS)
    file.check({"keys": (len(rows), width), "centre": (width,)})
    arrays = dict(file.arrays())
    return Memory(rows, arrays["keys"], arrays["centre"])


def _rows(path: Path) -> list[Remembered]:
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise _damaged(path, (error.strerror or str(error)).lower()) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is not UTF-8") from error
    found = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]
    if not found:
        raise _damaged(path, "it is empty")
    return found


def _row(line: str, where: str) -> Remembered:
    values = parsed_line(line, where=where, kind=ModelError)
    prompt, answer, file, number = (values.get(name) for name in ("prompt", "answer", "file", "line"))
    if not (isinstance(prompt, str) and isinstance(answer, str) and isinstance(file, str)):
        raise _damaged(where, 'a row has "prompt", "answer" and "file"')
    if isinstance(number, bool) or not isinstance(number, int):
        raise _damaged(where, '"line" is a number')
    return Remembered(prompt, answer, file, number)


def _damaged(where: object, reason: str) -> ModelError:
    return ModelError(
        f"this is not a model's memory: {reason}",
        where=str(where),
        hint=f"copy {ROWS} and {KEYS} again, or fine-tune again",
    )
