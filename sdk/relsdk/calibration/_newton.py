"""Minimise a smooth function of a handful of parameters, and the one that most models of levels have.

Shape letters: N pairs, W weights, P parameters, T terms of the loss.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration._models import Float, Int, sigmoid
from relsdk.levels import NUM_LEVELS

__all__ = ["LinkLoss", "Loss", "minimise"]

# A step that promises less has arrived.
_ENOUGH = 1e-14
_MOST_STEPS = 100
# Curvature at least, so that no step goes far where the function is nearly flat.
_LEAST_CURVATURE = 1e-6


class Loss(Protocol):
    """A smooth function."""

    def value(self, theta: Float) -> float:
        """Return the function's value at (P,); infinite where it has none."""

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (P,) and Hessian (P, P)."""


def minimise(loss: Loss, theta: Float, lowest: Float | float, highest: float = np.inf) -> Float:
    """Return where a function is least within bounds, by damped, projected Newton steps (Bertsekas 1982).

    Where a curvature is negative its absolute value takes its place: the step goes down.

    Args:
        loss: The function.
        theta: (P,) where to begin.
        lowest: (P,) or one number, where a parameter ends.
        highest: The same above.
    """
    theta = np.clip(theta, lowest, highest)
    value = loss.value(theta)
    for _ in range(_MOST_STEPS):
        gradient, hessian = loss.derivatives(theta)
        free = ((theta > lowest) | (gradient < 0)) & ((theta < highest) | (gradient > 0))
        direction = _newton_step(gradient, hessian, free)
        while (out := ((theta <= lowest) & (direction < 0)) | ((theta >= highest) & (direction > 0))).any():
            free &= ~out
            direction = _newton_step(gradient, hessian, free)
        if -gradient @ direction <= _ENOUGH:
            break
        step = 1.0
        while step > 1e-10:
            ahead = np.clip(theta + step * direction, lowest, highest)
            found = loss.value(ahead)
            if found <= value + 1e-4 * (gradient @ (ahead - theta)):
                break
            step /= 2
        else:
            break
        theta, value = ahead, found
    return theta


def _newton_step(gradient: Float, hessian: Float, free: NDArray[np.bool_]) -> Float:
    curvatures, vectors = np.linalg.eigh(hessian[np.ix_(free, free)])
    step = np.zeros(len(gradient))
    step[free] = -vectors @ ((vectors.T @ gradient[free]) / np.maximum(np.abs(curvatures), _LEAST_CURVATURE))
    return step


class LinkLoss:
    """The mean negative log-likelihood of a cumulative link, of (W weights, cut_1, two steps to cuts).

    With cuts c_1 <= c_2 <= c_3 and z the weighted sum, P(level = k) = s(z - c_k) s(c_k+1 - z) (1 - exp(c_k -
    c_k+1)), s the sigmoid: a logistic regression of two terms a pair, and a term of the steps between cuts.

    Args:
        features: (N, W).
        labels: (N,) levels 0-3.
        ridge: Adds as much times the sum of the weights' squares.
    """

    def __init__(self, features: Float, labels: Int, ridge: float = 0.0) -> None:
        self._count, self._width = features.shape
        self._ridge = ridge
        cuts = np.tril(np.ones((NUM_LEVELS - 1, NUM_LEVELS - 1)))  # a cut is the sum of the steps before it
        above, below = labels >= 1, labels < NUM_LEVELS - 1
        terms = [
            np.hstack([features[above], -cuts[labels[above] - 1]]),  # z is above the cut of its level
            -np.hstack([features[below], -cuts[labels[below]]]),  # and below the next one
        ]
        self._terms = np.vstack(terms)  # (T, P)
        self._shares = np.array([(labels == k).mean() for k in (1, 2)])  # of the levels between two cuts
        self._at_least = np.array([(labels >= k).mean() for k in range(1, NUM_LEVELS)])

    def start(self) -> Float:
        """Return a point inside the bounds: no weight, cuts by how frequent the levels are."""
        at_least = np.clip(self._at_least, 1e-3, 1 - 1e-3)
        cuts = -np.log(at_least / (1 - at_least))
        return np.array([*np.zeros(self._width), cuts[0], *np.maximum(np.diff(cuts), 1e-2)])

    def value(self, theta: Float) -> float:
        """Return the loss; infinite where a level that occurs has no room."""
        weights, steps = theta[: self._width], theta[-2:]
        room = np.log(-np.expm1(-steps), out=np.full(2, -np.inf), where=steps > 0)
        if (room[self._shares > 0] == -np.inf).any():
            return np.inf
        fixed = float(self._shares[self._shares > 0] @ room[self._shares > 0])
        losses = np.logaddexp(0.0, -(self._terms @ theta))
        return float(losses.sum() / self._count - fixed + self._ridge * weights @ weights)

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (P,) and Hessian (P, P)."""
        missing = sigmoid(-(self._terms @ theta))  # (T,)
        gradient = -(self._terms.T @ missing) / self._count
        curvature = missing * (1.0 - missing)
        hessian = (self._terms.T * curvature) @ self._terms / self._count
        weights = np.arange(self._width)
        gradient[weights] += 2 * self._ridge * theta[weights]
        hessian[weights, weights] += 2 * self._ridge
        for place in np.flatnonzero(self._shares > 0) - 2:
            gap = -np.expm1(-theta[place])
            pull = self._shares[place] * (1.0 - gap) / gap
            gradient[place] -= pull
            hessian[place, place] += pull / gap
        return gradient, hessian
