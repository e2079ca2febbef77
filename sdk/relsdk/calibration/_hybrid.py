"""Meaning and words together: one model of a pair's cosine and BM25.

Shape letters: N pairs, L = 4 levels, P parameters, T terms of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.calibration._models import Float, Int, apply_floor, as_scores, sigmoid
from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS, cumulative_to_probabilities
from relsdk.records import Promise

__all__ = ["HybridLink", "fit_hybrid_link", "hybrid_features"]

# Bounds of what is read, far beyond every fit: within them no score and no probability overflows.
_CosineWeight = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
_WordsWeight = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Cut = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]

_LEAST_WEIGHT = 1e-6
# Keeps parameters finite where the features tell the levels apart without an error.
_RIDGE = 1e-6
# A step that promises less has arrived.
_ENOUGH = 1e-14
_MOST_STEPS = 200


def hybrid_features(cosines: ArrayLike, bm25: ArrayLike, best_possible: ArrayLike) -> Float:
    """Return what `HybridLink` judges pairs by: the cosine, and the evidence of the words.

    The evidence is (BM25 / best possible)^2: half of a query's words count for a quarter. So a common
    character or two of a query in other words say next to nothing, and its cosine decides; a name that is
    there as a whole says a lot. In a plain sum every character counts as much as its share: that found the
    names and lost the queries in other words.

    Args:
        cosines: (N,) of query and document.
        bm25: (N,) of them, 0 without a common word.
        best_possible: What BM25 of no document can surpass for the query, (N,) or one number; 0 for a query
            without words.

    Returns:
        (N, 2).

    Raises:
        InputError: Shapes differ, a number is not finite, or a BM25 is below 0.
    """
    near, words = as_scores(cosines), as_scores(bm25)
    best = np.asarray(best_possible, dtype=np.float64)
    if near.shape != words.shape or best.shape not in ((), near.shape):
        raise InputError(
            f"{near.shape} cosines, {words.shape} BM25, {best.shape} best possible; the same is needed"
        )
    if not np.isfinite(best).all() or (words < 0).any() or (best < 0).any():
        raise InputError("BM25 and what it can be at best must be finite numbers of at least 0")
    share = np.minimum(np.divide(words, best, out=np.zeros_like(words), where=best > 0), 1.0)
    return np.stack([near, share**2], axis=1)


@dataclass(frozen=True, slots=True)
class HybridLink:
    """P(level >= k) = sigmoid(cosine_weight * cosine + words_weight * evidence - cuts[k-1]).

    A cumulative link (McCullagh 1980) on both features of `hybrid_features`, rising in each.

    Attributes:
        cosine_weight: Above 0.
        words_weight: At least 0.
        cuts: Not falling.
        promises: Precisions of hybrid searches that are graded by it.

    Raises:
        InputError: The cuts fall.
    """

    cosine_weight: _CosineWeight
    words_weight: _WordsWeight
    cuts: tuple[_Cut, _Cut, _Cut]
    promises: tuple[Promise, ...] = ()

    def __post_init__(self) -> None:
        if not self.cuts[0] <= self.cuts[1] <= self.cuts[2]:
            raise InputError(f"the cuts {self.cuts} must not fall")

    def scores(self, features: ArrayLike) -> Float:
        """Return what the order goes by: the cosine plus a bonus for the words, (N, 2) -> (N,).

        Without a common word it is the cosine itself.
        """
        near, evidence = _as_features(features).T
        return np.asarray(near + self.words_weight / self.cosine_weight * evidence)

    def probabilities(self, outputs: ArrayLike) -> Float:
        """Return P(level = 0..3) for the features of each pair: (N, 2) -> (N, L)."""
        logits = self.cosine_weight * self.scores(outputs)[:, None] - np.asarray(self.cuts)  # (N, L-1)
        return apply_floor(cumulative_to_probabilities(sigmoid(logits)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, from which `relsdk.typed_json.convert_json` makes the model again."""
        content: dict[str, Any] = {
            "cosine_weight": self.cosine_weight,
            "words_weight": self.words_weight,
            "cuts": list(self.cuts),
        }
        if self.promises:  # versions that know of none read a model without
            content["promises"] = [promise.to_dict() for promise in self.promises]
        return content


def _as_features(features: ArrayLike) -> Float:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise InputError(f"features of shape {values.shape}; finite numbers in 2 columns are needed")
    return values


