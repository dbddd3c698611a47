"""Tables of scores: what they cost, how right, how sure, what was taken for what, and which model is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gencli.evaluation.pairs import AnswerFigures, LabelFigures, PairsScore, RecallFigures
from gencli.evaluation.text import TextScore

if TYPE_CHECKING:
    from gencli.evaluation.comparison import Comparison
    from gencli.ui import Screen

LARGEST_MATRIX = 8  # labels
MOST_CONFUSIONS = 10


def show_scores(
    scores: Sequence[TextScore | PairsScore], comparisons: Sequence[Comparison], screen: Screen
) -> None:
    """Print a table for each kind of score, then what they are made of."""
    several = len({score.model for score in scores}) > 1
    texts = [score for score in scores if isinstance(score, TextScore)]
    pairs = [score for score in scores if isinstance(score, PairsScore)]
    kinds = {kind: [score for score in pairs if score.task == kind] for kind in ("label", "answer")}
    if texts:
        _text_table(texts, screen, several=several)
    if kinds["label"]:
        _label_table(kinds["label"], screen, several=several)
    if kinds["answer"]:
        _answer_table(kinds["answer"], screen, several=several)
    if pairs:
        _coverage_table(pairs, screen, several=several)
    for score in kinds["label"]:
        _confusions(score, screen, several=several)
    if comparisons:
        rows = [
            (f"{comparison.file}, against {comparison.against}:", line)
            for comparison in comparisons
            for line in comparison.lines()
        ]
        screen.table("\nDifference, with its 95 % interval", rows)


def _name(score: TextScore | PairsScore, several: bool) -> tuple[str, ...]:
    return (score.file, score.model) if several else (score.file,)


def _head(several: bool) -> tuple[str, ...]:
    return ("file", "model") if several else ("file",)


def _text_table(scores: Sequence[TextScore], screen: Screen, *, several: bool) -> None:
    rows = [
        (
            *_name(score, several), f"{score.bits_per_byte:.4f}", f"{score.loss:.4f}", f"{score.tokens:,}",
            f"{score.bytes:,}",
        )
        for score in scores
    ]  # fmt: skip
    screen.table("Scores", rows, (*_head(several), "bits/byte", "loss", "tokens", "bytes"))


def _label_table(scores: Sequence[PairsScore], screen: Screen, *, several: bool) -> None:
    rows = []
    for score in scores:
        figures = score.figures
        assert isinstance(figures, LabelFigures)
        rows.append(
            (
                *_name(score, several), f"{score.pairs:,}", f"{figures.accuracy:.1%}", f"{figures.model_accuracy:.1%}",
                f"{figures.macro_f1:.4f}", f"{figures.ece_before:.3f}", f"{figures.ece_after:.3f}",
                f"{figures.temperature:.2f}", f"{score.bits_per_byte:.4f}",
            )
        )  # fmt: skip
    head = (
        "pairs",
        "accuracy",
        "without n-grams",
        "macro-F1",
        "ECE",
        "calibrated",
        "temperature",
        "bits/byte",
    )
    screen.table("Scores", rows, (*_head(several), *head))
    _tell_calibration(scores, screen)


def _answer_table(scores: Sequence[PairsScore], screen: Screen, *, several: bool) -> None:
    rows = []
    for score in scores:
        figures = score.figures
        assert isinstance(figures, AnswerFigures)
        rows.append(
            (
                *_name(score, several), f"{score.pairs:,}", f"{score.exact_match:.1%}", f"{figures.token_f1:.4f}",
                f"{figures.chrf:.1f}", f"{figures.bleu:.1f}", f"{figures.ece_before:.3f}",
                f"{figures.ece_after:.3f}", f"{score.bits_per_byte:.4f}",
            )
        )  # fmt: skip
        if isinstance(figures, RecallFigures):
            rows.append(
                (
                    *_name(score, several)[:-1], "by itself", "", f"{figures.own_exact_match:.1%}",
                    f"{figures.own_token_f1:.4f}", f"{figures.own_chrf:.1f}", f"{figures.own_bleu:.1f}",
                    "", "", "",
                )
            )  # fmt: skip
    head = ("pairs", "exact match", "token F1", "chrF", "BLEU", "ECE", "calibrated", "bits/byte")
    screen.table("Scores", rows, (*_head(several), *head))
    for score in scores:
        if isinstance(score.figures, RecallFigures):
            screen.note(f"{score.figures.recalled:.1%} of the answers to {score.file} were looked up", "dim")
    _tell_calibration(scores, screen)


def _tell_calibration(scores: Sequence[PairsScore], screen: Screen) -> None:
    for by in dict.fromkeys(score.figures.calibrated_by for score in scores):
        screen.note(f"calibrated by {by}", "dim")


def _coverage_table(scores: Sequence[PairsScore], screen: Screen, *, several: bool) -> None:
    """Print how right the surest share of the answers is."""
    shares = [point.coverage for point in scores[0].coverage]
    rows = [
        (
            *_name(score, several), "right", *(f"{point.right:.1%}" for point in score.coverage),
            f"{score.aurc:.4f}",
        )
        for score in scores
    ]  # fmt: skip
    least = [
        (*_name(score, several), "confidence", *(f"{point.confidence:.3f}" for point in score.coverage), "")
        for score in scores
    ]
    both = [row for pair in zip(rows, least, strict=True) for row in pair]
    head = (*_head(several), "answered", *(f"{share:.0%}" for share in shares), "AURC")
    screen.table("\nHow right, if it answers only what it is surest of", both, head)


def _confusions(score: PairsScore, screen: Screen, *, several: bool) -> None:
    """Print the matrix of a few labels; of many, what was confused most often."""
    figures = score.figures
    assert isinstance(figures, LabelFigures)
    where = ", ".join(_name(score, several))
    if len(figures.labels) <= LARGEST_MATRIX:
        rows = [(name, *row) for name, row in zip(figures.labels, figures.confusion, strict=True)]
        screen.table(f"\nTruth (row) and answer (column): {where}", rows, ("", *figures.labels))
        return
    counted = [
        (count, figures.labels[truth], figures.labels[said])
        for truth, row in enumerate(figures.confusion)
        for said, count in enumerate(row)
        if truth != said and count
    ]
    counted.sort(key=lambda one: -one[0])
    rows = [(count, truth, "taken for", said) for count, truth, said in counted[:MOST_CONFUSIONS]]
    if rows:
        screen.table(f"\nConfused most often: {where}", rows)
