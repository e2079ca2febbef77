"""Fit the models by maximum likelihood.

Shape letters: N pairs, L = 4 levels, C columns of logits, J pieces of a spline, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relsdk.calibration._models import (
    FLOOR,
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
from relsdk.calibration._newton import LinkLoss, minimise
from relsdk.levels import NUM_LEVELS

__all__ = ["BEND", "PIECES", "Fit", "fit_log_linear_pool", "fit_spline_link", "fit_temperature"]

Fit = Callable[[Float, Int], Calibration]
# Keeps parameters finite where a level has no pairs.
_RIDGE = 1e-6
# Pieces of a spline at most, each with as many pairs, and the change of a slope's logarithm from one to the
# next that its prior takes for little (bench/results/trust.md has others beside them).
PIECES = 12
BEND = 0.3
# Bounds of logarithms and cuts of a spline, of logarithm and biases of a temperature, of logarithms of a
# pool's weights.
_WIDEST = 20.0
_WIDEST_SCALE = 5.0
_WIDEST_WEIGHTS = (-5.0, 2.0)


def fit_spline_link(
    outputs: Float,
    labels: Int,
    transform: Transform = "identity",
    *,
    pieces: int = PIECES,
    bend: float = BEND,
) -> SplineLink:
    """Maximise the posterior over a monotone linear spline of the score, or of the level that a head expects.

    By the prior the logarithm of its slope changes little from piece to piece, or else at once (the
    pseudo-Huber penalty): from few pairs it is nearly straight, from many it follows them.

    Args:
        outputs: (N,) scores, (N, 4) logits, or (N, 3) of an ordinal head.
        labels: (N,) levels 0-3.
        transform: See `SplineLink`.
        pieces: At most; each has as many pairs.
        bend: The prior takes such a change of a slope's logarithm, from piece to piece, for little.
    """
    x = TRANSFORMS[transform](expected_levels(outputs))
    knots = np.unique(np.quantile(x, np.linspace(0, 1, pieces + 1)))
    if len(knots) == 1:
        knots = np.array([knots[0], knots[0] + 1.0])
    scale = float(x.std()) or 1.0
    covered = np.clip(x[:, None] - knots[:-1], 0, np.diff(knots)) / scale  # (N, J) of each piece
    loss = _SplineLoss(covered, labels, bend)
    slopes, cuts = loss.slopes_and_cuts(minimise(loss, loss.start(), -_WIDEST, _WIDEST))
    values = (0.0, *np.cumsum(slopes * np.diff(knots) / scale).tolist())
    first, second, third = cuts.tolist()
    return SplineLink(tuple(knots.tolist()), values, (first, second, third), transform)


class _SplineLoss:
    """The negative log-posterior of (J logarithms of slopes, cut_1, two logarithms of steps), per pair.

    With logarithms every point is valid.

    Args:
        covered: (N, J) how much of each piece lies below a pair.
        labels: (N,) levels 0-3.
        bend: See `fit_spline_link`.
    """

    def __init__(self, covered: Float, labels: Int, bend: float = BEND) -> None:
        self._count, self._pieces = covered.shape
        self._middle = float(covered.sum(axis=1).mean())
        self._link = LinkLoss(covered, labels)
        self._changes = np.diff(np.eye(self._pieces), axis=0) / bend  # (J - 1, J)

    def start(self) -> Float:
        """Return the straight line of slope 1, with cuts by how frequent the levels are."""
        theta = self._link.start()
        theta[self._pieces] += self._middle
        theta[-2:] = np.log(theta[-2:])
        return theta

    def slopes_and_cuts(self, theta: Float) -> tuple[Float, Float]:
        """Return (J,) and (3,)."""
        point = self._exp(theta)
        return point[: self._pieces], np.cumsum(point[self._pieces :])

    def value(self, theta: Float) -> float:
        """Return the loss."""
        bends = self._changes @ theta[: self._pieces]
        prior = (np.sqrt(1 + bends**2) - 1).sum() / self._count
        return float(self._link.value(self._exp(theta)) + prior + _RIDGE * theta @ theta)

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (P,) and Hessian (P, P)."""
        point = self._exp(theta)
        first, second = point.copy(), point.copy()  # derivatives of what is an exponential
        first[self._pieces], second[self._pieces] = 1.0, 0.0
        gradient, hessian = self._link.derivatives(point)
        hessian = np.outer(first, first) * hessian + np.diag(second * gradient)
        gradient = first * gradient
        bends = self._changes @ theta[: self._pieces]
        bent = np.sqrt(1 + bends**2)
        slopes = slice(self._pieces)
        gradient[slopes] += self._changes.T @ (bends / bent) / self._count
        hessian[slopes, slopes] += (self._changes.T / bent**3) @ self._changes / self._count
        return gradient + 2 * _RIDGE * theta, hessian + 2 * _RIDGE * np.eye(len(theta))

    def _exp(self, theta: Float) -> Float:
        point = np.exp(theta)
        point[self._pieces] = theta[self._pieces]
        return point


def fit_temperature(logits: Float, labels: Int, *, biased: bool = False) -> Temperature:
    """Maximise the likelihood over the temperature's logarithm: logits (N, 4), or (N, 3) of an ordinal head.

    Args:
        logits: What the head gives.
        labels: (N,) levels 0-3.
        biased: Fit a bias of each logit, too (of four, the first is 0: only differences matter).
    """
    loss = _TemperatureLoss(logits, labels)
    start = np.zeros(NUM_LEVELS if biased else 1)
    return loss.scaled(minimise(loss, start, -_WIDEST_SCALE, _WIDEST_SCALE))


