"""The curve from what tells how sure an answer may be to how right it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gencli.evaluation.measures import Array
from gencli.model.confidence import OFFSETS, SLOPES, sigmoid


def fit_answers(means: Array, right: Array) -> tuple[float, float]:
    """Return (slope, offset) of the logistic curve to how right answers are.

    It is of mean log-probabilities [N], or of how alike prompts are [N].
    The curve of least cross-entropy; it never falls. Newton's method; the targets are drawn a little towards
    a half, as in Platt 1999, so that the curve stays finite where all answers are right.
    """
    count = len(means)
    targets = (right * count + 0.5) / (count + 1)
    inputs = np.stack([means, np.ones(count)], axis=1)
    curve = np.array([0.0, math.log(targets.mean() / (1 - targets.mean()))])
    for _ in range(100):
        expected = sigmoid(inputs @ curve)
        gradient = inputs.T @ (expected - targets) + [1e-3 * curve[0], 0.0]
        hessian = (inputs.T * (expected * (1 - expected))) @ inputs + np.diag([1e-3, 1e-9])
        step = np.linalg.solve(hessian, gradient)
        curve = curve - step / max(1.0, float(np.abs(step).max()) / 5)
        if float(np.abs(step).max()) < 1e-9:
            break
    if curve[0] < 0:
        curve = np.array([0.0, math.log(targets.mean() / (1 - targets.mean()))])
    return float(np.clip(curve[0], *SLOPES)), float(np.clip(curve[1], *OFFSETS))


def curve_of(slope: float, offset: float) -> Callable[[Array], Array]:
    """Return the curve from mean log-probabilities to confidences."""
    return lambda means: sigmoid(slope * means + offset)
