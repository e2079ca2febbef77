"""Ranking, grading and calibration metrics: one pure function each, with its source.

Labels come first and scores or probabilities second. A wrong input is an `InputError`; a metric that has no
value on a correct input is its child `UndefinedMetricError`, which means over queries skip and count.
"""

from relsdk.metrics._checks import UndefinedMetricError
from relsdk.metrics.abstention import Abstention, abstention_curve
from relsdk.metrics.calibration_error import (
    DebiasedEce,
    ReliabilityBin,
    debiased_ece,
    reliability_curve,
)
from relsdk.metrics.grading import (
    accuracy,
    brier_score,
    expected_calibration_error,
    log_loss,
    quadratic_weighted_kappa,
    ranked_probability_score,
)
from relsdk.metrics.ranking import (
    LevelPrecision,
    align_run,
    average_precision,
    mean_ap_over_levels,
    ndcg,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)
from relsdk.metrics.reports import (
    GradeReport,
    RankingReport,
    RunReport,
    grade_report,
    ranking_report,
    reliability_curves,
    run_report,
)
from relsdk.metrics.statistics import (
    Interval,
    QueryMean,
    bootstrap_interval,
    mean_ndcg,
    mean_over_queries,
    paired_bootstrap,
    population_stability_index,
    population_stability_interval,
    spearman,
)

__all__ = [
    "Abstention",
    "DebiasedEce",
    "GradeReport",
    "Interval",
    "LevelPrecision",
    "QueryMean",
    "RankingReport",
    "ReliabilityBin",
    "RunReport",
    "UndefinedMetricError",
    "abstention_curve",
    "accuracy",
    "align_run",
    "average_precision",
    "bootstrap_interval",
    "brier_score",
    "debiased_ece",
    "expected_calibration_error",
    "grade_report",
    "log_loss",
    "mean_ap_over_levels",
    "mean_ndcg",
    "mean_over_queries",
    "ndcg",
    "paired_bootstrap",
    "population_stability_index",
    "population_stability_interval",
    "precision_at_k",
    "quadratic_weighted_kappa",
    "ranked_probability_score",
    "ranking_report",
    "recall_at_k",
    "reciprocal_rank",
    "reliability_curve",
    "reliability_curves",
    "run_report",
    "spearman",
]
