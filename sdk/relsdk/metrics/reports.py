"""Summaries that evaluation prints and stores: of levels with probabilities, of order, of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS, most_probable_level
from relsdk.metrics import grading
from relsdk.metrics._checks import Float, Int, UndefinedMetricError, as_levels, as_probabilities
from relsdk.metrics.calibration_error import DebiasedEce, ReliabilityBin, debiased_ece, reliability_curve
from relsdk.metrics.ranking import (
    align_run,
    average_precision,
    ndcg,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)
from relsdk.metrics.statistics import LEAST_QUERIES, QueryMean, mean_ndcg, mean_over_queries

# A list of one or two documents is nearly always in order: it says little about the model.
MIN_DOCUMENTS = 3


@dataclass(frozen=True, slots=True)
class GradeReport:
    """Metrics of predicted levels and probabilities; NaN where a value does not exist.

    Attributes:
        pairs: Number of pairs.
        accuracy: Share of exact levels.
        qwk: Quadratic weighted kappa.
        ece: Expected calibration error, 15 bins of the top probability.
        brier: Brier score, the sum form in [0, 2].
        rps: Ranked probability score in [0, 1].
        log_loss: In nats.
        debiased_ece: `ece` without the noise of the labels; None where no queries were given, or fewer than
            5: they do not tell how much queries differ.
        debiased_ece_at_least: The same of P(level >= 1), P(level >= 2) and P(level = 3).
    """

    pairs: int
    accuracy: float
    qwk: float
    ece: float
    brier: float
    rps: float
    log_loss: float
    debiased_ece: DebiasedEce | None = None
    debiased_ece_at_least: tuple[DebiasedEce, DebiasedEce, DebiasedEce] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, None for NaN (JSON has no NaN); debiased errors only where there are."""
        fields = _without_nan(asdict(self))
        del fields["debiased_ece"], fields["debiased_ece_at_least"]
        if self.debiased_ece is not None and self.debiased_ece_at_least is not None:
            fields["debiased_ece"] = self.debiased_ece.to_dict()
            fields["debiased_ece_at_least"] = [one.to_dict() for one in self.debiased_ece_at_least]
        return fields


def grade_report(
    labels: ArrayLike, probabilities: ArrayLike, queries: Sequence[Hashable] | None = None
) -> GradeReport:
    """Measure level probabilities against labels; the predicted level is the most probable one.

    Args:
        labels: (N,) levels 0-3.
        probabilities: (N, 4) rows sum to 1.
        queries: (N,) the query of each pair: also debias the calibration errors, with intervals over queries.

    Returns:
        The report.

    Raises:
        InputError: No rows, lengths that differ, or labels or probabilities that are none.
    """
    truth = as_levels(labels)
    matrix = as_probabilities(probabilities, len(truth))  # (N, L)
    predicted = most_probable_level(matrix)
    told = queries is not None and len(set(queries)) >= LEAST_QUERIES
    top, at_least = _debiased(truth, matrix, queries) if queries is not None and told else (None, None)
    return GradeReport(
        pairs=len(truth),
        accuracy=grading.accuracy(truth, predicted),
        qwk=_or_nan(lambda: grading.quadratic_weighted_kappa(truth, predicted)),
        ece=grading.expected_calibration_error(truth, matrix),
        brier=grading.brier_score(truth, matrix),
        rps=grading.ranked_probability_score(truth, matrix),
        log_loss=grading.log_loss(truth, matrix),
        debiased_ece=top,
        debiased_ece_at_least=at_least,
    )


def reliability_curves(
    labels: ArrayLike, probabilities: ArrayLike, queries: Sequence[Hashable]
) -> tuple[tuple[ReliabilityBin, ...], ...]:
    """Compare probabilities with labels bin by bin, in the bins of the calibration errors of `grade_report`.

    Args:
        labels: (N,) levels 0-3.
        probabilities: (N, 4) rows sum to 1.
        queries: (N,) the query of each pair.

    Returns:
        Four curves: of the most probable level, of P(level >= 1), of P(level >= 2), of P(level = 3).

    Raises:
        InputError: No rows, lengths that differ, or labels or probabilities that are none.
    """
    truth = as_levels(labels)
    matrix = as_probabilities(probabilities, len(truth))  # (N, L)
    return tuple(reliability_curve(*side, queries) for side in _sides(truth, matrix))


def _sides(truth: Int, matrix: Float) -> Iterator[tuple[Float, NDArray[np.bool_]]]:
    """Yield (N,) confidence and outcome of the most probable level, and of level >= 1, 2, 3."""
    yield matrix.max(axis=1), most_probable_level(matrix) == truth
    for level in range(1, NUM_LEVELS):
        yield matrix[:, level:].sum(axis=1), truth >= level


def _debiased(
    truth: Int, matrix: Float, queries: Sequence[Hashable]
) -> tuple[DebiasedEce, tuple[DebiasedEce, DebiasedEce, DebiasedEce]]:
    top, first, second, third = (debiased_ece(*side, queries) for side in _sides(truth, matrix))
    return top, (first, second, third)


