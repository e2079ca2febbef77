"""Metrics of an order, for one list of documents at a time.

Every function takes the documents of one list as `labels` and `scores`, in any order, and sorts by descending
score. Three rules hold throughout:

* **Ties.** Documents of equal score have no order. DCG, nDCG, precision, recall and the reciprocal rank
  return the mean over all orders of the tied documents, in closed form (McSherry & Najork 2008, "Computing
  information retrieval performance measures efficiently in the presence of tied scores"). So the result is
  deterministic and does not depend on the order of the input; trec_eval instead breaks ties by document id.
  `average_precision` moves its threshold over a tie in one step, as scikit-learn does.
* **Not retrieved.** A document that was judged but not retrieved has score -inf: it counts among what could
  have been found and never in the list. `align_run` builds such an input from qrels and a run.
* **Undefined.** With nothing to find (or no rows) the value does not exist: `UndefinedMetricError`.

Shape letters: N documents, G groups of equal score, best first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from relsdk.errors import InputError
from relsdk.metrics._checks import (
    Float,
    Gain,
    Int,
    UndefinedMetricError,
    as_cutoff,
    as_relevances,
    as_scores,
    as_vector,
    not_empty,
)


def ndcg(labels: ArrayLike, scores: ArrayLike, k: int | None = None, gain: Gain = "exponential") -> float:
    """Return the DCG of the order by `scores` over the DCG of the best order.

    nDCG@k = DCG@k / IDCG@k, with DCG@k = sum over ranks i = 1..k of gain(s_i) / log2(i + 1), and gain(s) =
    2^s - 1 (exponential; Burges et al. 2005, "Learning to rank using gradient descent") or s (linear;
    Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", in the discount that
    trec_eval uses). A tie contributes its mean gain at each of its ranks, as in scikit-learn's `ndcg_score`.

    Args:
        labels: (N,) graded relevances >= 0.
        scores: (N,) higher is better; -inf is not retrieved.
        k: How many ranks count; None for all.
        gain: "exponential" or "linear".

    Returns:
        A value in [0, 1].

    Raises:
        UndefinedMetricError: No label is above 0.
    """
    relevances = as_relevances(labels)
    values = as_scores(scores, len(relevances))
    gains = _gains(relevances, gain)  # (N,)
    discounts = _discounts(len(gains), k)  # (N,)
    ideal = float(np.sort(gains)[::-1] @ discounts)
    if ideal == 0.0:
        raise UndefinedMetricError("nDCG needs a document with a label above 0")
    group, sizes = _tie_groups(values)  # (N,), (G,)
    retrieved = group >= 0
    mean_gains = np.bincount(group[retrieved], gains[retrieved], len(sizes)) / sizes  # (G,)
    ends = np.cumsum(sizes)
    cumulative = np.concatenate([[0.0], np.cumsum(discounts)])  # (N+1,)
    actual = float(mean_gains @ (cumulative[ends] - cumulative[ends - sizes]))
    return min(actual / ideal, 1.0)  # rounding may pass 1 by one unit in the last place


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the precision-recall step function, as scikit-learn's `average_precision_score`.

    AP = sum over thresholds n of (R_n - R_{n-1}) P_n, one threshold for each distinct score, without
    interpolation (Manning, Raghavan & Schütze 2008, "Introduction to information retrieval", section 8.4).
    Without ties it is the mean of the precision at the rank of each positive; a positive that was not
    retrieved adds 0.

    Args:
        labels: (N,) 0 or 1 (or booleans).
        scores: (N,) higher is better; -inf is not retrieved.

    Returns:
        A value in [0, 1].

    Raises:
        UndefinedMetricError: No label is 1.
    """
    positive = as_vector(labels, "labels")
    values = as_scores(scores, len(positive))
    if not np.isin(positive, (0.0, 1.0)).all():
        raise InputError(
            "average precision needs labels of 0 and 1; compare the levels with a threshold first"
        )
    if positive.sum() == 0:
        raise UndefinedMetricError("average precision needs a positive")
    relevant, sizes = _relevant_by_group(positive, values)  # (G,), (G,)
    precision = np.cumsum(relevant) / np.cumsum(sizes)  # (G,)
    return float(precision @ relevant / positive.sum())


