"""What a fine-tuned model answers with: free text, or one of the labels that it was taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gencli.errors import ModelError, PairsError

if TYPE_CHECKING:
    from gencli.text.pairs import PairsFile

ANSWER, LABEL = "answer", "label"
MOST_LABELS = 10_000
# Answers under any name are labels if there are so many pairs, so many of each answer, none longer.
PAIRS_TO_TELL, PAIRS_A_LABEL, LONGEST_LABEL = 100, 20, 60


@dataclass(frozen=True)
class Task:
    """The kind, "answer" or "label", and the sorted labels, none for answers."""

    kind: str = ANSWER
    labels: tuple[str, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Tell whether every right answer is one of the labels."""
        return self.kind == LABEL

    def record(self) -> dict[str, object]:
        """Return the task as gencli.json has it."""
        return {"kind": self.kind, "labels": list(self.labels)}


def task_in(lineage: Mapping[str, object], where: str) -> Task:
    """Return the task that a model's lineage names, answers if it names none. Raises ModelError for nonsense."""
    found = lineage.get("task")
    if found is None:
        return Task()
    kind, labels = (found.get("kind"), found.get("labels", [])) if isinstance(found, dict) else (None, None)
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        _refuse(where)
    if kind not in (ANSWER, LABEL) or bool(labels) != (kind == LABEL) or len(set(labels)) != len(labels):
        _refuse(where)
    return Task(kind, tuple(labels))


def _refuse(where: str) -> NoReturn:
    raise ModelError("this is not how gencli describes a task", where=where, hint="copy the model again")


def detected_task(files: Sequence[PairsFile], asked: str = "auto") -> Task:
    """Return the task that pairs are for, or the one that is asked for.

    A field called "label" or the like makes labels of its values, unless most of them occur once; so do few
    short answers that come again and again. Raises PairsError if labels are asked for and are none.
    """
    counts = Counter(pair.completion for file in files for pair in file.pairs)
    if asked == ANSWER or (asked == "auto" and not _are_labels(files, counts)):
        return Task()
    reason = ""
    if len(counts) == 1:
        reason = f"all examples have the same label, {next(iter(counts))!r}: there is nothing to tell apart"
    elif len(counts) > MOST_LABELS:
        reason = f"{len(counts):,} different labels are more than gencli tells apart ({MOST_LABELS:,})"
    elif len(counts) == counts.total() > 2:
        reason = f"each of the {len(counts):,} examples has a label of its own: none can be learned"
    if reason:
        raise PairsError(reason, where=str(files[0].path), hint="--task answer teaches free answers")
    return Task(LABEL, tuple(sorted(counts)))


def _are_labels(files: Sequence[PairsFile], counts: Counter[str]) -> bool:
    kinds, pairs = len(counts), counts.total()
    if not 2 <= kinds <= MOST_LABELS:
        return False
    if all(file.labels for file in files):
        return kinds <= max(pairs / 2, 10)
    short = all(len(label) <= LONGEST_LABEL and "\n" not in label for label in counts)
    return short and pairs >= PAIRS_TO_TELL and kinds * PAIRS_A_LABEL <= pairs
