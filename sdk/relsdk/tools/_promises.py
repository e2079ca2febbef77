"""The promises that labelled pairs can support, what is said of others, and whether other pairs keep them.

Shape letters: N pairs, n of them at or above a threshold, Q queries, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import Promise, promise_precision
from relsdk.errors import CalibrationError
from relsdk.metrics import bootstrap_interval, reliability_curve
from relsdk.metrics.statistics import LEAST_QUERIES

__all__ = ["PromiseCheck", "Target", "check_promise", "check_targets", "shares_of_level", "try_promises"]

Target = tuple[int, float]  # a level, and the precision that hits of it or above are to have


@dataclass(frozen=True, slots=True)
class PromiseCheck:
    """What labelled pairs say of a promise that was made by others.

    Attributes:
        promise: The promise.
        pairs: n: how many lie at or above its threshold.
        queries: Of how many queries these are.
        share: n / N.
        precision: How many of these have the level or a higher one, as a share; None without any.
        interval: 95 % of `precision`, low and high end, from queries drawn with replacement; not narrower
            than Wilson's of as many pairs as the variance between queries is worth, since a bootstrap of
            pairs that are all right has no width. None of fewer than 5 queries.
        recall: Share of the pairs of the level or above that lie at or above the threshold; None without any.
    """

    promise: Promise
    pairs: int
    queries: int
    share: float
    precision: float | None
    interval: tuple[float, float] | None
    recall: float | None

    @property
    def verdict(self) -> Literal["kept", "broken", "not distinguishable"]:
        """Whether the interval lies above what is promised, below it, or on both sides."""
        if self.interval is not None and self.interval[0] >= self.promise.precision:
            return "kept"
        if self.interval is not None and self.interval[1] < self.promise.precision:
            return "broken"
        return "not distinguishable"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, with the verdict."""
        return {
            "promise": self.promise.to_dict(),
            "pairs": self.pairs,
            "queries": self.queries,
            "share": self.share,
            "precision": self.precision,
            "interval": self.interval and list(self.interval),
            "recall": self.recall,
            "verdict": self.verdict,
        }


def check_promise(
    promise: Promise, probabilities: NDArray[np.float64], labels: NDArray[np.int64], queries: Sequence[str]
) -> PromiseCheck:
    """Measure a promise on pairs that had no part in it.

    Args:
        promise: Made by other pairs, of the calibration that gives the probabilities.
        probabilities: (N, L) of each pair, at least one.
        labels: (N,) levels.
        queries: N of them; pairs of one query are not independent.
    """
    right = labels >= promise.level  # (N,)
    above = shares_of_level(probabilities, promise.level) >= promise.threshold
    chosen = right[above].astype(np.float64)  # (n,)
    own = np.unique(np.asarray(queries, dtype=np.str_)[above], return_inverse=True)[1]
    counts = np.bincount(own)  # (Q,)
    precision, interval = None, None
    if len(chosen):
        precision = float(chosen.mean())
    if precision is not None and len(counts) >= LEAST_QUERIES:
        drawn = bootstrap_interval(np.bincount(own, chosen) / counts, 0, weights=counts)
        (score,) = reliability_curve(np.full(len(chosen), precision), chosen, own.tolist(), bins=1)
        interval = min(drawn.low, score.low), max(drawn.high, score.high)
    return PromiseCheck(
        promise=promise,
        pairs=len(chosen),
        queries=len(counts),
        share=float(above.mean()),
        precision=precision,
        interval=interval,
        recall=float(above[right].mean()) if right.any() else None,
    )


def shares_of_level(probabilities: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    """Return P(level >= `level`) of (N, L) level probabilities: (N,)."""
    shares = np.clip(probabilities[:, level:].sum(axis=1), 0.0, 1.0)  # sums are rounded
    return np.asarray(shares, dtype=np.float64)


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
        try:
            promise = promise_precision(
                shares_of_level(probabilities, level),
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
