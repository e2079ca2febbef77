"""Fit the models by maximum likelihood.

Shape letters: N pairs, P points in the space of parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relsdk.calibration._models import (
    TRANSFORMS,
    Calibration,
    Float,
    Int,
    LogLinearPool,
    SplineLink,
    Temperature,
    Transform,
    expected_levels,
    sigmoid,
    split_outputs,
)
from relsdk.levels import NUM_LEVELS

__all__ = ["Fit", "fit_log_linear_pool", "fit_spline_link", "fit_temperature"]

Fit = Callable[[Float, Int], Calibration]
# Keeps parameters finite where a level has no pairs.
_RIDGE = 1e-6
# Pieces of a spline at most, each with as many pairs, and the change of a slope's logarithm from one to the
# next that its prior takes for little; chosen on pairs of KUAKE-QTR's train, 50 to 2,000 at a time.
_PIECES = 12
_BEND = 0.3
# A loss that a step lowers by less is at its minimum.
_ENOUGH = 1e-12
# Of finite differences, and Newton steps at most.
_WIDTH = 1e-4
_ITERATIONS = 60
# Likelihoods computed at once: a call of numpy costs as much as some thousand of them.
_AT_ONCE = 50_000


def fit_spline_link(outputs: Float, labels: Int, transform: Transform = "identity") -> SplineLink:
    """Maximise the posterior over a monotone linear spline of the score, or of the level that a head expects.

    By the prior the logarithm of its slope changes little from piece to piece, or else at once (the
    pseudo-Huber penalty): from few pairs it is nearly straight, from many it follows them.

    Args:
        outputs: (N,) scores, (N, 4) logits, or (N, 3) of an ordinal head.
        labels: (N,) levels 0-3.
        transform: See `SplineLink`.
    """
    x = TRANSFORMS[transform](expected_levels(outputs))
    knots = np.unique(np.quantile(x, np.linspace(0, 1, _PIECES + 1)))
    if len(knots) == 1:
        knots = np.array([knots[0], knots[0] + 1.0])
    scale = float(x.std()) or 1.0
    widths = np.diff(knots) / scale  # (J,)
    covered = np.clip(x - knots[:-1, None], 0, np.diff(knots)[:, None]) / scale  # (J, N) of each piece
    pieces = len(widths)
    share = np.clip([(labels >= k).mean() for k in range(1, NUM_LEVELS)], 1e-3, 1 - 1e-3)
    cuts = -np.log(share / (1 - share))
    steps = np.log(np.maximum(np.diff(cuts), 1e-2))
    # Logarithms of slopes and of the steps between cuts, so that every point is valid.
    theta = np.array([*np.zeros(pieces), cuts[0] + covered.sum(axis=0).mean(), *steps])

    def unpack(points: Float) -> tuple[Float, Float]:
        p = np.clip(points, -20, 20)
        return np.exp(p[:, :pieces]), np.cumsum(np.hstack([p[:, pieces:-2], np.exp(p[:, -2:])]), axis=1)

    def losses(points: Float) -> Float:
        slopes, at = unpack(points)  # (P, J), (P, 3)
        edge = np.full((len(points), 1), np.inf)
        edges = np.hstack([-edge, at, edge])  # (P, 5): a level lies between two
        f = slopes @ covered  # (P, N)
        likelihood = sigmoid(f - edges[:, labels]) - sigmoid(f - edges[:, labels + 1])
        bends = np.diff(points[:, :pieces], axis=1) / _BEND
        prior = (np.sqrt(1 + bends**2) - 1).sum(axis=1) / len(labels)
        ridge = _RIDGE * (points**2).sum(axis=1)
        return np.asarray(ridge + prior - np.log(np.maximum(likelihood, 1e-12)).mean(axis=1))

    theta = _minimise(losses, theta, max(1, _AT_ONCE // len(labels)))
    slopes, at = unpack(theta[None])
    values = (0.0, *np.cumsum(slopes[0] * widths).tolist())
    first, second, third = at[0].tolist()
    return SplineLink(tuple(knots.tolist()), values, (first, second, third), transform)


def fit_temperature(logits: Float, labels: Int, *, biased: bool = False) -> Temperature:
    """Maximise the likelihood over the temperature's logarithm: logits (N, 4), or (N, 3) of an ordinal head.

    Args:
        logits: What the head gives.
        labels: (N,) levels 0-3.
        biased: Fit a bias of each logit, too (of four, the first is 0: only differences matter).
    """
    ordinal = logits.shape[1] == NUM_LEVELS - 1

    def scaled(theta: Float) -> Temperature:
        temperature, *biases = np.clip(theta, -5, 5).tolist()
        fixed = [0.0] if biased and not ordinal else []
        return Temperature(float(np.exp(temperature)), ordinal, tuple(fixed + biases))

    def loss(theta: Float) -> float:
        likelihood = scaled(theta).probabilities(logits)[np.arange(len(labels)), labels]
        return float(-np.log(likelihood).mean() + _RIDGE * (theta**2).sum())

    return scaled(_minimise(_one_by_one(loss), np.zeros(NUM_LEVELS if biased else 1)))


def fit_log_linear_pool(outputs: Float, labels: Int, fit_scorer: Fit) -> LogLinearPool:
    """Calibrate a head's outputs and cosines (N, C + 1) each, then maximise the likelihood over weights."""
    head_outputs, cosines = split_outputs(outputs)
    scorer, encoder = fit_scorer(head_outputs, labels), fit_spline_link(cosines, labels, "log_distance")
    alone = np.log(scorer.probabilities(head_outputs)), np.log(encoder.probabilities(cosines))  # (N, L) each

    def weights(theta: Float) -> tuple[float, float]:
        a, b = np.exp(np.clip(theta, -5, 2)).tolist()
        return a, b

    def loss(theta: Float) -> float:
        a, b = weights(theta)
        logs = a * alone[0] + b * alone[1]
        return float((np.logaddexp.reduce(logs, axis=1) - logs[np.arange(len(labels)), labels]).mean())

    return LogLinearPool(scorer, encoder, weights(_minimise(_one_by_one(loss), np.log([0.5, 0.5]))))