def fit_hybrid_link(features: ArrayLike, labels: Int) -> HybridLink:
    """Maximise the likelihood, which has one maximum (Pratt 1981), over weights that are not below 0.

    With cuts c_1 <= c_2 <= c_3 and z the weighted sum, P(level = k) = s(z - c_k) s(c_k+1 - z) (1 - exp(c_k -
    c_k+1)), s the sigmoid: a logistic regression of two terms a pair, and a term of the steps between cuts.
    Bounded variables go by projected Newton steps (Bertsekas 1982).

    Args:
        features: (N, 2) of `hybrid_features`.
        labels: (N,) levels 0-3.
    """
    values = _as_features(features)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0.0] = 1.0
    theta = _minimise(_Loss((values - centre) / scale, labels))
    weights = np.maximum(theta[:2] / scale, [_LEAST_WEIGHT, 0.0])
    first, second, third = (float(cut) for cut in np.cumsum(theta[2:]) + weights @ centre)
    return HybridLink(float(weights[0]), float(weights[1]), (first, second, third))


class _Loss:
    """The mean negative log-likelihood as a function of (two weights, cut_1, two steps to the next cuts).

    Args:
        features: (N, 2), standardised.
        labels: (N,) levels 0-3.
    """

    # The first cut alone is free; weights and steps are not below 0.
    lowest = np.array([0.0, 0.0, -np.inf, 0.0, 0.0])

    def __init__(self, features: Float, labels: Int) -> None:
        self.count = len(labels)
        self.features, self.labels = features, labels
        cuts = np.tril(np.ones((NUM_LEVELS - 1, NUM_LEVELS - 1)))  # a cut is the sum of the steps before it
        above, below = labels >= 1, labels < NUM_LEVELS - 1
        terms = [
            np.hstack([features[above], -cuts[labels[above] - 1]]),  # z is above the cut of its level
            -np.hstack([features[below], -cuts[labels[below]]]),  # and below the next one
        ]
        self.terms = np.vstack(terms)  # (T, P)
        self.shares = np.array([(labels == k).mean() for k in (1, 2)])  # of the levels between two cuts

    def start(self) -> Float:
        """Return a point inside the bounds: no weight, cuts by how frequent the levels are."""
        at_least = np.clip([(self.labels >= k).mean() for k in range(1, NUM_LEVELS)], 1e-3, 1 - 1e-3)
        cuts = -np.log(at_least / (1 - at_least))
        return np.array([0.0, 0.0, cuts[0], *np.maximum(np.diff(cuts), 1e-2)])

    def value(self, theta: Float) -> float:
        """Return the loss; infinite where a level that occurs has no room."""
        steps = theta[3:]
        room = np.log(-np.expm1(-steps), out=np.full(2, -np.inf), where=steps > 0)
        if (room[self.shares > 0] == -np.inf).any():
            return np.inf
        fixed = float(self.shares[self.shares > 0] @ room[self.shares > 0])
        losses = np.logaddexp(0.0, -(self.terms @ theta))
        return float(losses.sum() / self.count - fixed + _RIDGE * theta[:2] @ theta[:2])

    def derivatives(self, theta: Float) -> tuple[Float, Float]:
        """Return gradient (P,) and Hessian (P, P)."""
        missing = sigmoid(-(self.terms @ theta))  # (T,)
        gradient = -(self.terms.T @ missing) / self.count
        curvature = missing * (1.0 - missing)
        hessian = (self.terms.T * curvature) @ self.terms / self.count
        gradient[:2] += 2 * _RIDGE * theta[:2]
        hessian[[0, 1], [0, 1]] += 2 * _RIDGE
        for place in np.flatnonzero(self.shares > 0):
            rise = np.expm1(theta[3 + place])
            gradient[3 + place] -= self.shares[place] / rise
            hessian[3 + place, 3 + place] += self.shares[place] * (1.0 + rise) / rise**2
        return gradient, hessian


def _minimise(loss: _Loss) -> Float:
    theta = loss.start()
    value = loss.value(theta)
    for _ in range(_MOST_STEPS):
        gradient, hessian = loss.derivatives(theta)
        free: NDArray[np.bool_] = (theta > loss.lowest) | (gradient < 0)
        direction = np.zeros(len(theta))
        inner = hessian[np.ix_(free, free)]
        direction[free] = -np.linalg.solve(inner + 1e-12 * np.eye(len(inner)), gradient[free])
        if -gradient @ direction <= _ENOUGH:
            break
        step = 1.0
        while step > 1e-10:
            ahead = np.maximum(theta + step * direction, loss.lowest)
            found = loss.value(ahead)
            if found <= value + 1e-4 * (gradient @ (ahead - theta)):
                break
            step /= 2
        else:
            break
        theta, value = ahead, found
    return theta
