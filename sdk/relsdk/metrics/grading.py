"""Metrics of predicted levels and their probabilities, over all pairs at once.

Shape letters: N pairs, L levels (4 in relsdk; every function takes the L of the probabilities).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from relsdk.levels import NUM_LEVELS
from relsdk.metrics._checks import (
    Float,
    Int,
    UndefinedMetricError,
    as_bins,
    as_levels,
    as_probabilities,
    as_vector,
    not_empty,
    same_length,
)


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Return the share of pairs whose predicted level is the label.

    Args:
        labels: (N,) levels.
        predicted: (N,) levels.

    Returns:
        A value in [0, 1].
    """
    truth, guess = _two_levels(labels, predicted, NUM_LEVELS)
    return float((truth == guess).mean())


def quadratic_weighted_kappa(labels: ArrayLike, predicted: ArrayLike, levels: int = NUM_LEVELS) -> float:
    """Return Cohen's kappa with quadratic weights (Cohen 1968, "Weighted kappa").

    kappa = 1 - sum_ij w_ij O_ij / sum_ij w_ij E_ij, with w_ij = (i - j)^2, O the joint counts of label i and
    prediction j, and E the counts expected from their margins.

    Args:
        labels: (N,) levels.
        predicted: (N,) levels.
        levels: Number of levels L.

    Returns:
        1 for agreement, 0 for chance, negative below chance.

    Raises:
        UndefinedMetricError: Labels and predictions are all one and the same level.
    """
    truth, guess = _two_levels(labels, predicted, levels)
    observed = np.bincount(truth * levels + guess, minlength=levels**2).reshape(levels, levels)  # (L, L)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(truth)  # (L, L)
    step = np.arange(levels)
    weights = (step[:, None] - step[None, :]) ** 2  # (L, L)
    chance = float((weights * expected).sum())
    if chance == 0.0:
        raise UndefinedMetricError("kappa needs more than one level among the labels and predictions")
    return 1.0 - float((weights * observed).sum()) / chance


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Return the gap between confidence and accuracy of the top level (Guo et al. 2017).

    ECE = sum over bins b of |b| / N * |accuracy(b) - mean confidence(b)|, the confidence being the highest
    probability of a row, in equal-width bins ((i-1)/bins, i/bins] ("On calibration of modern neural
    networks", after Naeini et al. 2015).

    Args:
        labels: (N,) levels.
        probabilities: (N, L) rows sum to 1; a tie goes to the lower level.
        bins: Number of bins.

    Returns:
        A value in [0, 1].
    """
    truth, matrix = _as_grades(labels, probabilities)
    return _binned_gap(matrix.max(axis=1), matrix.argmax(axis=1) == truth, bins)


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the Brier score in its original multi-class form (Brier 1950).

    BS = 1/N sum_n sum_k (p_nk - [y_n = k])^2, summed over all levels: in [0, 2], lower is better. All wrong
    levels cost the same; `ranked_probability_score` knows their order.

    Args:
        labels: (N,) levels.
        probabilities: (N, L) rows sum to 1.

    Returns:
        The score.
    """
    truth, matrix = _as_grades(labels, probabilities)
    hits = np.eye(matrix.shape[1])[truth]  # (N, L)
    return float(((matrix - hits) ** 2).sum(axis=1).mean())


def ranked_probability_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the ranked probability score, the ordinal form of the Brier score (Epstein 1969).

    RPS = 1/N sum_n 1/(L-1) sum_{k=1..L-1} (P_n(level >= k) - [y_n >= k])^2: the mean of the L-1 binary Brier
    scores of "at least level k", in [0, 1], lower is better. Two levels off costs more than one.

    Args:
        labels: (N,) levels.
        probabilities: (N, L) rows sum to 1.

    Returns:
        The score.
    """
    truth, matrix = _as_grades(labels, probabilities)
    below = np.cumsum(matrix, axis=1)[:, :-1]  # (N, L-1): P(level < k), k = 1..L-1
    is_below = truth[:, None] < np.arange(1, matrix.shape[1])  # (N, L-1)
    return float(((below - is_below) ** 2).mean())


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean negative log-likelihood of the labels, in nats.

    Log loss = -1/N sum_n ln p_n[y_n]. Probabilities are held away from 0 by the float64 epsilon, as in
    scikit-learn, so a level ruled out wrongly costs 36 nats and not infinity.

    Args:
        labels: (N,) levels.
        probabilities: (N, L) rows sum to 1.

    Returns:
        The loss, 0 or more.
    """
    truth, matrix = _as_grades(labels, probabilities)
    likelihood = matrix[np.arange(len(truth)), truth]  # (N,)
    return float(-np.log(np.clip(likelihood, np.finfo(np.float64).eps, 1.0)).mean())


def _two_levels(labels: ArrayLike, predicted: ArrayLike, levels: int) -> tuple[Int, Int]:
    truth, guess = as_levels(labels, levels), as_levels(predicted, levels)
    same_length(len(truth), len(guess), "labels", "predictions")
    return truth, guess


def _as_grades(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Int, Float]:
    """Return labels (N,) and probabilities (N, L), at least one row."""
    rows = as_vector(labels, "labels")
    not_empty(rows)
    matrix = as_probabilities(probabilities, len(rows))
    return as_levels(rows, matrix.shape[1]), matrix


def _binned_gap(confidence: Float, correct: ArrayLike, bins: int) -> float:
    """Return sum over bins of |sum of outcomes - sum of confidences| / N."""
    count = as_bins(bins)
    place = np.clip(np.ceil(confidence * count).astype(np.int64) - 1, 0, count - 1)  # (N,)
    gaps = np.bincount(place, np.asarray(correct, dtype=np.float64) - confidence, count)  # (bins,)
    return float(np.abs(gaps).sum() / len(confidence))
