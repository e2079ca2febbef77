"""Exact search by multiplying matrices: the oracle, and what small or filtered sets are searched with.

Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index.base import IndexConfig, Neighbours, Progress, VectorIndex
from relsdk.runtime.blas import bounded_blas

__all__ = ["Codes", "FlatIndex", "encode_int8", "exact_search"]

# A block of scores takes at most 256 * 8192 * 4 bytes = 8 MB, and twice that with the rows between.
_QUERY_BLOCK = 256
_ROW_BLOCK = 8192
# Rows that are gathered at a time stay in a cache of the CPU.
_GATHERED = 1024
# To multiply so many times the rows as they lie is faster than to gather those that are wanted.
_DENSE = 2
# An error of rounding so many times its usual size is never met.
_DEVIATIONS = 7.0
# A product of matrices and one of vectors sum in another order; dot products of unit vectors differ by less.
_ROUNDING = 1e-5


class Codes:
    """Vectors in 8 bits a number: rough scores with a known error, for a quarter of the memory.

    Each row has a scale of its own. The error of a product is a sum of D roundings, so all but normal: seven
    standard deviations are never met.

    Args:
        numbers: (N, D) int8, may be memory-mapped.
        scales: (N,) float32: a number times its row's scale is what it stands for.
    """

    def __init__(self, numbers: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        self.numbers = numbers
        self._scales = scales
        step = float(scales.max(initial=0.0))
        self.error = _DEVIATIONS * step / math.sqrt(12.0) + _ROUNDING

    def products(self, queries: NDArray[np.float32], rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rough products of some rows with unit queries (Q, D): (Q, n)."""
        products = _products(self.numbers, queries, rows)
        products *= self._scales[rows]
        return products


def encode_int8(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round (n, D) vectors to 8 bits: numbers (n, D) from -127 to 127, and the scale of each row (n,)."""
    scales = np.abs(vectors).max(axis=1) / 127.0
    steps = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return np.rint(vectors / steps[:, None]).astype(np.int8), steps


class FlatIndex(VectorIndex):
    """Exact search over a matrix that may be memory-mapped."""

    def __init__(self, vectors: NDArray[np.float32], codes: Codes | None = None) -> None:
        self._vectors = vectors
        self._codes = codes

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
        return exact_search(self._vectors, queries, k, codes=self._codes)

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
    codes: Codes | None = None,
) -> Neighbours:
    """Find the nearest rows of each query in bounded memory.

    The scores of the winners are computed again, one by one, so a score does not depend on the other queries
    of the call. Equal scores are ordered by row, at the last place too: fewer results are the first of more.

    Args:
        vectors: (N, D), may be memory-mapped.
        queries: (Q, D).
        k: How many.
        rows: Search only these rows, sorted; None searches all N.
        codes: Of the vectors: candidates are found by them, with room for their error, in a quarter of the
            memory.

    Returns:
        (Q, min(k, rows)) rows and dot products.

    Raises:
        IndexFolderError: Too many vectors hold NaN.
    """
    count = len(vectors) if rows is None else len(rows)
    k = min(k, count)
    best_rows = np.empty((len(queries), k), dtype=np.int64)  # (Q, K)
    scores = np.empty((len(queries), k), dtype=np.float32)
    error = _ROUNDING if codes is None else codes.error
    for start in range(0, len(queries) if k else 0, _QUERY_BLOCK):
        block = queries[start : start + _QUERY_BLOCK]
        best = [Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))] * len(block)
        for first in range(0, count, _ROW_BLOCK):
            last = min(first + _ROW_BLOCK, count)
            numbers = slice(first, last) if rows is None else rows[first:last]
            rough = _products(vectors, block, numbers) if codes is None else codes.products(block, numbers)
            for offset, similarity in enumerate(rough):  # (n,)
                chosen = _worth_a_look(best[offset], similarity, k, error)
                if len(chosen):
                    found = chosen + first if rows is None else rows[first + chosen]
                    best[offset] = _merge(best[offset], vectors, found, block[offset], k)
        for offset, one in enumerate(best):
            if len(one.rows) < k:  # no score is at least as high as NaN
                raise IndexFolderError(
                    "the vectors of the index hold NaN; check it with: relsdk index verify"
                )
            best_rows[start + offset], scores[start + offset] = one.rows, one.scores
    return Neighbours(best_rows, scores)


def _products(
    vectors: NDArray[Any], queries: NDArray[np.float32], rows: slice | NDArray[np.int64]
) -> NDArray[np.float32]:
    """Multiply some rows of a matrix (N, D) of numbers with queries: (Q, n)."""
    if isinstance(rows, slice) and vectors.dtype == np.float32:
        with bounded_blas():
            return np.asarray(queries @ vectors[rows].T)
    if not isinstance(rows, slice) and vectors.dtype == np.float32 and len(rows):
        first, last = int(rows[0]), int(rows[-1])
        if last - first < _DENSE * len(rows):
            return _products(vectors, queries, slice(first, last + 1))[:, rows - first]
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    products = np.empty((len(queries), count), dtype=np.float32)
    gathered = np.empty((min(_GATHERED, count), vectors.shape[1]), dtype=vectors.dtype)
    floats = gathered if vectors.dtype == np.float32 else gathered.astype(np.float32)
    for start in range(0, count, _GATHERED):
        stop = min(start + _GATHERED, count)
        if isinstance(rows, slice):
            some = vectors[rows.start + start : rows.start + stop]
        else:  # "clip" writes into `out` without a buffer; the rows are in range
            some = vectors.take(rows[start:stop], axis=0, out=gathered[: stop - start], mode="clip")
        if some.dtype != np.float32:
            floats[: stop - start] = some
            some = floats[: stop - start]
        with bounded_blas():
            products[:, start:stop] = queries @ some.T
    return products


def _worth_a_look(
    best: Neighbours, similarity: NDArray[np.float32], k: int, error: float
) -> NDArray[np.int64]:
    """Return which of n rows, whose rough scores are known, may be among the k best."""
    if len(best.scores) == k:
        floor = best.scores[-1]
    else:  # two errors: of the one at the last place, and of the others
        floor = np.partition(similarity, -k)[-k] - error if len(similarity) > k else -np.inf
    return np.flatnonzero(similarity >= floor - error)


def _merge(
    best: Neighbours,
    vectors: NDArray[np.float32],
    found: NDArray[np.int64],
    query: NDArray[np.float32],
    k: int,
) -> Neighbours:
    """Return the k best, in order, of those so far and of further rows."""
    rows = np.concatenate([best.rows, found])
    scores = np.concatenate([best.scores, np.einsum("nd,d->n", vectors[found], query)])
    order = np.lexsort((rows, -scores))[:k]
    return Neighbours(rows[order], scores[order])
