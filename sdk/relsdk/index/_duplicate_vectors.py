"""Rows with equal vectors: a graph that holds them all falls apart, so it holds one of each.

A few hundred documents with the same text fill each other's lists of links. They form an island, and the rest
of the graph is no longer found: measured, 300 equal vectors among 800 hid up to all of the others.
Shape letters: N rows, D dimension, T twins, Q queries, K results of each query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._npy import map_matrix, npy_header
from relsdk.index.base import Neighbours

__all__ = ["TWINS_FILE", "DuplicateVectors"]

TWINS_FILE = "twins.npy"
_BLOCK = 8192

IntArray = NDArray[np.int64]


class DuplicateVectors:
    """The rows that stand for others with the same vector.

    Args:
        pairs: (T, 2) int64: a row, and the lowest row with the same vector; sorted by that one, then by row.
        count: N.
    """

    def __init__(self, pairs: IntArray, count: int) -> None:
        self.pairs = pairs
        self._count = count
        firsts, starts = np.unique(pairs[:, 1], return_index=True)
        groups = np.split(pairs[:, 0], starts[1:])
        self._others = dict(zip(firsts.tolist(), groups, strict=False))

    @classmethod
    def find(cls, vectors: NDArray[np.float32]) -> DuplicateVectors:
        """Group the rows of a matrix (N, D) by their bytes."""
        keys = _hashes(vectors)
        order = np.argsort(keys, kind="stable")  # within equal keys, rows rise
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        first = np.repeat(order[starts], np.diff(np.r_[starts, len(order)]))  # (N,)
        candidates = np.flatnonzero(order != first)
        pairs = np.stack([order[candidates], first[candidates]], axis=1).astype(np.int64)
        for start in range(0, len(pairs), _BLOCK):  # equal hashes are likely, not certain, to mean equal rows
            block = pairs[start : start + _BLOCK]
            equal = (vectors[block[:, 0]] == vectors[block[:, 1]]).all(axis=1)
            block[~equal, 1] = block[~equal, 0]
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return cls(pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))], len(vectors))

    def representatives(self) -> IntArray:
        """Return one row for each distinct vector, rising."""
        alone = np.ones(self._count, dtype=np.bool_)
        alone[self.pairs[:, 0]] = False
        return np.flatnonzero(alone)

    def expand(self, rows: IntArray, scores: NDArray[np.float32], k: int) -> Neighbours:
        """Put twins behind the row that stands for them and keep the first k.

        Args:
            rows: (Q, n) representatives, best first; with their twins at least k.
            scores: (Q, n).
            k: How many.

        Returns:
            (Q, k) rows and scores.
        """
        if not self._others:
            return Neighbours(rows[:, :k], scores[:, :k])
        all_rows = np.empty((len(rows), k), dtype=np.int64)
        all_scores = np.empty((len(rows), k), dtype=np.float32)
        for query in range(len(rows)):
            filled = 0
            for row, score in zip(rows[query].tolist(), scores[query].tolist(), strict=True):
                if filled == k:
                    break
                others = self._others.get(row, ())
                stop = min(filled + 1 + len(others), k)
                all_rows[query, filled] = row
                all_rows[query, filled + 1 : stop] = others[: stop - filled - 1]
                all_scores[query, filled:stop] = score
                filled = stop
        return Neighbours(all_rows, all_scores)

    def save(self, folder: Path) -> None:
        """Write the pairs."""
        content = npy_header("<i8", *self.pairs.shape) + self.pairs.astype("<i8").tobytes()
        (folder / TWINS_FILE).write_bytes(content)

    @classmethod
    def load(cls, folder: Path, count: int) -> DuplicateVectors:
        """Read the pairs.

        Raises:
            IndexFolderError: They are damaged.
        """
        path = folder / TWINS_FILE
        pairs: IntArray = map_matrix(path, "<i8", None, 2)
        twins, firsts = pairs[:, 0], pairs[:, 1]
        in_range = not len(pairs) or (pairs.min() >= 0 and pairs.max() < count)
        key = firsts * np.int64(count) + twins  # rises with (first, twin)
        if (
            not in_range
            or not (firsts < twins).all()
            or not (np.diff(key) > 0).all()
            or len(np.unique(twins)) < len(twins)
            or np.isin(firsts, twins).any()
        ):
            raise IndexFolderError(
                f"{path} is damaged: each row may be there once, beside the lowest of the {count:,} rows "
                f"that has the same vector; build the index again"
            )
        return cls(pairs, count)


def _hashes(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row's bytes, (N,): multilinear, modulo 2**64."""
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**64, size=vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    keys = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), _BLOCK):
        words = np.ascontiguousarray(vectors[start : start + _BLOCK]).view(np.uint32).astype(np.uint64)
        keys[start : start + _BLOCK] = (words * factors).sum(axis=1, dtype=np.uint64)
    return keys
