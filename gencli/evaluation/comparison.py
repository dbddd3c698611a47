"""Two models on the same pairs: by how much one is better, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from gencli.evaluation.measures import Array, Difference, paired_difference
from gencli.evaluation.pairs import PairsScore


@dataclass(frozen=True)
class Comparison:
    """By how much `model` is better than `against` on a file: figures with half their 95 % interval.

    Shares are differences from -1 to 1; "chrf" is of each answer alone, from -100 to 100, and averaged.
    """

    file: str
    model: str
    against: str
    figures: dict[str, Difference]

    def record(self) -> dict[str, object]:
        """Return the comparison as one JSON object."""
        parts = {**asdict(self), **{name: asdict(value) for name, value in self.figures.items()}}
        return {"event": "comparison", **{name: value for name, value in parts.items() if name != "figures"}}

    def lines(self) -> list[str]:
        """Return a sentence for each figure."""
        return [self._line(name, value) for name, value in self.figures.items()]

    def _line(self, name: str, found: Difference) -> str:
        factor = 1 if name == "chrf" else 100
        value, margin = factor * found.value, factor * found.margin
        points = f"points of {_WORDS[name]}"
        if abs(value) <= margin:
            return f"no difference that these pairs can show: {value:+.1f} ± {margin:.1f} {points}"
        return (
            f"{self.model} {'better' if value > 0 else 'worse'} by {abs(value):.1f} ± {margin:.1f} {points}"
        )


_WORDS = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "exact_match": "exact match", "token_f1": "token F1",
    "chrf": "chrF, answer by answer",
}  # fmt: skip


def compare(first: PairsScore, second: PairsScore) -> Comparison:
    """Return by how much the second model is better than the first on the same pairs, in the same order."""
    if first.task == second.task == "label":
        names = sorted({one.pair.completion for one in first.judged} | _said(first) | _said(second))
        figures = {
            "accuracy": paired_difference(_exact(first), _exact(second)),
            "macro_f1": paired_difference(_counts(first, names), _counts(second, names), _macro_f1),
        }
    else:
        figures = {"exact_match": paired_difference(_exact(first), _exact(second))}
        if first.task == second.task:
            figures["token_f1"] = paired_difference(_right(first), _right(second))
            figures["chrf"] = paired_difference(_chrf(first), _chrf(second))
    return Comparison(first.file, second.model, first.model, figures)


def _exact(score: PairsScore) -> Array:
    return np.array([float(one.exact) for one in score.judged])


def _right(score: PairsScore) -> Array:
    return np.array([one.right for one in score.judged])


def _chrf(score: PairsScore) -> Array:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return np.array(
        [metric.sentence_score(one.said, [one.pair.completion.strip()]).score for one in score.judged]
    )


def _said(score: PairsScore) -> set[str]:
    return {one.said for one in score.judged}


def _counts(score: PairsScore, names: list[str]) -> Array:
    """Return for each pair and label [N, L, 2] whether it was hit, and how often it was true or said."""
    numbers = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(score.judged), len(names), 2))
    for row, one in enumerate(score.judged):
        truth, said = numbers[one.pair.completion], numbers[one.said]
        counts[row, truth, 0] = truth == said
        counts[row, truth, 1] += 1
        counts[row, said, 1] += 1
    return counts


def _macro_f1(means: Array) -> Array:
    hits, either = means[..., 0], means[..., 1]
    scores = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    return np.asarray(scores.sum(axis=-1) / np.maximum(1, (either > 0).sum(axis=-1)))
