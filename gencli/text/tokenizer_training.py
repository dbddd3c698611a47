"""Train a tokenizer on a corpus so that every text comes back whole, whatever the corpus was."""

from __future__ import annotations

import math
import re
import struct
from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gencli.errors import TokenizerError
from gencli.storage import replace_file
from gencli.text.isolation import in_child, nothing, paced
from gencli.text.pieces import NORMAL, read_model_file
from gencli.text.sampling import Sample, bytes_of, even_sample
from gencli.text.tokenizer import (
    BOS,
    EOS,
    KINDS,
    LAYOUT,
    NEWLINE,
    PAD,
    ROLE_MARKERS,
    UNK,
    Tokenizer,
    load_sentencepiece,
    normalised,
)
from gencli.text.trial import remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from gencli.text.corpus import Corpus

LEAST_VOCABULARY = 320
MOST_VOCABULARY = 1 << 17
UNIGRAM_SAMPLE_BYTES = 16 << 20  # its training takes ten times as long as that of the others

# A unigram tokenizer gets pieces for these: the `tokenizers` library looks for the spelling of special pieces
# in text too, and shall find that the characters cost less.
_SPELLING = frozenset("".join(piece for piece, _ in LAYOUT)) - {NEWLINE}
_LONGEST_LINE = 2048  # characters
_LINES_AT_ONCE = 1 << 14
_CHARACTERS_SHARE = 0.75  # of the free pieces at most, the others are for longer pieces
_COVERED_UNASKED = 0.99
_PIECES_A_CHARACTER = 4  # at least, where pieces are made finer than the size of the corpus asks for
_MOST_UNASKED = 16_000
_THREADS = 4  # a constant, because the scores of unigram pieces depend on it
_SCORE_STEPS = 64
_RESERVED = ("\u2585", "\0")  # SentencePiece's trainer skips a whole line for one of these


@dataclass(frozen=True)
class TrainedTokenizer:
    """A new tokenizer, and what a user should know about how it came out."""

    tokenizer: Tokenizer
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pieces:
    """What a vocabulary is like whose size is not asked for: how fine, above 1 for fewer pieces; how large at most."""

    fineness: float = 1.0
    most: int = _MOST_UNASKED


def suggested_vocabulary(nbytes: int, pieces: Pieces = Pieces()) -> int:
    """Return a vocabulary for a corpus of so many bytes: 1024 * megabytes^0.75, in 64s, from 512 to 16000."""
    wanted: float = 1024 / pieces.fineness * (max(nbytes, 0) / 1e6) ** 0.75
    return min(pieces.most, _MOST_UNASKED, max(512, 64 * round(wanted / 64)))


def train_tokenizer(
    corpus: Corpus,
    destination: Path,
    *,
    vocabulary: int | None,
    kind: str = "bpe",
    character_coverage: float = 0.9995,
    sample_bytes: int = 64 << 20,
    pieces: Pieces = Pieces(),
    held_out: float = 0.0,
    cache: Path | None = None,
    check: Callable[[], None] = nothing,
) -> TrainedTokenizer:
    """Train a tokenizer on `corpus`, write it to the file `destination`, and return it.

    `vocabulary` None chooses one by the size of the corpus and by `pieces`, or by its characters if they need
    more. Nothing is learned from the last `held_out` share of each CORPUS argument, which a model is to be
    judged on. A corpus of more than `sample_bytes` (16 MB for unigram) is sampled evenly; a vocabulary that
    the corpus can't fill is lowered; characters that don't fit are left to byte pieces: each with a note. The
    same corpus and arguments give the same file on any machine. The folder `cache` remembers that the
    tokenizer needs no trial. `check` is called every tenth of a second or so; what it raises ends all at once,
    with nothing written. Raises TokenizerError for arguments that can't be and for a text that SentencePiece
    refuses or crashes on, and whatever reading the corpus raises.
    """
    _check_arguments(vocabulary, kind, character_coverage, sample_bytes)
    limit = min(sample_bytes, UNIGRAM_SAMPLE_BYTES) if kind == "unigram" else sample_bytes
    check = paced(check)
    lines = _Lines(corpus, check)
    sample = even_sample(lines, limit)
    texts = _learned_from(sample, lines.ends, held_out)
    notes = []
    if sample.nbytes < sample.total_bytes:
        parts = f"{sample.nbytes / 1e6:.1f} of {sample.total_bytes / 1e6:.1f} MB"
        notes.append(f"the tokenizer learned from an even sample of the corpus: {parts}")
    characters = _Characters.of(texts, check)
    wanted = vocabulary or _vocabulary_for(characters, sample.total_bytes, pieces)
    asked = characters.covering(character_coverage)
    kept = min(asked, _room(kind, wanted))
    if kept < asked:
        share = f"{characters.share_beyond(kept):.2%} of the text"
        notes.append(
            f"no room for {len(characters.points) - kept} rare characters ({share}): they are spelled in bytes;"
            " a larger --vocab-size mends that"
        )
    remaining = characters.cut(texts, kept)
    del sample, texts  # the trainer holds them from now on
    data = _run_trainer(remaining, kind, wanted, check)
    tokenizer = Tokenizer.from_bytes(data, str(destination))
    if tokenizer.vocabulary < wanted:
        notes.append(
            f"the corpus fills {tokenizer.vocabulary} pieces of {wanted}: the vocabulary was lowered"
        )
    if cache is not None:
        remember(tokenizer.model_bytes, cache)
    replace_file(destination, tokenizer.model_bytes)
    return TrainedTokenizer(tokenizer, tuple(notes))


