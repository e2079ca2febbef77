"""What it costs to answer only where one is sure.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from relsdk.metrics._checks import as_levels, as_probabilities, not_empty

__all__ = ["Abstention", "abstention_curve"]

_CONFIDENCES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Abstention:
    """One point of the curve.

    Attributes:
        confidence: Levels of at least this probability are answers; see `Relevance.level_at`.
        unanswered: Share of the pairs without an answer.
        accuracy: Share of the answers that are the label; NaN without an answer.
    """

    confidence: float
    unanswered: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, None for NaN (JSON has no NaN)."""
        accuracy = None if math.isnan(self.accuracy) else self.accuracy
        return {"confidence": self.confidence, "unanswered": self.unanswered, "accuracy": accuracy}


def abstention_curve(
    labels: ArrayLike, probabilities: ArrayLike, confidences: Sequence[float] = _CONFIDENCES
) -> list[Abstention]:
    """Return how many pairs stay unanswered at each confidence, and how often the answers are right.

    It is the risk-coverage curve of selective classification (El-Yaniv & Wiener 2010, "On the foundations of
    noise-free selective classification"; Geifman & El-Yaniv 2017): the risk is 1 - accuracy, the coverage
    1 - unanswered. Where probabilities are calibrated, the accuracy at a confidence is at least that.

    Args:
        labels: (N,) levels 0-3.
        probabilities: (N, L) rows sum to 1; the most probable level is the answer, a tie goes to the lower.
        confidences: From 0 to 1.

    Raises:
        InputError: No rows, or labels or probabilities that are none.
    """
    truth = as_levels(labels)
    not_empty(truth)
    matrix = as_probabilities(probabilities, len(truth))  # (N, L)
    best, right = matrix.max(axis=1), matrix.argmax(axis=1) == truth
    points = []
    for confidence in confidences:
        answered = best >= confidence
        accuracy = float(right[answered].mean()) if answered.any() else math.nan
        points.append(Abstention(confidence, 1 - float(answered.mean()), accuracy))
    return points
