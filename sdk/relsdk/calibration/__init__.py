"""From a score to the probability of each relevance level, fitted on labelled pairs.

P(level >= k | score) = sigmoid(f(score) - cut_k), k = 1..3, is a cumulative link model (McCullagh 1980,
proportional odds) whose f is a monotone linear spline: nearly straight from few pairs, and as the pairs have
it from many. Of a head that has levels of its own it takes the expected level, unless a temperature does as
well (Guo et al. 2017).
A cross-encoder and the encoder that found its candidates are pooled (Genest & Zidek 1986).
Labelled pairs are not live traffic: levels may be more or less frequent there, which expectation maximisation
finds out from pairs without labels (Saerens et al. 2002).
A hybrid search orders and grades by one link of cosine and words. A profile of searches tells later whether
they have changed since. A promise is a threshold above which a precision holds, with a stated confidence.
"""

from relsdk.calibration._hybrid import HybridLink, hybrid_features
from relsdk.calibration._level_shares import LevelShares, estimate_level_shares, shift_prior
from relsdk.calibration._models import (
    Calibration,
    LogLinearPool,
    PriorShift,
    SplineLink,
    Temperature,
    calibration_from_dict,
    method_name,
)
from relsdk.calibration._profile import SearchProfile
from relsdk.calibration._promise import promise_precision
from relsdk.calibration._query_range import QueryRange
from relsdk.calibration.selection import (
    cross_validated_probabilities,
    fit_calibration,
    fit_hybrid,
    fit_pool,
)
from relsdk.records import Promise

__all__ = [
    "Calibration",
    "HybridLink",
    "LevelShares",
    "LogLinearPool",
    "PriorShift",
    "Promise",
    "QueryRange",
    "SearchProfile",
    "SplineLink",
    "Temperature",
    "calibration_from_dict",
    "cross_validated_probabilities",
    "estimate_level_shares",
    "fit_calibration",
    "fit_hybrid",
    "fit_pool",
    "hybrid_features",
    "method_name",
    "promise_precision",
    "shift_prior",
]
