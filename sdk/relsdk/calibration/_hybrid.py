"""Meaning and words together: one model of a pair's cosine and BM25.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from relsdk.calibration._models import Float, Int, apply_floor, as_scores, sigmoid
from relsdk.calibration._newton import LinkLoss, minimise
from relsdk.errors import InputError
from relsdk.levels import cumulative_to_probabilities
from relsdk.records import Promise

__all__ = ["HybridLink", "fit_hybrid_link", "hybrid_features"]

# Bounds of what is read, far beyond every fit: within them no score and no probability overflows.
_CosineWeight = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
_WordsWeight = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Cut = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]

_LEAST_WEIGHT = 1e-6
# Keeps parameters finite where the features tell the levels apart without an error.
_RIDGE = 1e-6


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

    Args:
        features: (N, 2) of `hybrid_features`.
        labels: (N,) levels 0-3.
    """
    values = _as_features(features)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0.0] = 1.0
    loss = LinkLoss((values - centre) / scale, labels, _RIDGE)
    # The first cut alone is free; weights and steps are not below 0.
    theta = minimise(loss, loss.start(), np.array([0.0, 0.0, -np.inf, 0.0, 0.0]))
    weights = np.maximum(theta[:2] / scale, [_LEAST_WEIGHT, 0.0])
    first, second, third = (float(cut) for cut in np.cumsum(theta[2:]) + weights @ centre)
    return HybridLink(float(weights[0]), float(weights[1]), (first, second, third))
