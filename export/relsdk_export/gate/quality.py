"""Compare how variants rank and grade labelled pairs with fp32, before a bundle moves into place.

Half of the queries fit each variant's calibration, the other half measure it: levels are compared as they
would be served.

Shape letters: N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk.levels import most_probable_level
from relsdk.metrics import (
    UndefinedMetricError,
    mean_ap_over_levels,
    mean_ndcg,
    paired_bootstrap,
    quadratic_weighted_kappa,
    ranking_report,
)
from relsdk.models.open import open_pair_model
from relsdk.records import LabelledPair

__all__ = ["QualityBudget", "fitting_half", "measure_quality"]

# Of the queries, with replacement.
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class QualityBudget:
    """The losses against fp32 that a variant may have.

    Attributes:
        mean_ap: Mean AP over levels, in [0, 1].
        ndcg_at_10: nDCG@10, in [0, 1].
        level_changes: Share of pairs with another level, each variant with its own calibration.
    """

    mean_ap: float = 0.003
    ndcg_at_10: float = 0.002
    level_changes: float = 0.015


@dataclass(frozen=True, slots=True)
class _VariantQuality:
    """A variant against fp32 on labelled pairs; losses are fp32 minus variant.

    A measure that the pairs do not support, such as nDCG with two documents a query, is None and not judged.

    Attributes:
        variant: Its name.
        pairs: Pairs that were measured.
        ap_1: Average precision of level >= 1.
        ap_2: Average precision of level >= 2.
        ap_3: Average precision of level 3.
        mean_ap: Mean AP over levels.
        mean_ap_loss: What fp32 has more.
        ndcg_at_10: Exponential gain, queries with at least three documents and more than one level.
        ndcg_at_10_loss: What fp32 has more.
        qwk: Quadratic weighted kappa of the levels.
        level_changes: Share of pairs whose level differs from fp32's.
        intervals: By name of a budget, the 90 % interval of the loss over queries drawn with replacement:
            what other pairs could have shown.
        over_budget: One line for each budget that is exceeded; empty when the variant passes.
    """

    variant: str
    pairs: int
    ap_1: float | None
    ap_2: float | None
    ap_3: float | None
    mean_ap: float | None
    mean_ap_loss: float | None
    ndcg_at_10: float | None
    ndcg_at_10_loss: float | None
    qwk: float
    level_changes: float
    intervals: dict[str, tuple[float, float]]
    over_budget: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)


def measure_quality(
    bundle: Path, variants: Sequence[str], pairs: Sequence[LabelledPair], budget: QualityBudget
) -> list[_VariantQuality]:
    """Compare variants with the bundle's fp32 file.

    Args:
        bundle: A bundle with a variant "fp32".
        variants: Names to compare; "fp32" may be among them.
        pairs: N labelled pairs of at least ten queries.
        budget: What may be lost.

    Returns:
        One record a variant, in the order of `variants`.

    Raises:
        InputError: There are too few queries to split.
        CalibrationError: The pairs cannot support a calibration.
    """
    fitted_on = fitting_half(pairs)  # (N,) bool
    labels = np.array([int(pair.level) for pair in pairs])
    queries = [pair.query for pair, fitted in zip(pairs, fitted_on, strict=True) if not fitted]
    graded = {name: _grade(bundle, name, pairs, labels, fitted_on) for name in {"fp32", *variants}}
    comparison = _Comparison(queries, labels[~fitted_on], *graded["fp32"])
    return [comparison.quality_of(name, *graded[name], budget) for name in variants]


class _Comparison:
    """Measures variants against fp32 on the pairs that no calibration was fitted on.

    Args:
        queries: (N,) query of each pair.
        labels: (N,) its level.
        scores: (N,) what fp32 says.
        levels: (N,) what fp32 says.
    """

    def __init__(
        self,
        queries: Sequence[str],
        labels: NDArray[np.int64],
        scores: NDArray[np.float32],
        levels: NDArray[np.int64],
    ) -> None:
        self.queries, self.labels, self.scores, self.levels = queries, labels, scores, levels
        self.order = ranking_report(queries, labels, scores)
        self.draws = _resample(queries)

    def quality_of(
        self, name: str, scores: NDArray[np.float32], levels: NDArray[np.int64], budget: QualityBudget
    ) -> _VariantQuality:
        """Return what a variant loses."""
        order = ranking_report(self.queries, self.labels, scores)
        changed = levels != self.levels
        losses = {
            "mean_ap": self.order.mean_ap - order.mean_ap,
            "ndcg_at_10": self.order.ndcg_at_10 - order.ndcg_at_10,
            "level_changes": float(changed.mean()),
        }
        intervals = self._intervals(scores, changed)
        # What is undefined for fp32 the pairs do not support; what is for the variant alone does not pass.
        exact = {"mean_ap": self.order.mean_ap, "ndcg_at_10": self.order.ndcg_at_10}
        unsupported = [measure for measure, value in exact.items() if not math.isfinite(value)]
        for measure in unsupported:
            del losses[measure], intervals[measure]
        return _VariantQuality(
            variant=name,
            pairs=len(self.labels),
            ap_1=_or_none(order.ap_1),
            ap_2=_or_none(order.ap_2),
            ap_3=_or_none(order.ap_3),
            mean_ap=_or_none(order.mean_ap),
            mean_ap_loss=losses.get("mean_ap"),
            ndcg_at_10=_or_none(order.ndcg_at_10),
            ndcg_at_10_loss=losses.get("ndcg_at_10"),
            qwk=quadratic_weighted_kappa(self.labels, levels),
            level_changes=losses["level_changes"],
            intervals=intervals,
            over_budget=over_budget(losses, intervals, budget),
        )

    def _intervals(
        self, scores: NDArray[np.float32], changed: NDArray[np.bool_]
    ) -> dict[str, tuple[float, float]]:
        lost = [
            _mean_ap(self.labels[rows], self.scores[rows]) - _mean_ap(self.labels[rows], scores[rows])
            for rows in self.draws
        ]
        return {
            "mean_ap": _interval(lost),
            "ndcg_at_10": _ndcg_interval(self.queries, self.labels, self.scores, scores),
            "level_changes": _interval([float(changed[rows].mean()) for rows in self.draws]),
        }


def over_budget(
    losses: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], budget: QualityBudget
) -> tuple[str, ...]:
    """Return one line for each loss above its budget, with what other pairs could have shown."""
    problems = []
    for name, loss in losses.items():
        limit = getattr(budget, name)
        if loss <= limit:  # a NaN does not pass
            continue
        line = f"{name}: {loss:.4f} lost, {limit:.4f} allowed ({loss - limit:.4f} over)"
        low, high = intervals[name]
        if low <= limit:
            line += f"; other pairs could show {low:.4f} to {high:.4f}: more pairs would tell"
        problems.append(line)
    return tuple(problems)


def _resample(queries: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the rows of as many queries as there are, drawn with replacement, again and again."""
    of_query: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        of_query.setdefault(query, []).append(row)
    groups = [np.array(rows) for rows in of_query.values()]
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(groups), len(groups)) for _ in range(_DRAWS))
    return [np.concatenate([groups[at] for at in chosen]) for chosen in drawn]


