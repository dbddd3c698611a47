"""What a tokenizer does to a text: how short it gets, what is spelled in bytes, and what would mend that."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gencli.text.isolation import nothing, paced
from gencli.text.sampling import even_sample
from gencli.text.scripts import SCRIPTS, script_bytes
from gencli.text.tokenizer import FIRST_BYTE_ID, LAYOUT, normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gencli.text.corpus import Corpus
    from gencli.text.tokenizer import Tokenizer

_PART_CHARACTERS = 1 << 14
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 40
_MUCH_FALLBACK = 0.01
_MANY_UNUSED = 0.3
_SHARE_THAT_MATTERS = 0.05
_SHORT = {
    "hangul": 3.0,
    "han": 3.0,
    "kana": 3.0,
    "latin": 2.0,
}  # bytes a token below which a script is cut small

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScriptFigures:
    """The part of the text in one script; a token that spans two counts for each by its bytes."""

    nbytes: int
    tokens: float
    bytes_per_token: float


@dataclass(frozen=True)
class TokenizerReport:
    """Figures of a tokenizer on `nbytes` bytes of text, taken from a corpus of `documents` documents.

    `byte_fallback_share` is the share of the bytes that have no other piece than single bytes;
    `round_trip_failures` counts parts of documents that come back changed, `failures` shows the first ones.
    `unused_pieces` counts the pieces that this text never needs. `advice` names the flag that mends a flaw.
    """

    pieces: int
    documents: int
    nbytes: int
    tokens: int
    bytes_per_token: float
    scripts: dict[str, ScriptFigures]
    byte_fallback_share: float
    round_trip_failures: int
    failures: tuple[str, ...]
    unused_pieces: int
    advice: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the report as a value for JSON."""
        return asdict(self)


def tokenizer_report(
    tokenizer: Tokenizer,
    corpus: Corpus,
    *,
    limit_bytes: int = 8 << 20,
    check: Callable[[], None] = nothing,
) -> TokenizerReport:
    """Measure `tokenizer` on `corpus`, or on an even sample of at most `limit_bytes` of it.

    `check` is called while the corpus is read. Raises CorpusError from reading, and what `check` raises.
    """
    documents = _Counter(paced(check))
    sample = even_sample(documents.parts(corpus), limit_bytes)
    arrays = tokenizer.encode_arrays(sample.texts, threads=2)
    counts = np.bincount(np.concatenate(arrays), minlength=tokenizer.vocabulary)
    pieces, fallback = _piece_scripts(tokenizer), _fallback_scripts(tokenizer, arrays)
    sizes = np.maximum(pieces.sum(axis=1), 1)
    nbytes: Counts = counts @ pieces + fallback
    tokens: Counts = counts @ (pieces / sizes[:, None]) + fallback
    failures = _failures(tokenizer, sample.texts, arrays)
    figures = {
        script: ScriptFigures(int(size), round(float(count), 1), round(float(size / count), 3))
        for script, size, count in zip(SCRIPTS, nbytes, tokens, strict=True)
        if size
    }
    report = TokenizerReport(
        pieces=tokenizer.vocabulary,
        documents=documents.count,
        nbytes=sample.nbytes,
        tokens=int(counts.sum()),
        bytes_per_token=round(sample.nbytes / max(int(counts.sum()), 1), 3),
        scripts=figures,
        byte_fallback_share=round(float(fallback.sum()) / max(sample.nbytes, 1), 6),
        round_trip_failures=len(failures),
        failures=tuple(failures[:_EXAMPLES]),
        unused_pieces=int(np.count_nonzero(counts[len(LAYOUT) :] == 0)),
        advice=(),
    )
    return replace(report, advice=tuple(_advice(report, tokenizer.kind)))


class _Counter:
    """Cut a corpus into parts and count its documents on the way."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.count = 0
        self._check = check

    def parts(self, corpus: Corpus) -> Iterator[str]:
        for document in corpus.documents():
            self.count += 1
            self._check()
            text = normalised(document.text)
            for start in range(0, len(text), _PART_CHARACTERS):
                yield text[start : start + _PART_CHARACTERS]


def _piece_scripts(tokenizer: Tokenizer) -> Counts:
    """Return [id, script] bytes of each piece but the single bytes; a space goes with what follows it."""
    table = np.zeros((tokenizer.vocabulary, len(SCRIPTS)))
    for index, data in enumerate(tokenizer.piece_bytes):
        if not tokenizer.is_byte(index):
            text = data.decode("utf-8")
            bare = text.lstrip(" ")
            table[index] = script_bytes(bare or text)
            if bare:
                table[index, np.flatnonzero(script_bytes(bare[0]))] += len(text) - len(bare)
    return table


def _fallback_scripts(tokenizer: Tokenizer, arrays: list[npt.NDArray[np.int32]]) -> Counts:
    """Return [script] bytes that are spelled as single bytes, by the characters that they spell."""
    row = np.concatenate(arrays)
    values = row[(row >= FIRST_BYTE_ID) & (row < len(LAYOUT))] - FIRST_BYTE_ID
    return script_bytes(values.astype(np.uint8).tobytes().decode("utf-8")).astype(np.float64)


def _failures(tokenizer: Tokenizer, texts: list[str], arrays: list[npt.NDArray[np.int32]]) -> list[str]:
    """Return where each text that does not come back whole first differs."""
    pieces = tokenizer.piece_bytes
    failures = []
    for text, ids in zip(texts, arrays, strict=True):
        back = b"".join([pieces[index] for index in ids.tolist()]).decode("utf-8", "replace")
        if back != text:
            at = next((index for index, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), 0)
            failures.append(text[max(0, at - _EXAMPLE_CHARACTERS // 2) : at + _EXAMPLE_CHARACTERS // 2])
    return failures


def _advice(report: TokenizerReport, kind: str) -> list[str]:
    """Return a sentence for each flaw, with the flag that mends it."""
    advice = []
    if report.byte_fallback_share > _MUCH_FALLBACK:
        advice.append(
            f"{report.byte_fallback_share:.1%} of the text is spelled in single bytes: raise --vocab-size, or"
            " --character-coverage up to 1"
        )
    small = [
        name
        for name, script in report.scripts.items()
        if script.bytes_per_token < _SHORT.get(name, 0)
        and script.nbytes > _SHARE_THAT_MATTERS * report.nbytes
    ]
    if small and kind == "char":
        advice.append("every character is a token: --kind bpe makes the text several times shorter")
    elif small:
        advice.append(f"{' and '.join(small)} is cut into very short pieces: raise --vocab-size")
    if report.unused_pieces > _MANY_UNUSED * (report.pieces - len(LAYOUT)):
        advice.append(
            f"this text needs none of {report.unused_pieces} pieces: lower --vocab-size, or train the tokenizer"
            " on text like this"
        )
    if report.round_trip_failures:
        advice.append("the character U+2581 comes back as a space: replace it in the text if that matters")
    return advice
