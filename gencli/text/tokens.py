"""A corpus as one long row of ids on disk, made once for each pair of corpus and tokenizer.

    cache/<key>/tokens.bin    the ids, little-endian, 2 bytes each (4 for a vocabulary over 65536)
    cache/<key>/tokens.json   counts, and the sha256 of tokens.bin

The key is made of both digests, so a changed corpus or tokenizer never meets old ids.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gencli.errors import CorpusError, MachineError, UsageError
from gencli.storage import digest_of, remove_folder, staged_folder, sweep_staging, told_as_machine_error
from gencli.text.word_rows import WordRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gencli.text.corpus import Corpus
    from gencli.text.documents import Document
    from gencli.text.tokenizer import Ids, Tokenizer

_FORMAT = 1
_BATCH_BYTES = 1 << 20
WORTH_WORDS = 16 << 20  # bytes of a corpus from which on WordRows saves more than it costs
_IDS, _COUNTS = "tokens.bin", "tokens.json"
_LARGEST_HEADER = 1 << 20
_SEARCHED_AT_ONCE = 1 << 16

Range = tuple[int, int]
Row = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Every document of a corpus as `<s>` ids `</s>`, one after the other.

    `ids` is memory-mapped; `sources` has the number of tokens of each CORPUS argument, in order. `text_bytes`
    are the UTF-8 bytes of the texts, `source_bytes` with the line ends that close each. `notes` say what
    reading the corpus mended or dropped. `corpus_digest` is `Corpus.digest()`, taken before it was read.
    """

    ids: Row
    sources: tuple[int, ...]
    documents: int
    text_bytes: int
    source_bytes: int
    notes: tuple[str, ...]
    corpus_digest: str

    @property
    def end_bytes(self) -> float:
        """Return the mean number of bytes of the corpus that a `</s>` stands for."""
        return (self.source_bytes - self.text_bytes) / self.documents


@dataclass(frozen=True)
class _Header:
    """What tokens.json says."""

    format: int
    item_bytes: int
    sources: list[int]
    documents: int
    text_bytes: int
    source_bytes: int
    notes: list[str]
    sha256: str


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    cache: Path,
    *,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
) -> TokenFile:
    """Return the corpus as ids, from the folder `cache` if they are there and whole, else made now.

    Memory stays constant. `progress` is told the bytes of the corpus that are done, as they grow; it is not
    called when the cache has the ids. Raises CorpusError from reading, MachineError when the disk refuses.
    """
    corpus_digest = corpus.digest()
    key = hashlib.sha256(f"{_FORMAT} {corpus_digest} {tokenizer.digest}".encode()).hexdigest()
    folder = cache / key[:32]
    found = _opened(folder, corpus_digest)
    if found is not None:
        return found
    sweep_staging(cache)
    if folder.exists():
        with told_as_machine_error(folder):
            remove_folder(folder)
    with staged_folder(folder) as staging:
        header = _write_ids(staging / _IDS, corpus, tokenizer, threads, progress)
        (staging / _COUNTS).write_text(json.dumps(asdict(header)), "utf-8")
    made = _opened(folder, corpus_digest)
    if made is None:
        raise MachineError(
            "what was just written can't be read back", where=str(folder), hint="check the disk"
        )
    return made


