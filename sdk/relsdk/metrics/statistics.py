"""Means over queries with their intervals, and rank correlation.

Shape letters: N rows (pairs), Q queries, S bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from relsdk.errors import InputError
from relsdk.metrics._checks import (
    Float,
    Gain,
    Int,
    UndefinedMetricError,
    as_relevances,
    as_scores,
    as_vector,
    not_empty,
    same_length,
)
from relsdk.metrics.ranking import ndcg

# Resampled indices held at once: 32 MiB of int64.
_BOOTSTRAP_BLOCK = 1 << 22
# Fewer queries tell nothing of how much queries differ.
LEAST_QUERIES = 5


@dataclass(frozen=True, slots=True)
class QueryMean:
    """The mean of a metric over the queries where it has a value.

    Attributes:
        value: The mean, every query with the same weight.
        queries_used: How many queries it is the mean of.
        queries_skipped: How many have no value or too few documents.
        query_ids: The queries used, in the order in which they first appear.
        values: The metric of each of them, for `bootstrap_interval` and `paired_bootstrap`.
    """

    value: float
    queries_used: int
    queries_skipped: int
    query_ids: tuple[Hashable, ...]
    values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the mean and the counts, without the queries."""
        return {
            "value": self.value,
            "queries_used": self.queries_used,
            "queries_skipped": self.queries_skipped,
        }


def mean_over_queries(
    metric: Callable[[Float, Float], float],
    query_ids: Sequence[Hashable],
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    min_documents: int = 1,
    several_levels: bool = False,
) -> QueryMean:
    """Return the mean of a metric over queries, skipping and counting those where it has no value.

    Which queries are skipped depends on the labels alone, so two systems scored on the same pairs give values
    of the same queries in the same order.

    Args:
        metric: Takes the labels (n,) and scores (n,) of one query, raises `UndefinedMetricError` for no
            value.
        query_ids: (N,) the query of each pair; pairs of one query need not be neighbours.
        labels: (N,) levels >= 0.
        scores: (N,) higher is better.
        min_documents: Skip queries with fewer documents.
        several_levels: Skip queries whose documents all have the same label: no order of them is wrong.

    Returns:
        The mean and the number of queries behind it.

    Raises:
        UndefinedMetricError: No query is left.
    """
    relevances = as_relevances(labels)
    values = as_scores(scores, len(relevances))
    names, groups = _group_rows(query_ids)
    same_length(len(query_ids), len(relevances), "query ids", "labels")
    used: list[Hashable] = []
    results: list[float] = []
    for name, rows in zip(names, groups, strict=True):
        if len(rows) < min_documents or (several_levels and np.ptp(relevances[rows]) == 0):
            continue
        try:
            results.append(metric(relevances[rows], values[rows]))
        except UndefinedMetricError:
            continue
        used.append(name)
    if not used:
        raise UndefinedMetricError(
            f"none of {len(names)} queries can be measured: too few documents or levels"
        )
    return QueryMean(float(np.mean(results)), len(used), len(names) - len(used), tuple(used), tuple(results))


