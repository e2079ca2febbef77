"""From a score to the probability of each relevance level, fitted on labelled pairs.

Monotone models of P(level >= k | score), k = 1..3, are fitted and compared by held-out log loss: the
cumulative link model P(level >= k) = sigmoid(slope * x - cut_k) (McCullagh 1980, proportional odds) on the
score and on its distance from 1, which needs few labels, and isotonic regression for each k (Zadrozny & Elkan
2002), which assumes no shape.

Shape letters: N pairs, L = 4 levels, P points of a step function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import CalibrationError, InputError
from relsdk.levels import NUM_LEVELS, cumulative_to_probabilities

__all__ = [
    "Calibration",
    "CumulativeLink",
    "Isotonic",
    "calibration_from_dict",
    "cross_validated_probabilities",
    "fit_calibration",
    "method_name",
    "threshold_for_precision",
]

Float = NDArray[np.float64]
Int = NDArray[np.int64]
# A level never seen near a score still gets this probability, so that one surprise costs a finite log loss.
_FLOOR = 1e-4


class Calibration(Protocol):
    """A monotone map from score to level probabilities."""

    def probabilities(self, scores: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""


@dataclass(frozen=True, slots=True)
class CumulativeLink:
    """P(level >= k) = sigmoid(slope * x - cuts[k-1]); slope >= 0, cuts non-decreasing.

    Attributes:
        slope: Of the curves.
        cuts: Where they cross one half, times the slope.
        transform: x is the score itself ("identity"), or -log(1.001 - score) ("log_distance"): cosines of
            good pairs crowd towards 1, and there a step means more than below.
    """

    slope: float
    cuts: tuple[float, float, float]
    transform: str = "identity"

    def probabilities(self, scores: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        x = _TRANSFORMS[self.transform](_as_scores(scores))  # (N,)
        logits = self.slope * x[:, None] - np.asarray(self.cuts)  # (N, L-1)
        return _floored(cumulative_to_probabilities(_sigmoid(logits)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "cumulative_link",
            "transform": self.transform,
            "slope": self.slope,
            "cuts": list(self.cuts),
        }


@dataclass(frozen=True, slots=True)
class Isotonic:
    """P(level >= k) interpolated between the points of an isotonic regression, one row for each k."""

    scores: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]

    def probabilities(self, scores: ArrayLike) -> Float:
        """Return P(level = 0..3) for each score: (N,) -> (N, L)."""
        wanted = _as_scores(scores)
        curves = zip(self.scores, self.values, strict=True)
        cumulative = np.stack([np.interp(wanted, x, y) for x, y in curves], axis=1)  # (N, L-1)
        # The curves are fitted one by one and may cross; P(level >= k) cannot rise with k.
        return _floored(cumulative_to_probabilities(np.minimum.accumulate(cumulative, axis=1)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form that `calibration_from_dict` reads."""
        return {
            "method": "isotonic",
            "scores": [list(row) for row in self.scores],
            "values": [list(row) for row in self.values],
        }