def _one_by_one(loss: Callable[[Float], float]) -> Callable[[Float], Float]:
    return lambda points: np.array([loss(point) for point in points])


def _minimise(losses: Callable[[Float], Float], theta: Float, at_once: int = 1) -> Float:
    """Damped Newton for a smooth function of a handful of parameters, with finite differences.

    The gradient's are central, for the minimum is where it vanishes; the Hessian's mixed ones are forward: it
    only chooses the way there.

    Args:
        losses: The function's values (P,) at points (P, size).
        theta: (size,) where to begin.
        at_once: How many points to give it in one call.
    """
    size = len(theta)
    eye = np.eye(size) * _WIDTH
    pairs = np.tril_indices(size, -1)
    shifts = np.concatenate([eye, -eye, eye[pairs[0]] + eye[pairs[1]]])
    blocks = np.split(shifts, range(at_once, len(shifts), at_once))
    (value,) = losses(theta[None])
    for _ in range(_ITERATIONS):
        around = np.concatenate([losses(theta + block) for block in blocks])
        ahead, behind, mixed = np.split(around, [size, 2 * size])
        gradient = (ahead - behind) / (2 * _WIDTH)
        hessian = np.diag(ahead - 2 * value + behind)
        hessian[pairs] = hessian[pairs[::-1]] = mixed - ahead[pairs[0]] - ahead[pairs[1]] + value
        eigenvalues, vectors = np.linalg.eigh(hessian / _WIDTH**2)
        direction = -vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(eigenvalues), 1e-4))
        if -gradient @ direction <= _ENOUGH:
            break
        step = 1.0
        (lower,) = losses((theta + direction)[None])
        while step > 1e-6 and lower >= value:
            step /= 2
            (lower,) = losses((theta + step * direction)[None])
        if value - lower <= _ENOUGH:
            break
        theta, value = theta + step * direction, lower
    return theta