@dataclass(frozen=True, slots=True)
class LevelPrecision:
    """Average precision of "at least this level" for levels 1, 2 and 3, and their mean."""

    ap_1: float
    ap_2: float
    ap_3: float
    mean_ap: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def mean_ap_over_levels(labels: ArrayLike, scores: ArrayLike) -> LevelPrecision:
    """Return AP for level >= 1, >= 2 and >= 3, and the mean of the three.

    Each threshold turns the levels into a yes or no, so the mean rewards the whole order 3 > 2 > 1 > 0, not
    one cut of it. See `average_precision`.

    Args:
        labels: (N,) levels 0-3.
        scores: (N,) higher is better.

    Returns:
        The three values and their mean.

    Raises:
        UndefinedMetricError: No label reaches 3.
    """
    levels = as_relevances(labels)
    ap_1, ap_2, ap_3 = (average_precision(levels >= k, scores) for k in (1, 2, 3))
    return LevelPrecision(ap_1, ap_2, ap_3, (ap_1 + ap_2 + ap_3) / 3.0)


def precision_at_k(labels: ArrayLike, scores: ArrayLike, k: int, min_level: float = 1) -> float:
    """Return the share of the first k ranks whose label is at least `min_level`.

    P@k = |relevant in the first k| / k, where a list shorter than k is filled up with misses (as trec_eval's
    P).

    Args:
        labels: (N,) levels >= 0.
        scores: (N,) higher is better; -inf is not retrieved.
        k: How many ranks count.
        min_level: The lowest label that counts as relevant.

    Returns:
        A value in [0, 1]; with ties the mean over their orders.
    """
    relevant = as_relevances(labels) >= min_level  # (N,)
    not_empty(relevant)
    return _expected_hits(relevant, as_scores(scores, len(relevant)), k) / k


def recall_at_k(labels: ArrayLike, scores: ArrayLike, k: int, min_level: float = 1) -> float:
    """Return the share of the relevant documents that the first k ranks hold.

    R@k = |relevant in the first k| / |relevant| (as trec_eval's recall). Give documents that were not
    retrieved the score -inf, so that they count below the line.

    Args:
        labels: (N,) levels >= 0.
        scores: (N,) higher is better; -inf is not retrieved.
        k: How many ranks count.
        min_level: The lowest label that counts as relevant.

    Returns:
        A value in [0, 1]; with ties the mean over their orders.

    Raises:
        UndefinedMetricError: No label reaches `min_level`.
    """
    relevant = as_relevances(labels) >= min_level  # (N,)
    values = as_scores(scores, len(relevant))
    if not relevant.any():
        raise UndefinedMetricError(f"recall needs a document with a label of at least {min_level:g}")
    return _expected_hits(relevant, values, k) / float(relevant.sum())


