"""A threshold that keeps a precision, tested on labelled pairs of which those of one query belong together.

Fixed-sequence testing of Learn then Test (Angelopoulos et al. 2021, "Learn then Test: Calibrating predictive
algorithms to achieve risk control", section 4): thresholds are tested from the strictest on, each for the
hypothesis that its precision is too low, and the last one before the first that is not rejected is kept.
Which thresholds these are depends on the scores alone, so no test is chosen by its result.

Shape letters: N pairs, n of them at or above a threshold, Q queries, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, log, sqrt
from statistics import NormalDist, median
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.calibration._beta import regularised_incomplete_beta, student_quantile
from relsdk.calibration._models import Float, Int, as_scores
from relsdk.errors import CalibrationError, InputError
from relsdk.metrics.statistics import LEAST_QUERIES
from relsdk.records import Promise

__all__ = ["promise_precision"]

# Each threshold takes in so many more pairs than the one before.
_STEP = 1.05
# A test that fails by bad luck in one of ten cases has enough pairs.
_POWER = NormalDist().inv_cdf(0.9)
# The precision of fewer is luck.
_LEAST_SEEN = 20
# Nobody labels more for this.
_MOST_PAIRS = 1_000_000


class _Seen(NamedTuple):
    """What the best pairs show; so many of them as `design_effect` say as much as one independent pair."""

    pairs: int
    queries: int
    precision: float
    design_effect: float


def promise_precision(
    probabilities: ArrayLike,
    labels: ArrayLike,
    queries: Sequence[str],
    *,
    level: int,
    precision: float,
    confidence: float = 0.95,
    weights: ArrayLike | None = None,
) -> Promise:
    """Return the lowest threshold that can be shown to keep a precision.

    A precision is tested by the exact binomial test with the number of pairs that would say as much if all
    were independent (Korn & Graubard 1998, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data"): n divided by the design effect, the variance of the
    precision between queries over that of n independent pairs, and adjusted by Student's t for few queries.

    Args:
        probabilities: (N,) P(level >= `level`) of each pair. Only their order matters to the test.
        labels: (N,) levels 0-3.
        queries: N texts or names; pairs of one query are not independent.
        level: 1, 2 or 3; pairs of this level or above count as right.
        precision: Wanted, between 0 and 1.
        confidence: Wanted, between 0.5 and 1.
        weights: (N,) how many pairs of the population each one stands for, above 0; by default all the same.

    Raises:
        CalibrationError: The pairs cannot support the promise; the message says what it would take.
        InputError: An argument is out of range, or shapes differ.
    """
    Promise.check(level, precision, confidence)
    values, right = as_scores(probabilities), np.asarray(labels) >= level  # (N,)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not values.shape == right.shape == weight.shape == (len(queries),) or not len(values):
        raise InputError(
            f"{values.shape} probabilities, {right.shape} labels, {weight.shape} weights, "
            f"{len(queries)} queries; the same number of each is needed, and at least one"
        )
    if (values < 0).any() or (values > 1).any():
        raise InputError(
            f"probabilities from {values.min():g} to {values.max():g}; allowed are those from 0 to 1"
        )
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        raise InputError("weights must be finite numbers above 0")
    order = np.argsort(-values, kind="stable")
    values, right, weight = values[order], right[order], weight[order]
    query = np.unique(np.asarray(queries, dtype=np.str_), return_inverse=True)[1][order]

    kept: _Seen | None = None
    for count in _counts(values, _first_count(precision, confidence, len(values))):
        seen = _look_at(right[:count], weight[:count], query[:count])
        if seen.queries < LEAST_QUERIES:  # nothing is tested yet: it depends on no label
            continue
        if _p_value(seen, precision, confidence) > 1.0 - confidence:
            break
        kept = seen
    if kept is None:
        counts = _counts(values, max(ceil(log(1.0 - confidence) / log(precision)), _LEAST_SEEN))
        views = [_look_at(right[:count], weight[:count], query[:count]) for count in counts]
        best = max(views, key=lambda seen: seen.precision)
        effect = median(seen.design_effect for seen in views)
        needed = _pairs_needed(values, weight, effect, precision, confidence)
        raise CalibrationError(
            f"{len(values):,} labelled pairs cannot show a precision of {precision:g} for level >= {level} "
            f"with confidence {confidence:g}; {_what_it_takes(best, precision, needed)}"
        )
    above = slice(kept.pairs)
    return Promise(
        level=level,
        precision=precision,
        confidence=confidence,
        threshold=float(values[kept.pairs - 1]),
        recall=float((weight * right)[above].sum() / (weight * right).sum()),
        reached=kept.precision,
        pairs=kept.pairs,
        queries=kept.queries,
    )


def _first_count(precision: float, confidence: float, pairs: int) -> int:
    """Return how many pairs the strictest threshold that is tested takes.

    A few show nothing, and among many the precision is lower: an eighth of the pairs. Where that is more than
    shows a precision half way between the wanted one and 1, it is the geometric mean of both: less than an
    eighth may be right, and still more pairs show smaller differences. It is never less than shows a
    precision with a quarter of the errors allowed.
    """
    half, least = (_pairs_to_show((1.0 - precision) * part, precision, confidence) for part in (0.5, 0.25))
    eighth = pairs / 8.0
    return ceil(max(least, min(eighth, sqrt(half * eighth))))


def _pairs_to_show(error: float, precision: float, confidence: float) -> float:
    """Return how many independent pairs with that share of errors pass with probability 0.9.

    By the normal approximation of both binomial distributions (Fleiss et al. 2003, section 2.2).
    """
    gap = 1.0 - error - precision
    if gap <= 0.0:
        return inf
    spread = NormalDist().inv_cdf(confidence) * sqrt(precision * (1.0 - precision))
    return ((spread + _POWER * sqrt(error * (1.0 - error))) / gap) ** 2


def _counts(values: Float, first: int) -> list[int]:
    """Return how many pairs lie at or above each threshold: (T,), rising, whole ties.

    Args:
        values: (N,) falling.
        first: How many for the first threshold, at least.
    """
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    counts, wanted = [], min(first, len(values))
    while wanted <= len(values):
        counts.append(int(ends[np.searchsorted(ends, wanted)]))
        wanted = ceil(counts[-1] * _STEP)
    if counts[-1] < len(values):
        counts.append(len(values))
    return counts


def _look_at(right: NDArray[np.bool_], weight: Float, query: Int) -> _Seen:
    """Estimate the precision of n pairs and its design effect, with queries as clusters."""
    n, total = len(right), weight.sum()
    precision = float((weight * right).sum() / total)
    deviations = np.bincount(query, weight * (right - precision) / total)  # (Q,), 0 of the queries not here
    groups = len(np.unique(query))
    # What the weights alone cost (Kish 1965), also where no pair is wrong and nothing varies.
    effect = float(n * (weight**2).sum() / total**2)
    if groups > 1 and 0.0 < precision < 1.0:
        variance = groups / (groups - 1) * (deviations**2).sum()
        effect = max(effect, float(variance / (precision * (1.0 - precision) / n)))
    return _Seen(n, groups, precision, effect)


def _p_value(seen: _Seen, precision: float, confidence: float) -> float:
    """Return how probable a precision as high as the one seen is where the true one is `precision`."""
    if seen.precision == 0.0:
        return 1.0
    z = NormalDist().inv_cdf(confidence)
    adjustment = z / student_quantile(confidence, seen.queries - 1) if z else 1.0  # both are 0 at 0.5
    effective = seen.pairs / seen.design_effect * adjustment**2
    right = seen.precision * effective
    return regularised_incomplete_beta(precision, right, effective - right + 1.0)


def _what_it_takes(best: _Seen, precision: float, needed: int | None) -> str:
    said = f"the {best.pairs:,} pairs with the highest probability reach {best.precision:.3f}"
    if best.precision > precision:
        said += f", which pairs of {best.queries:,} queries may do by luck"
    if needed is None:
        return f"{said}, and more pairs would hardly do: ask for a lower precision, or take a better model"
    return f"{said}; it would take about {_round_up(needed):,} pairs like these"


def _pairs_needed(
    values: Float, weight: Float, effect: float, precision: float, confidence: float
) -> int | None:
    """Return with how many pairs the first threshold would probably pass; None where none would do.

    The precision of the best of so many pairs is what their probabilities say: their labels are few.
    """
    total = len(values)
    expected = np.cumsum(values * weight) / np.cumsum(weight)  # (N,)
    needed = ceil(1.2 * total)  # so many as there are were not enough, though by luck it may seem so
    while needed < _MOST_PAIRS:
        count = _first_count(precision, confidence, needed)
        place = min(ceil(count / needed * total), total) - 1
        if count >= _pairs_to_show(1.0 - float(expected[place]), precision, confidence) * effect:
            return needed
        needed = ceil(needed * _STEP)
    return None


def _round_up(count: int) -> int:
    """Return a number with two digits that matter."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return ceil(count / unit) * unit