def calibration_from_dict(content: Mapping[str, Any]) -> Calibration:
    """Read what `to_dict` wrote.

    Raises:
        CalibrationError: The content is damaged or of an unknown method.
    """
    try:
        if content["method"] == "cumulative_link":
            low, middle, high = (float(cut) for cut in content["cuts"])
            transform = content["transform"]
            if transform not in _TRANSFORMS:
                raise ValueError(f"transform {transform!r}")
            return CumulativeLink(float(content["slope"]), (low, middle, high), transform)
        if content["method"] == "isotonic":
            return Isotonic(_rows(content["scores"]), _rows(content["values"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"the bundle's calibration is damaged ({error}); run: relsdk calibrate"
        ) from error
    raise CalibrationError(f"unknown calibration method {content['method']!r}; run: relsdk calibrate")


def fit_calibration(
    scores: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> tuple[Calibration, dict[str, float]]:
    """Fit each model, compare them on held-out groups, and fit the chosen one on everything.

    Chosen is the simplest model whose held-out log loss is within one standard error of the best one's
    (Breiman et al. 1984): a step function that is better by chance only would grade equal pairs differently
    after each refit.

    Args:
        scores: (N,) real scores, higher is better.
        labels: (N,) levels 0-3.
        groups: N group names (the queries): a group is never on both sides of a split.
        folds: How many splits.
        seed: Of the assignment of groups to folds.

    Returns:
        The calibration, and the held-out log loss of each model by name.

    Raises:
        CalibrationError: Too few pairs or groups, or one of the thresholds has labels on one side only.
        InputError: Shapes differ, a score is not finite or a label is not a level.
    """
    values, levels = _as_scores(scores), _as_labels(labels)
    losses = {
        name: _log_losses(_held_out(fit, values, levels, groups, folds, seed), levels)  # (N,)
        for name, fit in _METHODS.items()
        if name != "cumulative_link_log_distance" or (len(values) > 0 and values.max() <= 1.0)
    }
    best = losses[min(losses, key=lambda name: float(losses[name].mean()))]
    chosen = next(name for name, loss in losses.items() if _not_worse(loss, best))
    return _METHODS[chosen](values, levels), {name: float(loss.mean()) for name, loss in losses.items()}


def cross_validated_probabilities(
    calibration: Calibration,
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Float:
    """Return (N, L) probabilities of each pair from a model of the same method fitted without its group."""
    return _held_out(_METHODS[method_name(calibration)], scores, labels, groups, folds, seed)


def method_name(calibration: Calibration) -> str:
    """Return the name under which `fit_calibration` reports a model's loss."""
    content = calibration.to_dict()
    suffix = "" if content.get("transform", "identity") == "identity" else f"_{content['transform']}"
    return f"{content['method']}{suffix}"


def threshold_for_precision(scores: ArrayLike, labels: ArrayLike, *, level: int, precision: float) -> float:
    """Return the lowest score above which a share of at least `precision` of the pairs has the wanted level.

    Args:
        scores: (N,) scores.
        labels: (N,) levels 0-3.
        level: Pairs of this level or above count as right.
        precision: Wanted share in (0, 1].

    Returns:
        The threshold t: among pairs with score >= t the precision holds.

    Raises:
        CalibrationError: No threshold reaches the precision.
        InputError: An argument is out of range.
    """
    if not 0.0 < precision <= 1.0 or level not in (1, 2, 3):
        raise InputError(
            f"precision={precision}, level={level}: precision in (0, 1] and level 1, 2 or 3 are needed"
        )
    values, right = _as_scores(scores), _as_labels(labels) >= level
    order = np.argsort(-values, kind="stable")
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last_of_tie = np.append(values[order][1:] != values[order][:-1], True)
    good = np.flatnonzero((reached >= precision) & last_of_tie)
    if len(good) == 0:
        best = float(reached[last_of_tie].max()) if len(order) else 0.0
        raise CalibrationError(
            f"no score reaches precision {precision} for level >= {level}; the best is {best:.3f}"
        )
    return float(values[order][good[-1]])


def _fit_cumulative_link(
    scores: Float, labels: Int, transform: str = "identity", ridge: float = 1e-6
) -> CumulativeLink:
    """Maximise the likelihood over (slope, cut_1..3) by Newton's method with step halving.

    The parameters are log(slope), cut_1 and the logs of the steps between cuts, so that every point is valid.
    """
    x = _TRANSFORMS[transform](scores)
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / scale
    share = np.clip([(labels >= k).mean() for k in range(1, NUM_LEVELS)], 1e-3, 1 - 1e-3)
    cuts = -np.log(share / (1 - share))
    steps = np.log(np.maximum(np.diff(cuts), 1e-2))
    theta = np.array([0.0, cuts[0], *steps])

    def unpack(p: Float) -> tuple[float, Float]:
        return float(np.exp(p[0])), np.cumsum([p[1], *np.exp(p[2:])])

    def loss(p: Float) -> float:
        slope, at = unpack(np.clip(p, -20, 20))
        likelihood = cumulative_to_probabilities(_sigmoid(slope * z[:, None] - at))[np.arange(len(z)), labels]
        return float(-np.log(np.maximum(likelihood, 1e-12)).mean() + ridge * (p**2).sum())

    theta = _minimise(loss, theta)
    slope, at = unpack(np.clip(theta, -20, 20))
    first, second, third = (float(cut) for cut in at + slope * centre / scale)
    return CumulativeLink(slope / scale, (first, second, third), transform)


def _minimise(
    loss: Callable[[Float], float], theta: Float, iterations: int = 60, width: float = 1e-4
) -> Float:
    """Damped Newton for a smooth function of a handful of parameters, with central differences."""
    size = len(theta)
    eye = np.eye(size) * width
    value = loss(theta)
    for _ in range(iterations):
        gradient = np.array(
            [(loss(theta + eye[i]) - loss(theta - eye[i])) / (2 * width) for i in range(size)]
        )
        hessian = np.empty((size, size))
        for i in range(size):
            for j in range(i + 1):
                second = (
                    loss(theta + eye[i] + eye[j])
                    - loss(theta + eye[i] - eye[j])
                    - loss(theta - eye[i] + eye[j])
                    + loss(theta - eye[i] - eye[j])
                )
                hessian[i, j] = hessian[j, i] = second / (4 * width * width)
        eigenvalues, vectors = np.linalg.eigh(hessian)
        direction = -vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(eigenvalues), 1e-4))
        step = 1.0
        while step > 1e-6 and loss(theta + step * direction) >= value:
            step /= 2
        candidate = theta + step * direction
        improved = value - loss(candidate)
        if improved <= 1e-12:
            break
        theta, value = candidate, value - improved
    return theta


def _fit_isotonic(scores: Float, labels: Int) -> Isotonic:
    curves = [
        _pool_adjacent_violators(scores, (labels >= k).astype(np.float64)) for k in range(1, NUM_LEVELS)
    ]
    return Isotonic(tuple(x for x, _ in curves), tuple(y for _, y in curves))


def _pool_adjacent_violators(x: Float, y: Float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Isotonic least squares (Ayer et al. 1955): the two ends of each block, with the block's mean."""
    unique, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=y) / counts
    blocks: list[tuple[float, float, float, float]] = []  # mean, weight, first x, last x
    for at, mean, weight in zip(unique.tolist(), means.tolist(), counts.tolist(), strict=True):
        block = (mean, weight, at, at)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            mixed = (before[0] * before[1] + block[0] * block[1]) / total
            block = (mixed, total, before[2], block[3])
        blocks.append(block)
    points = [
        (end, mean)
        for mean, _, first, last in blocks
        for end in ((first, last) if first != last else (first,))
    ]
    return tuple(end for end, _ in points), tuple(mean for _, mean in points)


_TRANSFORMS: dict[str, Callable[[Float], Float]] = {
    "identity": lambda scores: scores,
    "log_distance": lambda scores: np.asarray(-np.log(1.001 - np.minimum(scores, 1.0))),
}
# From the simplest to the richest.
_METHODS: dict[str, Callable[[Float, Int], Calibration]] = {
    "cumulative_link": _fit_cumulative_link,
    "cumulative_link_log_distance": partial(_fit_cumulative_link, transform="log_distance"),
    "isotonic": _fit_isotonic,
}


def _held_out(
    fit: Callable[[Float, Int], Calibration],
    scores: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    folds: int,
    seed: int,
) -> Float:
    values, levels = _as_scores(scores), _as_labels(labels)
    if not len(values) == len(levels) == len(groups):
        raise InputError(
            f"{len(values)} scores, {len(levels)} labels, {len(groups)} groups: the same number is needed"
        )
    names = sorted(set(groups))
    if len(values) < 50 or len(names) < folds:
        raise CalibrationError(
            f"{len(values)} labelled pairs of {len(names)} queries are too few; 50 of {folds} are needed"
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
    """Whether the mean of (N,) paired losses is within one standard error of the best one's."""
    difference = loss - best
    return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))


def _floored(probabilities: Float) -> Float:
    lifted = probabilities * (1 - NUM_LEVELS * _FLOOR) + _FLOOR
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True), dtype=np.float64)


def _sigmoid(logits: Float) -> Float:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float64)


def _as_scores(scores: ArrayLike) -> Float:
    values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError("scores must be a list of finite numbers")
    return values


def _as_labels(labels: ArrayLike) -> Int:
    levels = np.asarray(labels)
    if levels.ndim != 1 or not np.isin(levels, range(NUM_LEVELS)).all():
        raise InputError("labels must be a list of relevance levels 0, 1, 2 or 3")
    return levels.astype(np.int64)


def _rows(content: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    rows = tuple(tuple(float(value) for value in row) for row in content)
    if len(rows) != NUM_LEVELS - 1 or not all(rows):
        raise ValueError("three curves are needed")
    return rows
