"""The promises that labelled pairs can support, and what is said of the others.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import Promise, promise_precision
from relsdk.errors import CalibrationError

__all__ = ["Target", "check_targets", "try_promises"]

Target = tuple[int, float]  # a level, and the precision that hits of it or above are to have


def check_targets(targets: Sequence[Target], confidence: float) -> None:
    """Refuse what cannot be promised before a model has run; raises `InputError`."""
    for level, precision in targets:
        Promise.check(level, precision, confidence)


def try_promises(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    queries: Sequence[str],
    targets: Sequence[Target],
    confidence: float,
    weights: NDArray[np.float64] | None = None,
) -> tuple[tuple[Promise, ...], tuple[str, ...]]:
    """Return the promises that can be made, and of each other target why it cannot.

    Args:
        probabilities: (N, L) by the calibration that searches will use.
        labels: (N,) levels.
        queries: N of them.
        targets: What is wanted.
        confidence: Of each promise.
        weights: (N,) how many pairs of the population each one stands for; by default all the same.
    """
    promises, refusals = [], []
    for level, precision in dict.fromkeys(targets):
        shares = np.clip(probabilities[:, level:].sum(axis=1), 0.0, 1.0)  # sums are rounded
        try:
            promise = promise_precision(
                shares,
                labels,
                queries,
                level=level,
                precision=precision,
                confidence=confidence,
                weights=weights,
            )
            promises.append(promise)
        except CalibrationError as error:
            refusals.append(str(error))
    return tuple(promises), tuple(refusals)