def held_out(tokens: TokenFile, tokenizer: Tokenizer, *, share: float) -> tuple[list[Range], list[Range]]:
    """Return where to train and where to validate, as [start, end) token positions.

    The last `share` of each CORPUS argument's bytes is held out, from the first document that starts there; an
    argument without one is cut inside its last document. It goes by bytes so that it is what the training of
    a tokenizer leaves out. Raises UsageError for a share that is not from 0 to below 1.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(f"a share of {share} can't be held out", hint="choose one from 0 to below 1")
    sizes = np.array([len(piece) for piece in tokenizer.piece_bytes])
    training: list[Range] = []
    validation: list[Range] = []
    end = 0
    for count in tokens.sources:
        start, end = end, end + count
        cut = end - _ids_of_last(tokens.ids[start:end], share, sizes)
        cut = _first_document(tokens.ids, cut, end, tokenizer.bos)
        training += [(start, cut)] if cut > start else []
        validation += [(cut, end)] if end > cut else []
    return training, validation


def _ids_of_last(ids: Row, share: float, sizes: npt.NDArray[np.int64]) -> int:
    """Return how many of the last ids have at most this share of the bytes; `sizes` are those of each id."""
    parts = [slice(at, at + _SEARCHED_AT_ONCE) for at in range(0, len(ids), _SEARCHED_AT_ONCE)]
    sums = [int(sizes[ids[part]].sum()) for part in parts]
    most, held, count = share * sum(sums), 0, 0
    for part in reversed(parts):
        heaped = held + sizes[ids[part]][::-1].cumsum()
        fitting = int(np.searchsorted(heaped, most, side="right"))
        if fitting:
            held, count = int(heaped[fitting - 1]), count + fitting
        if fitting < len(heaped):
            break
    return count if held else 0


def _first_document(ids: Row, cut: int, end: int, bos: int) -> int:
    """Return the first position from `cut` on at which a document starts, or `cut` if there is none."""
    for start in range(cut, end, _SEARCHED_AT_ONCE):
        is_start = ids[start : min(start + _SEARCHED_AT_ONCE, end)] == bos
        if is_start.any():
            return start + int(is_start.argmax())
    return cut


def _opened(folder: Path, corpus_digest: str) -> TokenFile | None:
    """Return the token file in `folder`, or None if it is missing, damaged or of another format."""
    path = folder / _IDS
    try:
        if (folder / _COUNTS).stat().st_size > _LARGEST_HEADER:
            return None
        header = _Header(**json.loads((folder / _COUNTS).read_bytes()))
        if header.format != _FORMAT or path.stat().st_size != sum(header.sources) * header.item_bytes:
            return None
        if digest_of(path) != header.sha256:
            return None
        ids = np.memmap(path, dtype=f"<u{header.item_bytes}", mode="r")
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return TokenFile(
        ids,
        tuple(header.sources),
        header.documents,
        header.text_bytes,
        header.source_bytes,
        tuple(header.notes),
        corpus_digest,
    )


def _write_ids(
    path: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    threads: int,
    progress: Callable[[int], None] | None,
) -> _Header:
    """Write every document's ids to `path` and return what is to be known about them."""
    item_bytes = 2 if tokenizer.vocabulary <= 1 << 16 else 4
    row_of = _encoder(corpus, tokenizer, threads)
    sources = [0] * corpus.arguments
    documents = text_bytes = source_bytes = 0
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for batch in _read_ahead(_batches(corpus)):
            row = row_of([document.text for document in batch]).astype(f"<u{item_bytes}").tobytes()
            file.write(row)
            digest.update(row)
            sources[batch[0].source] += len(row) // item_bytes
            documents += len(batch)
            text_bytes += sum(document.text_bytes for document in batch)
            source_bytes += sum(document.nbytes for document in batch)
            if progress is not None:
                progress(source_bytes)
    if not documents:
        raise CorpusError("there is no text in the corpus")
    notes = list(corpus.tally.notes())
    return _Header(
        _FORMAT, item_bytes, sources, documents, text_bytes, source_bytes, notes, digest.hexdigest()
    )


def _encoder(corpus: Corpus, tokenizer: Tokenizer, threads: int) -> Callable[[list[str]], Ids]:
    """Return what makes a row of ids of texts: for a large corpus what is faster but takes time to compile."""
    if corpus.nbytes >= WORTH_WORDS:
        return WordRows(tokenizer, threads=threads).row
    return lambda texts: _row(tokenizer.encode_arrays(texts, threads=threads), tokenizer.bos, tokenizer.eos)


def _row(arrays: list[Ids], bos: int, eos: int) -> Ids:
    """Return bos, ids, eos for each array, as one row."""
    first, last = np.array([bos], np.int32), np.array([eos], np.int32)
    return np.concatenate([part for ids in arrays for part in (first, ids, last)])


def _read_ahead(batches: Iterator[list[Document]]) -> Iterator[list[Document]]:
    """Yield the batches, each read by another thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _batches(corpus: Corpus) -> Iterator[list[Document]]:
    """Yield the documents in lists of about _BATCH_BYTES, each from one source."""
    batch: list[Document] = []
    held = 0
    for document in corpus.documents():
        if held >= _BATCH_BYTES or (batch and batch[0].source != document.source):
            yield batch
            batch, held = [], 0
        batch.append(document)
        held += document.nbytes
    if batch:
        yield batch