def _check_arguments(vocabulary: int | None, kind: str, coverage: float, sample_bytes: int) -> None:
    if kind not in KINDS:
        raise TokenizerError(
            f"there is no tokenizer of kind {kind!r}", hint=f"choose one of: {', '.join(KINDS)}"
        )
    if vocabulary is not None and not LEAST_VOCABULARY <= vocabulary <= MOST_VOCABULARY:
        raise TokenizerError(
            f"a vocabulary of {vocabulary} is out of range ({len(LAYOUT)} pieces are always there)",
            hint=f"choose --vocab-size from {LEAST_VOCABULARY} to {MOST_VOCABULARY}",
        )
    if not (math.isfinite(coverage) and 0.0 < coverage <= 1.0):
        raise TokenizerError(
            f"a character coverage of {coverage} is out of range",
            hint="choose --character-coverage above 0 and up to 1",
        )
    if sample_bytes < 1:
        raise TokenizerError(f"a sample of {sample_bytes} bytes is too small to learn from")


class _Lines:
    """A corpus in lines of at most _LONGEST_LINE characters, and where the lines of each argument end."""

    def __init__(self, corpus: Corpus, check: Callable[[], None]) -> None:
        self._corpus = corpus
        self._check = check
        self.ends = [0] * corpus.arguments  # in bytes of all lines, known once they were read

    def __iter__(self) -> Iterator[str]:
        end = 0
        for document in self._corpus.documents():
            self._check()
            text = normalised(document.text)
            for character in _RESERVED:
                text = text.replace(character, NEWLINE)
            for line in text.split(NEWLINE):
                for part in _cut_at_spaces(line):
                    end += bytes_of(part)
                    yield part
            self.ends[document.source] = end