def _interval(losses: Sequence[float]) -> tuple[float, float]:
    """Return the 90 % interval of those draws that support the measure; NaN where none does."""
    defined = [loss for loss in losses if math.isfinite(loss)] or [math.nan]
    low, high = np.quantile(defined, (0.05, 0.95))
    return float(low), float(high)


def _mean_ap(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    try:
        return mean_ap_over_levels(labels, scores).mean_ap
    except UndefinedMetricError:
        return math.nan


def _ndcg_interval(
    queries: Sequence[str],
    labels: NDArray[np.int64],
    exact: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> tuple[float, float]:
    try:
        before, after = (mean_ndcg(queries, labels, x, min_documents=3).values for x in (exact, scores))
    except UndefinedMetricError:
        return math.nan, math.nan
    interval = paired_bootstrap(before, after, seed=0, level=0.9)
    return interval.low, interval.high


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def fitting_half(pairs: Sequence[LabelledPair]) -> NDArray[np.bool_]:
    """Mark the pairs of every second query, (N,): what may be looked at before the others are measured.

    Raises:
        InputError: There are too few queries to split.
    """
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    if len(queries) < 10:
        raise InputError(f"{len(queries)} queries are too few to measure quality on; 10 or more are needed")
    chosen = set(queries[::2])
    return np.array([pair.query in chosen for pair in pairs])


def _grade(
    bundle: Path,
    variant: str,
    pairs: Sequence[LabelledPair],
    labels: NDArray[np.int64],
    fitted_on: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores and levels of the measured pairs."""
    outputs = open_pair_model(bundle, variant=variant).outputs(
        [(pair.query, pair.document) for pair in pairs]
    )
    queries = [pair.query for pair, fitted in zip(pairs, fitted_on, strict=True) if fitted]
    calibration, _ = fit_calibration(outputs.calibrated[fitted_on], labels[fitted_on], queries)
    levels = most_probable_level(calibration.probabilities(outputs.calibrated[~fitted_on]))
    return outputs.scores[~fitted_on], levels
