"""Does a quantised variant still rank and grade like fp32? Measured on labelled pairs, before a bundle moves.

Half of the queries fit each variant's calibration, the other half measure it: levels are compared as they
would be served.

Shape letters: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import fit_calibration
from relsdk.errors import InputError
from relsdk.levels import most_probable_level
from relsdk.metrics import quadratic_weighted_kappa, ranking_report
from relsdk.pair_models import open_pair_model
from relsdk.records import LabelledPair

__all__ = ["QualityBudget", "VariantQuality", "fitting_half", "measure_quality"]


@dataclass(frozen=True, slots=True)
class QualityBudget:
    """What a variant may lose against fp32.

    Attributes:
        mean_ap: Mean AP over levels, in [0, 1].
        ndcg_at_10: nDCG@10, in [0, 1].
        level_changes: Share of pairs with another level, each variant with its own calibration.
    """

    mean_ap: float = 0.003
    ndcg_at_10: float = 0.002
    level_changes: float = 0.015


@dataclass(frozen=True, slots=True)
class VariantQuality:
    """A variant against fp32 on labelled pairs; losses are fp32 minus variant.

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
        over_budget: One line for each budget that is exceeded; empty when the variant passes.
    """

    variant: str
    pairs: int
    ap_1: float
    ap_2: float
    ap_3: float
    mean_ap: float
    mean_ap_loss: float
    ndcg_at_10: float
    ndcg_at_10_loss: float
    qwk: float
    level_changes: float
    over_budget: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)


def measure_quality(
    bundle: Path, variants: Sequence[str], pairs: Sequence[LabelledPair], budget: QualityBudget
) -> list[VariantQuality]:
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
    measured = [pair.query for pair, fitted in zip(pairs, fitted_on, strict=True) if not fitted]
    graded = {name: _grade(bundle, name, pairs, labels, fitted_on) for name in {"fp32", *variants}}
    exact_scores, exact_levels = graded["fp32"]
    truth = labels[~fitted_on]
    exact = ranking_report(measured, truth, exact_scores)
    records = []
    for name in variants:
        scores, levels = graded[name]
        order = ranking_report(measured, truth, scores)
        losses = {
            "mean_ap": exact.mean_ap - order.mean_ap,
            "ndcg_at_10": exact.ndcg_at_10 - order.ndcg_at_10,
            "level_changes": float((levels != exact_levels).mean()),
        }
        records.append(
            VariantQuality(
                variant=name,
                pairs=len(truth),
                ap_1=order.ap_1,
                ap_2=order.ap_2,
                ap_3=order.ap_3,
                mean_ap=order.mean_ap,
                mean_ap_loss=losses["mean_ap"],
                ndcg_at_10=order.ndcg_at_10,
                ndcg_at_10_loss=losses["ndcg_at_10"],
                qwk=quadratic_weighted_kappa(truth, levels),
                level_changes=losses["level_changes"],
                over_budget=_over(losses, budget),
            )
        )
    return records


def _over(losses: dict[str, float], budget: QualityBudget) -> tuple[str, ...]:
    limits = {field.name: getattr(budget, field.name) for field in fields(budget)}
    return tuple(
        f"{name}: {losses[name]:.4f} lost, {limit:.4f} allowed ({losses[name] - limit:.4f} over)"
        for name, limit in limits.items()
        if not losses[name] <= limit  # a NaN does not pass
    )


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