def _cut_at_spaces(line: str) -> Iterator[str]:
    """Yield the parts of a line, cut at spaces where there are any."""
    start = 0
    while len(line) - start > _LONGEST_LINE:
        space = line.rfind(" ", start + _LONGEST_LINE // 2, start + _LONGEST_LINE)
        end = space if space > 0 else start + _LONGEST_LINE
        yield line[start:end]
        start = end
    if start < len(line):
        yield line[start:]


def _learned_from(sample: Sample, ends: list[int], held_out: float) -> list[str]:
    """Return the texts that do not start in the last `held_out` share of what one of the ends closes."""
    texts: list[str] = []
    begin = 0
    for end in ends:
        cut = bisect_left(sample.starts, end - held_out * max(0, end - begin))
        texts += sample.texts[bisect_left(sample.starts, begin) : cut]
        begin = max(begin, end)
    return texts


@dataclass(frozen=True)
class _Characters:
    """The code points of a text, the most frequent first, and the running sums of their counts."""

    points: npt.NDArray[np.int64]
    cumulative: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lines: list[str], check: Callable[[], None]) -> _Characters:
        """Count all but the tab, which SentencePiece's trainer keeps for itself."""
        counts = np.zeros(0x110000, np.int64)
        for start in range(0, len(lines), _LINES_AT_ONCE):
            check()
            text = "".join(lines[start : start + _LINES_AT_ONCE])
            points, times = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
            counts[points] += times
        counts[ord("\t")] = 0
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return cls(order, np.cumsum(counts[order]))

    def covering(self, share: float) -> int:
        """Return how many of the first characters make up `share` of the text."""
        if len(self.points) == 0:
            return 0
        return min(len(self.points), int(np.searchsorted(self.cumulative, share * self.cumulative[-1])) + 1)

    def share_beyond(self, kept: int) -> float:
        """Return the share of the text that the first `kept` characters leave out."""
        return 1.0 - float(self.cumulative[kept - 1] / self.cumulative[-1])

    def cut(self, lines: list[str], kept: int) -> Iterator[str]:
        """Return the lines, one by one, cut at all but the first `kept` characters.

        This stands for SentencePiece's character_coverage, which refuses values below 0.98.
        """
        if kept == len(self.points):
            return iter(lines)
        rest = re.compile("[^" + "".join(re.escape(chr(point)) for point in self.points[:kept]) + "]+")
        return (part for line in lines for part in rest.split(line) if part)


def _room(kind: str, vocabulary: int) -> int:
    """Return how many pieces the corpus's characters may take; merges need some of the others."""
    free = vocabulary - len(LAYOUT)
    if kind == "char":
        return free
    return int(free * _CHARACTERS_SHARE) - (len(_SPELLING) if kind == "unigram" else 0)


def _vocabulary_for(characters: _Characters, nbytes: int, pieces: Pieces) -> int:
    """Return a vocabulary for the size of the corpus that has pieces for 99% of its characters.

    So Hangul and Han fit; and pieces made finer still leave them some longer ones.
    """
    covered = characters.covering(_COVERED_UNASKED)
    least = min(_MOST_UNASKED, 64 * math.ceil((len(LAYOUT) + covered / _CHARACTERS_SHARE) / 64))
    finest = len(LAYOUT) + _PIECES_A_CHARACTER * covered
    by_size = suggested_vocabulary(nbytes, pieces)
    if pieces.fineness > 1:
        by_size = max(by_size, min(suggested_vocabulary(nbytes), 64 * math.ceil(finest / 64)))
    return max(least, by_size)


def _run_trainer(lines: Iterator[str], kind: str, vocabulary: int, check: Callable[[], None]) -> bytes:
    """Return the model that SentencePiece makes of the lines, in a process of its own."""
    load_sentencepiece()
    options = {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hard_vocab_limit": False,
        "character_coverage": 1.0,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "unk_id": UNK,
        "bos_id": BOS,
        "eos_id": EOS,
        "pad_id": PAD,
        "unk_surface": "",
        "control_symbols": list(ROLE_MARKERS.values()),
        "user_defined_symbols": [NEWLINE],
        "max_sentence_length": 1 << 30,
        "num_threads": _THREADS,
        "minloglevel": 2,
    }
    more = sorted(_SPELLING) if kind == "unigram" else []
    data = in_child(
        "train", {"options": options}, _blocks(chain(lines, more)), subject="this text", check=check
    )
    return _with_exact_scores(data) if kind == "unigram" else data


def _blocks(lines: Iterable[str]) -> Iterator[bytes]:
    """Yield the lines with their ends, many at a time; a tab, which teaches nothing, if there are none."""
    left = iter(lines)
    left = chain([next(left, "\t")], left)
    while block := list(islice(left, _LINES_AT_ONCE >> 4)):
        yield ("\n".join(block) + "\n").encode("utf-8")


def _with_exact_scores(data: bytes) -> bytes:
    """Return the model with its scores rounded to 1/64.

    Sums of such scores are exact in double precision, and in SentencePiece's single precision over 20,000
    pieces without a space between them: so every program finds the same best way to cut a text.
    """
    rounded = bytearray(data)
    for piece in read_model_file(data, "the new tokenizer").pieces:
        if piece.role == NORMAL and piece.score_at >= 0:
            struct.pack_into("<f", rounded, piece.score_at, round(piece.score * _SCORE_STEPS) / _SCORE_STEPS)
    return bytes(rounded)
