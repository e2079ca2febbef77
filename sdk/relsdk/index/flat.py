"""Exact search by multiplying matrices: the oracle, and what small or filtered sets are searched with.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.index.base import IndexConfig, Neighbours, Progress, VectorIndex

__all__ = ["FlatIndex", "exact_search"]

# A block of scores takes at most 256 * 8192 * 4 bytes = 8 MB, a block of vectors 12 MB at 384 dimensions.
_QUERY_BLOCK = 256
_ROW_BLOCK = 8192


class FlatIndex(VectorIndex):
    """Exact search over a matrix that may be memory-mapped."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        config: IndexConfig,
        *,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> FlatIndex:
        """Wrap the matrix: there is nothing to build."""
        return cls(vectors)

    def search(self, queries: NDArray[np.float32], k: int, *, ef_search: int | None = None) -> Neighbours:
        """Find the nearest rows; see `VectorIndex.search`."""
        return exact_search(self._vectors, queries, k)

    def save(self, folder: Path) -> None:
        """Write nothing: the vectors are all there is."""

    @classmethod
    def load(cls, folder: Path, vectors: NDArray[np.float32], config: IndexConfig) -> FlatIndex:
        """Wrap the matrix."""
        return cls(vectors)


def exact_search(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    rows: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Find the nearest rows of each query in bounded memory.

    The scores of the winners are computed again, one by one, so a score does not depend on the other queries
    of the call. Equal scores are ordered by row.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D).
        k: How many.
        rows: Search only these rows, sorted; None searches all N.

    Returns:
        (Q, min(k, rows)) rows and dot products.
    """
    k = min(k, len(vectors) if rows is None else len(rows))
    found = np.empty((len(queries), k), dtype=np.int64)  # (Q, K)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries) if k else 0, _QUERY_BLOCK):
        block = queries[start : start + _QUERY_BLOCK]
        best = _best_rows(vectors, block, k, rows)
        for offset, query in enumerate(block):
            values = _dot(vectors, best[offset], query)  # (K,)
            order = np.lexsort((best[offset], -values))
            found[start + offset] = best[offset][order]
            scores[start + offset] = values[order]
    return Neighbours(found, scores)


def _best_rows(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the k best rows of each query in any order, (Q, K) int64."""
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    best_scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors) if rows is None else len(rows), _ROW_BLOCK):
        if rows is None:
            block = vectors[start : start + _ROW_BLOCK]  # (n, D)
            numbers = np.arange(start, start + len(block), dtype=np.int64)
        else:
            numbers = rows[start : start + _ROW_BLOCK]
            block = vectors[numbers]
        similarity = queries @ block.T  # (Q, n)
        best_scores = np.hstack([best_scores, similarity])
        best_rows = np.hstack([best_rows, np.broadcast_to(numbers, similarity.shape)])
        if best_scores.shape[1] > k:
            keep = np.argpartition(-best_scores, k - 1, axis=1)[:, :k]
            best_scores = np.take_along_axis(best_scores, keep, axis=1)
            best_rows = np.take_along_axis(best_rows, keep, axis=1)
    return best_rows


def _dot(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the dot product of the query with each row, (K,) float32, summed the same way for any K."""
    values = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROW_BLOCK):
        block = vectors[rows[start : start + _ROW_BLOCK]]
        values[start : start + _ROW_BLOCK] = np.einsum("nd,d->n", block, query)
    return values
