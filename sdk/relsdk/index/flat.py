"""Exact search by multiplying matrices: the oracle, and what small or filtered sets are searched with.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index.base import IndexConfig, Neighbours, Progress, VectorIndex
from relsdk.runtime.blas import bounded_blas

__all__ = ["FlatIndex", "exact_search"]

# A block of scores takes at most 256 * 8192 * 4 bytes = 8 MB, a block of vectors 12 MB at 384 dimensions.
_QUERY_BLOCK = 256
_ROW_BLOCK = 8192
# A product of matrices and one of vectors sum in another order; dot products of unit vectors differ by less.
_ROUNDING = 1e-5


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
    of the call. Equal scores are ordered by row, at the last place too: fewer results are the first of more.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D).
        k: How many.
        rows: Search only these rows, sorted; None searches all N.

    Returns:
        (Q, min(k, rows)) rows and dot products.

    Raises:
        IndexFolderError: Too many vectors hold NaN.
    """
    count = len(vectors) if rows is None else len(rows)
    k = min(k, count)
    best_rows = np.empty((len(queries), k), dtype=np.int64)  # (Q, K)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries) if k else 0, _QUERY_BLOCK):
        block = queries[start : start + _QUERY_BLOCK]
        best = [Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))] * len(block)
        for first in range(0, count, _ROW_BLOCK):
            last = min(first + _ROW_BLOCK, count)
            numbers = np.arange(first, last, dtype=np.int64) if rows is None else rows[first:last]
            nearby = vectors[first:last] if rows is None else vectors[numbers]  # (n, D)
            with bounded_blas():
                rough = block @ nearby.T  # (q, n)
            for offset, similarity in enumerate(rough):  # (n,)
                best[offset] = _merge(best[offset], numbers, nearby, block[offset], similarity, k)
        for offset, one in enumerate(best):
            if len(one.rows) < k:  # no score is at least as high as NaN
                raise IndexFolderError(
                    "the vectors of the index hold NaN; check it with: relsdk index verify"
                )
            best_rows[start + offset], scores[start + offset] = one.rows, one.scores
    return Neighbours(best_rows, scores)


def _merge(
    best: Neighbours,
    numbers: NDArray[np.int64],
    nearby: NDArray[np.float32],
    query: NDArray[np.float32],
    similarity: NDArray[np.float32],
    k: int,
) -> Neighbours:
    """Return the k best, in order, of those so far and of n further rows whose rough scores are known."""
    if len(best.scores) == k:
        floor = best.scores[-1]
    else:
        floor = np.partition(similarity, -k)[-k] if len(similarity) > k else -np.inf
    chosen = np.flatnonzero(similarity >= floor - _ROUNDING)
    if not len(chosen):
        return best
    rows = np.concatenate([best.rows, numbers[chosen]])
    scores = np.concatenate([best.scores, np.einsum("nd,d->n", nearby[chosen], query)])
    order = np.lexsort((rows, -scores))[:k]
    return Neighbours(rows[order], scores[order])