@dataclass(frozen=True, slots=True)
class RankingReport:
    """Metrics of an order; NaN where a value does not exist (no pair of that level, no usable query).

    Attributes:
        pairs: Number of pairs.
        queries: Number of distinct queries.
        ap_1: Average precision of level >= 1 over all pairs pooled, whatever their query.
        ap_2: The same for level >= 2.
        ap_3: The same for level 3.
        mean_ap: Mean of the three.
        ndcg_at_10: Mean over queries, gain 2^s - 1.
        ndcg_at_10_linear: Mean over the same queries, gain s.
        queries_used: Queries behind nDCG: at least three documents and more than one level.
        mrr: Mean reciprocal rank of the first document of at least `mrr_min_level`.
        mrr_min_level: What counts as relevant for `mrr`.
        mrr_queries_used: Queries behind `mrr`: those with such a document and at least three documents.
    """

    pairs: int
    queries: int
    ap_1: float
    ap_2: float
    ap_3: float
    mean_ap: float
    ndcg_at_10: float
    ndcg_at_10_linear: float
    queries_used: int
    mrr: float
    mrr_min_level: int
    mrr_queries_used: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, None for NaN (JSON has no NaN)."""
        return _without_nan(asdict(self))


def ranking_report(
    query_ids: Sequence[Hashable], labels: ArrayLike, scores: ArrayLike, *, mrr_min_level: int = 1
) -> RankingReport:
    """Measure the order that scores give to labelled pairs.

    Args:
        query_ids: (N,) the query of each pair; pairs of one query need not be neighbours.
        labels: (N,) levels 0-3.
        scores: (N,) higher is better.
        mrr_min_level: The lowest level that counts as relevant for the reciprocal rank.

    Returns:
        The report.

    Raises:
        InputError: No rows, lengths that differ, or labels or scores that are none.
    """
    levels = as_levels(labels)
    exponential = _mean_or_none(lambda: mean_ndcg(query_ids, levels, scores, 10, min_documents=MIN_DOCUMENTS))
    linear = _mean_or_none(
        lambda: mean_ndcg(query_ids, levels, scores, 10, "linear", min_documents=MIN_DOCUMENTS)
    )
    first = partial(reciprocal_rank, min_level=mrr_min_level)
    mrr = _mean_or_none(
        lambda: mean_over_queries(first, query_ids, levels, scores, min_documents=MIN_DOCUMENTS)
    )
    ap_1, ap_2, ap_3 = (_or_nan(partial(average_precision, levels >= k, scores)) for k in (1, 2, 3))
    return RankingReport(
        pairs=len(levels),
        queries=len(set(query_ids)),
        ap_1=ap_1,
        ap_2=ap_2,
        ap_3=ap_3,
        mean_ap=(ap_1 + ap_2 + ap_3) / 3.0,
        ndcg_at_10=exponential.value,
        ndcg_at_10_linear=linear.value,
        queries_used=exponential.queries_used,
        mrr=mrr.value,
        mrr_min_level=mrr_min_level,
        mrr_queries_used=mrr.queries_used,
    )


@dataclass(frozen=True, slots=True)
class RunReport:
    """Metrics of a run against judgements, each a mean over the measured queries.

    A document is relevant when its label is at least 1. Documents of equal score have no order: the value is
    the mean over their orders, where trec_eval orders them by id.

    Attributes:
        queries: Judged queries with a relevant document: those that are measured.
        queries_not_in_run: How many of them the run does not have; each counts 0.
        queries_without_relevant: Judged queries that are left out, because there is nothing to find.
        queries_not_judged: Queries of the run that are left out.
        ndcg_at_10: Gain 2^s - 1.
        ndcg_at_10_linear: Gain s, as trec_eval's ndcg_cut_10.
        average_precision: trec_eval's map.
        recall_at_100: trec_eval's recall_100.
        precision_at_10: trec_eval's P_10.
        mrr: trec_eval's recip_rank.
    """

    queries: int
    queries_not_in_run: int
    queries_without_relevant: int
    queries_not_judged: int
    ndcg_at_10: float
    ndcg_at_10_linear: float
    average_precision: float
    recall_at_100: float
    precision_at_10: float
    mrr: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def run_report(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]) -> RunReport:
    """Measure a run against judgements.

    Args:
        qrels: Query id to document id to label.
        run: Query id to document id to score.

    Raises:
        InputError: No query has a relevant document, or no query of the run is judged.
    """
    measured = [query for query, judged in qrels.items() if max(judged.values(), default=0) > 0]
    if not measured:
        raise InputError(f"none of {len(qrels):,} judged queries has a document with a label above 0")
    if not run.keys() & qrels.keys():
        raise InputError(
            f"none of the run's {len(run):,} queries is judged; run and qrels need the same query ids "
            f"({next(iter(run), None)!r} and {next(iter(qrels))!r})"
        )
    metrics = (
        partial(ndcg, k=10),
        partial(ndcg, k=10, gain="linear"),
        lambda labels, scores: average_precision(labels > 0, scores),
        partial(recall_at_k, k=100),
        partial(precision_at_k, k=10),
        reciprocal_rank,
    )
    values = []
    for query in measured:
        labels, scores = align_run(qrels[query], run.get(query, {}))
        values.append([metric(labels, scores) for metric in metrics])
    return RunReport(
        len(measured),
        sum(query not in run for query in measured),
        len(qrels) - len(measured),
        sum(query not in qrels for query in run),
        *np.mean(values, axis=0).tolist(),
    )


def _or_nan(metric: Callable[[], float]) -> float:
    try:
        return metric()
    except UndefinedMetricError:
        return math.nan


def _mean_or_none(metric: Callable[[], QueryMean]) -> QueryMean:
    """Return the mean, or NaN over no queries."""
    try:
        return metric()
    except UndefinedMetricError:
        return QueryMean(math.nan, 0, 0, (), ())


def _without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in fields.items()}
