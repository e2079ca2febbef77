"""Round real numbers to int8: to the nearest, or so that the errors of a product cancel.

Shape letters: K inner width, N output width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["round_columns", "round_rows"]

# Rows rounded before their errors are passed on to all the rest at once.
_BLOCK = 128
# Part of the mean variance that is added to every channel's, so that rare channels are not trusted too far.
_DAMPING = 0.1

Rounded = tuple[NDArray[np.int8], NDArray[np.float32]]


def round_rows(table: NDArray[np.float32], largest: int) -> Rounded:
    """Round a table (V, K) to the nearest in [-largest, largest]; one scale a row, (V, 1)."""
    scale = _scale(table, largest, axis=1)
    return np.rint(table / scale).astype(np.int8), scale


def round_columns(
    weights: NDArray[np.float32], largest: int, covariance: NDArray[np.float32] | None = None
) -> Rounded:
    """Round weights (K, N) to [-largest, largest]; one scale a column, (1, N).

    With the covariance C of the activation x (K,) that meets them, the variance of the product's error,
    tr((W - Q)^T C (W - Q)), is made small instead of W - Q itself: one row after the other is rounded, most
    varying first, and its error is taken up by the rows to come (Frantar et al. 2023, GPTQ, algorithm 1).

    Args:
        weights: (K, N).
        largest: At most 127.
        covariance: (K, K), symmetric and positive semi-definite; None rounds to the nearest.
    """
    scale = _scale(weights, largest, axis=0)
    units = (weights / scale).astype(np.float64)  # (K, N)
    if covariance is None or not np.diagonal(covariance).any():
        return np.rint(units).astype(np.int8), scale
    order = np.argsort(-np.diagonal(covariance), kind="stable")
    passing = _inverse_factor(covariance[np.ix_(order, order)])  # (K, K)
    rest, rounded = units[order], np.empty(weights.shape, dtype=np.int8)
    for start in range(0, len(order), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(order)))
        errors = np.empty_like(rest[rows])
        for row in range(rows.start, rows.stop):
            whole = np.clip(np.rint(rest[row]), -largest, largest)
            rounded[order[row]] = whole
            error = (rest[row] - whole) / passing[row, row]
            rest[row + 1 : rows.stop] -= np.outer(passing[row, row + 1 : rows.stop], error)
            errors[row - start] = error
        rest[rows.stop :] -= passing[rows, rows.stop :].T @ errors
    return rounded, scale


def _inverse_factor(covariance: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the upper Cholesky factor of the damped covariance's inverse."""
    damped = covariance.astype(np.float64)
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diagonal(damped).mean()
    inverse = np.linalg.inv(damped)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)


def _scale(values: NDArray[np.float32], largest: int, *, axis: int) -> NDArray[np.float32]:
    magnitude = np.abs(values).max(axis=axis, keepdims=True)
    return np.asarray(np.maximum(magnitude / largest, 1e-12), dtype=np.float32)
