"""Fit the models: maximum likelihood for the cumulative link, pooled adjacent violators for isotonic curves.

Shape letters: N pairs, P points in the space of parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relsdk.calibration._models import (
    TRANSFORMS,
    Calibration,
    CumulativeLink,
    Float,
    Int,
    Isotonic,
    LogLinearPool,
    Temperature,
    Transform,
    sigmoid,
    split_outputs,
)
from relsdk.levels import NUM_LEVELS

__all__ = ["fit_cumulative_link", "fit_isotonic", "fit_log_linear_pool", "fit_temperature"]

# Keeps parameters finite where a level has no pairs.
_RIDGE = 1e-6
# A loss that a step lowers by less is at its minimum.
_ENOUGH = 1e-12
# Of finite differences, and Newton steps at most.
_WIDTH = 1e-4
_ITERATIONS = 60
# Likelihoods computed at once: a call of numpy costs as much as some thousand of them.
_AT_ONCE = 50_000


def fit_cumulative_link(scores: Float, labels: Int, transform: Transform = "identity") -> CumulativeLink:
    """Maximise the likelihood over (slope, cut_1..3) by Newton's method with step halving.

    The parameters are log(slope), cut_1 and the logs of the steps between cuts, so that every point is valid.
    """
    x = TRANSFORMS[transform](scores)
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / scale
    share = np.clip([(labels >= k).mean() for k in range(1, NUM_LEVELS)], 1e-3, 1 - 1e-3)
    cuts = -np.log(share / (1 - share))
    steps = np.log(np.maximum(np.diff(cuts), 1e-2))
    theta = np.array([0.0, cuts[0], *steps])

    def unpack(points: Float) -> tuple[Float, Float]:
        p = np.clip(points, -20, 20)
        return np.exp(p[:, :1]), np.cumsum(np.hstack([p[:, 1:2], np.exp(p[:, 2:])]), axis=1)

    def losses(points: Float) -> Float:
        slopes, at = unpack(points)  # (P, 1), (P, 3)
        edge = np.full_like(slopes, np.inf)
        edges = np.hstack([-edge, at, edge])  # (P, 5): a level lies between two
        x = slopes * z  # (P, N)
        likelihood = sigmoid(x - edges[:, labels]) - sigmoid(x - edges[:, labels + 1])
        ridge = _RIDGE * (points**2).sum(axis=1)
        return np.asarray(ridge - np.log(np.maximum(likelihood, 1e-12)).mean(axis=1))

    theta = _minimise(losses, theta, max(1, _AT_ONCE // len(z)))
    slopes, cuts_at = unpack(theta[None])
    slope, at = float(slopes[0, 0]), cuts_at[0]
    first, second, third = (float(cut) for cut in at + slope * centre / scale)
    return CumulativeLink(slope / scale, (first, second, third), transform)


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


def fit_log_linear_pool(outputs: Float, labels: Int) -> LogLinearPool:
    """Calibrate a head's outputs and cosines (N, C + 1) each, then maximise the likelihood over weights."""
    head_outputs, cosines = split_outputs(outputs)
    scorer: Calibration = (
        fit_temperature(head_outputs, labels, biased=True)
        if head_outputs.ndim == 2
        else fit_cumulative_link(head_outputs, labels)
    )
    encoder = fit_cumulative_link(np.minimum(cosines, 1.0), labels, "log_distance")

    def pooled(theta: Float) -> LogLinearPool:
        a, b = np.exp(np.clip(theta, -5, 2))
        return LogLinearPool(scorer, encoder, (float(a), float(b)))

    def loss(theta: Float) -> float:
        likelihood = pooled(theta).probabilities(outputs)[np.arange(len(labels)), labels]
        return float(-np.log(likelihood).mean())

    return pooled(_minimise(_one_by_one(loss), np.log([0.5, 0.5])))


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


def fit_isotonic(scores: Float, labels: Int) -> Isotonic:
    """Fit one isotonic regression of [level >= k] on the score for each k: scores and labels (N,)."""
    first, second, third = (
        _pool_adjacent_violators(scores, (labels >= k).astype(np.float64)) for k in range(1, NUM_LEVELS)
    )
    return Isotonic((first[0], second[0], third[0]), (first[1], second[1], third[1]))


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
