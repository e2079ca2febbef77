"""Choose a model on held-out queries.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from relsdk.calibration._hybrid import HybridLink, fit_hybrid_link
from relsdk.calibration._models import (
    Calibration,
    Float,
    Int,
    LogLinearPool,
    as_logits,
    as_scores,
    method_name,
    split_outputs,
)
from relsdk.calibration.fitting import (
    Fit,
    fit_log_linear_pool,
    fit_spline_link,
    fit_temperature,
)
from relsdk.errors import CalibrationError, InputError
from relsdk.levels import NUM_LEVELS

__all__ = [
    "cross_validated_probabilities",
    "fit_calibration",
    "fit_hybrid",
    "fit_pool",
]

# A cosine in float32 is above 1 by as much.
_ROUNDING = 1e-5
# From the simplest to the richest.
_OF_LOGITS: dict[str, Fit] = {
    "temperature": fit_temperature,
    "bias_corrected_temperature": partial(fit_temperature, biased=True),
    "spline_link": fit_spline_link,
}


def fit_calibration(
    outputs: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> tuple[Calibration, dict[str, float]]:
    """Fit each model, compare them on held-out groups, and fit the chosen one on everything.

    For scores there is one model, the `SplineLink`: of x = -log(1.001 - score) if none is above 1, since
    cosines of good pairs crowd towards 1. For logits the head's own probabilities may need less: chosen is
    the simplest model whose held-out log loss is within one standard error of the best one's (Breiman et
    al. 1984).

    Args:
        outputs: (N,) real scores, higher is better; or (N, 4) logits of the levels, or (N, 3) of an ordinal
            head.
        labels: (N,) levels 0-3.
        groups: N group names (the queries): a group is never on both sides of a split.
        folds: How many splits.
        seed: Of the assignment of groups to folds.

    Returns:
        The calibration, and the held-out log loss of each model by name.

    Raises:
        CalibrationError: Too few pairs or groups, or one of the thresholds has labels on one side only.
        InputError: Shapes differ, an output is not finite or a label is not a level.
    """
    values, levels = _as_outputs(outputs), _as_labels(labels)
    methods = _methods(values)
    losses = {
        name: _log_losses(_held_out(fit, values, levels, groups, folds, seed), levels)  # (N,)
        for name, fit in methods.items()
    }
    best = losses[min(losses, key=lambda name: float(losses[name].mean()))]
    chosen = next(name for name, loss in losses.items() if _not_worse(loss, best))
    return methods[chosen](values, levels), {name: float(loss.mean()) for name, loss in losses.items()}


def fit_pool(
    outputs: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> tuple[LogLinearPool, dict[str, float]]:
    """Fit the pool of a cross-encoder and an encoder, and each alone for comparison.

    Args:
        outputs: (N, C + 1) a head's outputs, and the cosine in the last column.
        labels: See `fit_calibration`.
        groups: See `fit_calibration`.
        folds: See `fit_calibration`.
        seed: See `fit_calibration`.

    Returns:
        The pool, and the held-out log loss of "log_linear_pool", and of the "scorer" and the "encoder" alone.

    Raises:
        CalibrationError: See `fit_calibration`.
        InputError: See `fit_calibration`.
    """
    values, levels = np.asarray(outputs, dtype=np.float64), _as_labels(labels)
    head_outputs, cosines = split_outputs(values)
    chosen, scorer = fit_calibration(head_outputs, levels, groups, folds=folds, seed=seed)
    _, encoder = fit_calibration(cosines, levels, groups, folds=folds, seed=seed)
    fit = _fit_of_pool(chosen, head_outputs)
    held_out = _held_out(fit, values, levels, groups, folds, seed)
    losses = {"log_linear_pool": float(_log_losses(held_out, levels).mean())}
    losses |= {"scorer": min(scorer.values()), "encoder": min(encoder.values())}
    pool = fit(values, levels)
    return pool, losses


def fit_hybrid(
    features: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> tuple[HybridLink, dict[str, float]]:
    """Fit the model of cosine and words, and the cosine alone for comparison.

    Args:
        features: (N, 2) of `hybrid_features`.
        labels: See `fit_calibration`; documents that have nothing to do with a query belong among the pairs,
            with level 0: labelled pairs alone do not tell how far the cosine of those goes down.
        groups: See `fit_calibration`.
        folds: See `fit_calibration`.
        seed: See `fit_calibration`.

    Returns:
        The model, and the held-out log loss of "hybrid" and of the "cosine" alone.

    Raises:
        CalibrationError: See `fit_calibration`.
        InputError: See `fit_calibration`.
    """
    values, levels = np.asarray(features, dtype=np.float64), _as_labels(labels)
    alone = values * [1.0, 0.0]
    losses = {
        name: float(_log_losses(_held_out(fit_hybrid_link, one, levels, groups, folds, seed), levels).mean())
        for name, one in (("hybrid", values), ("cosine", alone))
    }
    return fit_hybrid_link(values, levels), losses


def cross_validated_probabilities(
    calibration: Calibration,
    outputs: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Float:
    """Return (N, L) probabilities of each pair from a model of the same method fitted without its group."""
    if isinstance(calibration, LogLinearPool):
        values = np.asarray(outputs, dtype=np.float64)
        fit: Fit = _fit_of_pool(calibration.scorer, split_outputs(values)[0])
    elif isinstance(calibration, HybridLink):
        values, fit = np.asarray(outputs, dtype=np.float64), cast("Fit", fit_hybrid_link)
    else:
        values = _as_outputs(outputs)
        fit = _method_of(calibration, values)
    return _held_out(fit, values, _as_labels(labels), groups, folds, seed)


def _methods(values: Float) -> dict[str, Fit]:
    """Return the models for scores or logits by `method_name`, from the simplest to the richest."""
    if values.ndim == 2:
        return _OF_LOGITS
    if len(values) > 0 and values.max() <= 1.0 + _ROUNDING:
        return {"spline_link_log_distance": partial(fit_spline_link, transform="log_distance")}
    return {"spline_link": fit_spline_link}


def _method_of(calibration: Calibration, values: Float) -> Fit:
    """Return what fits a model of the same kind."""
    methods, name = _methods(values), method_name(calibration)
    if name not in methods:
        raise InputError(f"a calibration by {name}; for these outputs there are {', '.join(methods)}")
    return methods[name]


def _fit_of_pool(scorer: Calibration, head_outputs: Float) -> Callable[[Float, Int], LogLinearPool]:
    """Return what fits a pool whose scorer has this kind of calibration."""
    return partial(fit_log_linear_pool, fit_scorer=_method_of(scorer, head_outputs))


def _as_outputs(outputs: ArrayLike) -> Float:
    values = np.asarray(outputs, dtype=np.float64)
    if values.ndim != 2:
        return as_scores(values)
    return as_logits(values, NUM_LEVELS - 1 if values.shape[1] == NUM_LEVELS - 1 else NUM_LEVELS)


def _held_out(fit: Fit, values: Float, levels: Int, groups: Sequence[str], folds: int, seed: int) -> Float:
    if not len(values) == len(levels) == len(groups):
        raise InputError(
            f"{len(values)} outputs, {len(levels)} labels, {len(groups)} groups: the same number is needed"
        )
    names = sorted(set(groups))
    if len(values) < 50 or len(names) < folds:
        raise CalibrationError(
            f"too few to calibrate on: {len(values)} labelled pairs (50 are needed), of different queries "
            f"{len(names)} ({folds} are needed)"
        )
    for k in range(1, NUM_LEVELS):
        if len(set(levels >= k)) < 2:
            raise CalibrationError(
                f"every label is on one side of level >= {k}; levels below and above are needed"
            )
    fold_of = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % folds, strict=True))
    fold = np.array([fold_of[group] for group in groups])
    result = np.empty((len(values), NUM_LEVELS))
    for k in range(folds):
        held = fold == k
        result[held] = fit(values[~held], levels[~held]).probabilities(values[held])
    return result


def _log_losses(probabilities: Float, labels: Int) -> Float:
    return np.asarray(-np.log(probabilities[np.arange(len(labels)), labels]))


def _not_worse(loss: Float, best: Float) -> bool:
    """Whether losses (N,) are, in the mean, within one standard error of the best ones."""
    difference = loss - best
    return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))


def _as_labels(labels: ArrayLike) -> Int:
    levels = np.asarray(labels)
    if levels.ndim != 1 or not np.isin(levels, range(NUM_LEVELS)).all():
        raise InputError("labels must be a list of relevance levels 0, 1, 2 or 3")
    return levels.astype(np.int64)