def reciprocal_rank(
    labels: ArrayLike, scores: ArrayLike, k: int | None = None, min_level: float = 1
) -> float:
    """Return 1 / rank of the first relevant document (Voorhees 1999, "The TREC-8 question answering track").

    In a tie of n documents, r of them relevant, that starts after rank s, the first relevant one is at place
    j with probability C(n - j, r - 1) / C(n, r); the value is the mean of 1 / (s + j).

    Args:
        labels: (N,) levels >= 0.
        scores: (N,) higher is better; -inf is not retrieved.
        k: A relevant document below this rank counts 0; None for the whole list.
        min_level: The lowest label that counts as relevant.

    Returns:
        A value in [0, 1]; 0.0 when no relevant document was retrieved.

    Raises:
        UndefinedMetricError: No label reaches `min_level`.
    """
    relevant = as_relevances(labels) >= min_level  # (N,)
    values = as_scores(scores, len(relevant))
    cutoff = as_cutoff(k, len(relevant))
    if not relevant.any():
        raise UndefinedMetricError(f"reciprocal rank needs a document with a label of at least {min_level:g}")
    hits, sizes = _relevant_by_group(relevant.astype(np.float64), values)  # (G,), (G,)
    if not hits.any():
        return 0.0
    first = int(np.argmax(hits > 0))
    before, n, r = int(sizes[:first].sum()), int(sizes[first]), int(hits[first])
    places = np.arange(1, n - r + 2)  # where the first relevant one of the tie can be
    stay = (n - places[:-1] - r + 1) / (n - places[:-1])  # P(place j + 1) / P(place j)
    chance = r / n * np.concatenate([[1.0], np.cumprod(stay)])
    ranks = before + places
    return float((chance / ranks)[ranks <= cutoff].sum())


def align_run(judged: Mapping[str, int], retrieved: Mapping[str, float]) -> tuple[Float, Float]:
    """Turn one query's qrels and run into the labels and scores that the functions above take.

    Args:
        judged: Document id to label. A retrieved document that is not judged has label 0, and a label below 0
            (TREC's spam) counts as 0.
        retrieved: Document id to score. A judged document that was not retrieved has score -inf.

    Returns:
        Labels (N,) and scores (N,), over the documents of either.
    """
    documents = list(dict.fromkeys([*judged, *retrieved]))
    labels = np.array([max(judged.get(document, 0), 0) for document in documents], dtype=np.float64)
    scores = np.array([retrieved.get(document, -np.inf) for document in documents], dtype=np.float64)
    return labels, scores


def _gains(relevances: Float, gain: Gain) -> Float:
    if gain == "exponential":
        if relevances.max(initial=0.0) > 64:
            raise InputError(f"label {relevances.max():g} is too large for gain 2^s - 1; pass gain='linear'")
        return np.asarray(np.exp2(relevances) - 1.0, dtype=np.float64)
    if gain == "linear":
        return relevances
    raise InputError(f"gain is {gain!r}; allowed are 'exponential' and 'linear'")


def _discounts(rows: int, k: int | None) -> Float:
    """Return 1 / log2(rank + 1) for each rank, 0 below rank k: (N,)."""
    discounts = 1.0 / np.log2(np.arange(2, rows + 2, dtype=np.float64))
    discounts[as_cutoff(k, rows) :] = 0.0
    return np.asarray(discounts, dtype=np.float64)


def _tie_groups(scores: Float) -> tuple[Int, Int]:
    """Return each document's group of equal score, -1 when not retrieved (N,), and the sizes (G,)."""
    retrieved = scores > -np.inf
    group = np.full(len(scores), -1, dtype=np.int64)
    _, group[retrieved], sizes = np.unique(-scores[retrieved], return_inverse=True, return_counts=True)
    return group, sizes.astype(np.int64)


def _relevant_by_group(relevant: Float, scores: Float) -> tuple[Float, Int]:
    """Return the number of relevant documents (G,) and of documents (G,) in each group of equal score."""
    group, sizes = _tie_groups(scores)
    retrieved = group >= 0
    counts = np.bincount(group[retrieved], relevant[retrieved], len(sizes))
    return np.asarray(counts, dtype=np.float64), sizes


def _expected_hits(relevant: ArrayLike, scores: Float, k: int) -> float:
    """Return how many relevant documents the first k ranks hold, on average over the orders of ties."""
    hits, sizes = _relevant_by_group(np.asarray(relevant, dtype=np.float64), scores)
    before = np.cumsum(sizes) - sizes
    taken = np.clip(as_cutoff(k, len(scores)) - before, 0, sizes)  # ranks of each group inside the first k
    return float((hits * taken / sizes).sum())
