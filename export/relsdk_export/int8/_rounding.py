"""Round real numbers to int8: to the nearest, or so that the errors of a product cancel.

Shape letters: K inner width, N output width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ErrorPassing", "pass_errors", "round_columns", "round_rows"]

# Rows whose errors are passed on to later ones by one product.
_BLOCK = 64
# Part of the mean variance that is added to every channel's, so that rare channels are not trusted too far.
_DAMPING = 0.1

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class ErrorPassing:
    """How the rows of weights (K, N) take up each other's rounding errors, in any range.

    Attributes:
        order: (K,) rows in the order in which they are rounded.
        shares: (K, K) of the j-th row's error, the part that the k-th takes up, k > j; rows in that order.
    """

    order: NDArray[np.int64]
    shares: NDArray[np.float64]


def pass_errors(covariance: NDArray[np.float32]) -> ErrorPassing:
    """Choose how errors are passed on for an activation x (K,) of covariance C.

    The variance of the product's error E = W - Q is tr(E^T C E). With C = R R^T and R upper triangular that
    is the sum over k of |R_kk (E_k + sum over j < k of E_j R_jk / R_kk)|^2: a row is best rounded after the
    errors before it, so weighted, were added to it. The most varying rows come first.

    Args:
        covariance: (K, K), symmetric and positive semi-definite.
    """
    order = np.argsort(-np.diagonal(covariance), kind="stable")
    damped = covariance[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diagonal(damped).mean() or 1.0
    # numpy's factor is lower triangular: that of the reversed matrix, reversed, is upper.
    factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return ErrorPassing(order, np.ascontiguousarray(factor / np.diagonal(factor)))


def round_rows(table: NDArray[np.float32], largest: int) -> Rounded:
    """Round a table (V, K) to the nearest in [-largest, largest]; one scale a row, (V, 1)."""
    scale = _scale(table, largest, axis=1)
    return np.rint(table / scale).astype(np.int8), scale


def round_columns(weights: NDArray[np.float32], largest: int, passing: ErrorPassing | None = None) -> Rounded:
    """Round weights (K, N) to [-largest, largest]; one scale a column, (1, N).

    With `passing`, the error of the product is made small instead of W - Q itself: one row after the other is
    rounded, and its error is taken up by the rows to come (Frantar et al. 2023, GPTQ, in the form of Chee et
    al. 2023, QuIP, which needs no inverse).

    Args:
        weights: (K, N).
        largest: At most 127.
        passing: Made of the covariance of the activation that meets the weights; None rounds to the nearest.
    """
    scale = _scale(weights, largest, axis=0)
    units = (weights / scale).astype(np.float64)  # (K, N)
    if passing is None:
        return np.rint(units).astype(np.int8), scale
    order, shares = passing.order, passing.shares
    exact, rounded = units[order], np.empty(weights.shape, dtype=np.int8)
    errors = np.empty_like(exact)
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(order)))
        corrected = exact[rows] + shares[:start, rows].T @ errors[:start]
        for row in range(rows.start, rows.stop):
            here = corrected[row - start] + shares[start:row, row] @ errors[start:row]
            whole = np.clip(np.rint(here), -largest, largest)
            rounded[order[row]] = whole
            errors[row] = exact[row] - whole
    return rounded, scale


def _scale(values: NDArray[np.float32], largest: int, *, axis: int) -> NDArray[np.float32]:
    magnitude = np.abs(values).max(axis=axis, keepdims=True)
    return np.asarray(np.maximum(magnitude / largest, 1e-12), dtype=np.float32)