class _TemperatureLoss:
    """The mean negative log-likelihood of (temperature's logarithm), or of (it, three biases).

    Args:
        logits: (N, 4), or (N, 3) of an ordinal head.
        labels: (N,) levels 0-3.
    """

    def __init__(self, logits: Float, labels: Int) -> None:
        self._logits, self._labels = logits, labels
        self._ordinal = logits.shape[1] == NUM_LEVELS - 1

    def scaled(self, theta: Float) -> Temperature:
        """Return the model at a point."""
        temperature, *biases = theta.tolist()
        fixed = [0.0] if biases and not self._ordinal else []
        return Temperature(float(np.exp(temperature)), self._ordinal, tuple(fixed + biases))

    def value(self, theta: Float) -> float:
        """Return the loss."""
        probabilities = self.scaled(theta).probabilities(self._logits)
        likelihood = probabilities[np.arange(len(self._labels)), self._labels]
        return float(-np.log(likelihood).mean() + _RIDGE * theta @ theta)

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (P,) and Hessian (P, P)."""
        model = self.scaled(theta)
        divided = self._logits / model.temperature  # (N, C)
        logits = divided + np.asarray(model.biases) if model.biases else divided
        share, slope, bend = (_of_cumulative if self._ordinal else _of_softmax)(logits, self._labels)
        lift = 1 - NUM_LEVELS * FLOOR
        rate = lift / (FLOOR + lift * share)  # (N,)
        towards = rate[:, None] * np.column_stack([-(slope * divided).sum(axis=1), slope])  # (N, 1 + C)
        bent = np.einsum("ncd,nd->nc", bend, divided)
        of_scale, mixed = rate @ ((bent + slope) * divided).sum(axis=1), -(rate @ bent)
        hessian = towards.T @ towards
        hessian -= np.block([[of_scale, mixed], [mixed[:, None], np.tensordot(rate, bend, 1)]])
        fitted = np.arange(len(theta))
        fitted[1:] += len(hessian) - NUM_LEVELS  # of four biases the first is fixed
        gradient = 2 * _RIDGE * theta - towards.mean(axis=0)[fitted]
        return gradient, hessian[np.ix_(fitted, fitted)] / len(divided) + 2 * _RIDGE * np.eye(len(theta))


def _of_softmax(logits: Float, labels: Int) -> tuple[Float, Float, Float]:
    """Return P(label), its gradient and Hessian by logits (N, 4): (N,), (N, C), (N, C, C)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    own = shares[np.arange(len(labels)), labels]
    away = np.eye(NUM_LEVELS)[labels] - shares
    slope = own[:, None] * away
    spread = shares[:, :, None] * (np.eye(NUM_LEVELS) - shares[:, None])
    return own, slope, slope[:, :, None] * away[:, None] - own[:, None, None] * spread


def _of_cumulative(logits: Float, labels: Int) -> tuple[Float, Float, Float]:
    """Return the same by logits (N, 3) of P(level >= 1..3), of which each is at most the one before."""
    at_least = sigmoid(logits)
    lowest = at_least == np.minimum.accumulate(at_least, axis=1)
    place = np.maximum.accumulate(np.where(lowest, np.arange(NUM_LEVELS - 1), 0), axis=1)  # of the minimum
    signs = np.zeros_like(logits)
    above, below = np.flatnonzero(labels >= 1), np.flatnonzero(labels < NUM_LEVELS - 1)
    signs[above, place[above, labels[above] - 1]] += 1
    signs[below, place[below, labels[below]]] -= 1
    slope = signs * at_least * (1 - at_least)
    bend = (slope * (1 - 2 * at_least))[:, :, None] * np.eye(NUM_LEVELS - 1)
    return (labels == 0) + (signs * at_least).sum(axis=1), slope, bend


def fit_log_linear_pool(outputs: Float, labels: Int, fit_scorer: Fit) -> LogLinearPool:
    """Calibrate a head's outputs and cosines (N, C + 1) each, then maximise the likelihood over weights."""
    head_outputs, cosines = split_outputs(outputs)
    scorer, encoder = fit_scorer(head_outputs, labels), fit_spline_link(cosines, labels, "log_distance")
    alone = np.log(np.stack([scorer.probabilities(head_outputs), encoder.probabilities(cosines)]))
    loss = _PoolLoss(alone, labels)
    theta = minimise(loss, np.log([0.5, 0.5]), *_WIDEST_WEIGHTS)
    return LogLinearPool(scorer, encoder, loss.weights(theta))


class _PoolLoss:
    """The mean negative log-likelihood of (two logarithms of weights).

    Args:
        alone: (2, N, L) logarithms of each one's probabilities.
        labels: (N,) levels 0-3.
    """

    def __init__(self, alone: Float, labels: Int) -> None:
        self._alone, self._labels = alone, labels

    def weights(self, theta: Float) -> tuple[float, float]:
        """Return a and b."""
        a, b = np.exp(theta).tolist()
        return a, b

    def value(self, theta: Float) -> float:
        """Return the loss."""
        logs = np.tensordot(self.weights(theta), self._alone, 1)  # (N, L)
        own = logs[np.arange(len(logs)), self._labels]
        return float((np.logaddexp.reduce(logs, axis=1) - own).mean())

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (2,) and Hessian (2, 2)."""
        weights = np.asarray(self.weights(theta))
        logs = np.tensordot(weights, self._alone, 1)
        odds = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)  # (N, L)
        means = (shares * self._alone).sum(axis=2)  # (2, N)
        own = self._alone[:, np.arange(len(logs)), self._labels]
        gradient = weights * (means - own).mean(axis=1)
        spread = np.tensordot(shares * self._alone, self._alone, ((1, 2), (1, 2))) - means @ means.T
        return gradient, np.outer(weights, weights) * spread / len(logs) + np.diag(gradient)