def mean_ndcg(
    query_ids: Sequence[Hashable],
    labels: ArrayLike,
    scores: ArrayLike,
    k: int | None = 10,
    gain: Gain = "exponential",
    *,
    min_documents: int = 1,
    several_levels: bool = True,
) -> QueryMean:
    """Return the mean nDCG@k over queries; see `ndcg` for the formula and `mean_over_queries` for the rest.

    Args:
        query_ids: (N,) the query of each pair.
        labels: (N,) levels >= 0.
        scores: (N,) higher is better.
        k: How many ranks count; None for all.
        gain: "exponential" or "linear".
        min_documents: Skip queries with fewer documents.
        several_levels: Skip queries whose documents all have the same label, where nDCG is always 1.

    Returns:
        The mean and the number of queries behind it.

    Raises:
        UndefinedMetricError: No query is left.
    """
    return mean_over_queries(
        lambda query_labels, query_scores: ndcg(query_labels, query_scores, k, gain),
        query_ids,
        labels,
        scores,
        min_documents=min_documents,
        several_levels=several_levels,
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, or another figure, and its confidence interval.

    Attributes:
        mean: The mean of the values (of the differences, for `paired_bootstrap`).
        low: Lower end.
        high: Upper end.
        level: How often such an interval holds the true value, for instance 0.95.
    """

    mean: float
    low: float
    high: float
    level: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def bootstrap_interval(
    values: ArrayLike, seed: int, n: int = 1000, level: float = 0.95, weights: ArrayLike | None = None
) -> Interval:
    """Return the percentile bootstrap interval of a mean (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: (Q,) one value for each query.
        seed: Seed of the resampling; the same seed gives the same interval.
        n: Number of resamples S.
        level: Share of the resampled means inside the interval, in (0, 1).
        weights: (Q,) above 0, for instance of how many pairs each value is the mean: the mean is then over
            all of the pairs, while whole queries are drawn. None weighs all queries the same.

    Returns:
        The mean and the interval.

    Raises:
        UndefinedMetricError: There are no values.
        InputError: A weight is not above 0, there is not one for each value, or `n` or `level` is no such.
    """
    sample = as_vector(values, "values")
    not_empty(sample)
    if n < 1 or not 0.0 < level < 1.0:
        raise InputError(f"n is {n} and level {level}; n must be at least 1 and level between 0 and 1")
    weight = None if weights is None else as_vector(weights, "weights")
    if weight is not None:
        same_length(len(sample), len(weight), "values", "weights")
        if weight.min() <= 0.0:
            raise InputError(f"a weight is {weight.min():g}; all must be above 0")
    generator = np.random.default_rng(seed)
    block = max(1, _BOOTSTRAP_BLOCK // len(sample))
    means = np.concatenate(
        [
            _means(sample, weight, generator.integers(0, len(sample), (min(block, n - start), len(sample))))
            for start in range(0, n, block)
        ]
    )  # (S,)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    (mean,) = _means(sample, weight, np.arange(len(sample))[None])
    return Interval(float(mean), float(low), float(high), level)


def _means(sample: Float, weight: Float | None, rows: Int) -> Float:
    """Return the mean of the values in each row of (S, Q) places: (S,)."""
    if weight is None:
        return np.asarray(sample[rows].mean(axis=1), dtype=np.float64)
    return np.asarray((sample * weight)[rows].sum(axis=1) / weight[rows].sum(axis=1), dtype=np.float64)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, seed: int, n: int = 1000, level: float = 0.95) -> Interval:
    """Return the mean of a - b over queries and its bootstrap interval, resampling queries.

    Pairing by query removes the spread between easy and hard queries (Sakai 2006, "Evaluating evaluation
    metrics based on the bootstrap"). An interval that does not hold 0 is a difference.

    Args:
        a: (Q,) the metric of one system, one value for each query.
        b: (Q,) of the other, for the same queries in the same order.
        seed: Seed of the resampling.
        n: Number of resamples S.
        level: Share of the resampled differences inside the interval, in (0, 1).

    Returns:
        The mean difference and the interval.
    """
    left, right = as_vector(a, "values of a"), as_vector(b, "values of b")
    same_length(len(left), len(right), "values of a", "values of b")
    return bootstrap_interval(left - right, seed, n, level)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation: Pearson's correlation of the ranks (Spearman 1904).

    Args:
        a: (N,) numbers, for instance labels.
        b: (N,) numbers, for instance scores.

    Returns:
        A value in [-1, 1]; equal numbers share the mean of their ranks.

    Raises:
        UndefinedMetricError: Fewer than two rows, or one side is constant.
    """
    left, right = as_vector(a, "first values"), as_vector(b, "second values")
    same_length(len(left), len(right), "first values", "second values")
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        raise UndefinedMetricError("Spearman's correlation needs two different values on both sides")
    ranks = np.stack([_average_ranks(left), _average_ranks(right)])  # (2, N)
    ranks -= ranks.mean(axis=1, keepdims=True)
    covariance, variances = ranks[0] @ ranks[1], (ranks**2).sum(axis=1)
    return float(np.clip(covariance / np.sqrt(variances[0] * variances[1]), -1.0, 1.0))


def population_stability_index(reference: ArrayLike, current: ArrayLike) -> float:
    """Return how far a distribution has moved: sum over groups of (c - r) * ln(c / r).

    It is the divergence of Jeffreys (1946) between the shares r and c of each group. Scorecards are watched
    by it, with 0.1 and 0.25 as the marks of a small and a large change (Siddiqi 2006, "Credit Risk
    Scorecards"). Half a case is added to each group (Krichevsky & Trofimov 1981), so that an empty one gives
    a number. Without a change it is about (1/n + 1/m) times a chi-squared variable of B - 1 degrees of
    freedom for n and m cases in B groups (Yurdakul & Naranjo 2020): 0.03 is noise where 1,000 meet 500 in
    ten groups.

    Args:
        reference: (B,) how many cases each group had.
        current: (B,) how many it has now.

    Returns:
        A value of at least 0; 0 for equal shares.

    Raises:
        UndefinedMetricError: One side has no case.
    """
    before, now = as_vector(reference, "counts of the reference"), as_vector(current, "current counts")
    same_length(len(before), len(now), "counts of the reference", "current counts")
    if (before < 0).any() or (now < 0).any():
        raise InputError("a count is below 0; pass how many cases each group has")
    if not before.sum() or not now.sum():
        raise UndefinedMetricError("one side has no case; there is nothing to compare")
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (before, now)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def population_stability_interval(reference: ArrayLike, current: ArrayLike, level: float = 0.95) -> Interval:
    """Return `population_stability_index` and how much the shares themselves may have moved.

    The index is about (1/n + 1/m) times a chi-squared variable of B - 1 degrees of freedom whose
    noncentrality is the index of the true shares divided by (1/n + 1/m) (Yurdakul & Naranjo 2020, beyond the
    case without a change). The ends are the true indices under which what was seen is just not too large, or
    too small, by the normal approximation of Sankaran (1959, "On the non-central chi-square distribution"),
    which is off by less than 0.01 of probability at the lower end. The cases have to be independent.

    Args:
        reference: (B,) how many cases each group had.
        current: (B,) how many it has now.
        level: How often the interval holds the true index, in (0, 1).

    Returns:
        The index as `mean`, which the noise makes larger than it is, and the interval, which may lie below
        it. A lower end of 0 means no more than noise.

    Raises:
        UndefinedMetricError: See `population_stability_index`.
    """
    index = population_stability_index(reference, current)
    before, now = as_vector(reference, "counts of the reference"), as_vector(current, "current counts")
    scale = 1 / before.sum() + 1 / now.sum()
    freedom = int(((before > 0) | (now > 0)).sum()) - 1
    if freedom == 0:
        return Interval(index, 0.0, 0.0, level)
    ends = [
        scale * _noncentrality(index / scale, freedom, share) for share in ((1 + level) / 2, (1 - level) / 2)
    ]
    return Interval(index, ends[0], ends[1], level)


def _noncentrality(value: float, freedom: int, share: float) -> float:
    """Return under which noncentrality P(chi-squared <= value) is a share; 0 where it is below it at 0."""
    low, high = 0.0, 1.0
    if _noncentral_chi_squared(value, freedom, low) < share:
        return 0.0
    while _noncentral_chi_squared(value, freedom, high) > share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        above = _noncentral_chi_squared(value, freedom, middle) > share
        low, high = (middle, high) if above else (low, middle)
    return high


def _noncentral_chi_squared(value: float, freedom: int, noncentrality: float) -> float:
    """Return P(X <= value) by Sankaran's normal approximation."""
    k, shift = freedom, noncentrality
    h = 1 - 2 * (k + shift) * (k + 3 * shift) / (3 * (k + 2 * shift) ** 2)
    p = (k + 2 * shift) / (k + shift) ** 2
    m = (h - 1) * (1 - 3 * h)
    mean = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    deviation = h * math.sqrt(2 * p) * (1 + 0.5 * m * p)
    return 0.5 * (1 + math.erf(((value / (k + shift)) ** h - mean) / (deviation * math.sqrt(2))))


def _group_rows(query_ids: Sequence[Hashable]) -> tuple[list[Hashable], list[Int]]:
    """Return the distinct queries by first appearance, and the rows of each."""
    codes: dict[Hashable, int] = {}
    code = np.array([codes.setdefault(query, len(codes)) for query in query_ids], dtype=np.int64)  # (N,)
    order = np.argsort(code, kind="stable")
    starts = np.cumsum(np.bincount(code, minlength=len(codes)))[:-1]
    return list(codes), (np.split(order, starts) if len(codes) else [])


def _average_ranks(values: Float) -> Float:
    """Return ranks from 1, equal values sharing their mean rank: (N,)."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(sizes) - (sizes - 1) / 2.0)[group], dtype=np.float64)
