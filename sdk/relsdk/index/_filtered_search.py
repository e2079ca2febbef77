"""Search among the documents that a filter allows, without losing recall.

Few documents: exactly. Many: from the graph, asking for more than wanted and keeping those that are allowed;
what it does not deliver in reasonable time is searched exactly. hnswlib's filter callback is not used: it
calls Python for every candidate.
Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from relsdk.index._row_set import RowSet
from relsdk.index.base import IndexConfig, Neighbours, VectorIndex
from relsdk.index.flat import Codes, exact_search

__all__ = ["filtered_search"]

# The graph is asked for so many times what would do if allowed documents were spread evenly.
_SURPLUS = 3.0
_GROWTH = 4
# A candidate of the graph costs about as much as so many rows of exact search.
_ROWS_PER_CANDIDATE = 16


def filtered_search(
    index: VectorIndex,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    allowed: RowSet,
    config: IndexConfig,
    *,
    codes: Codes | None = None,
    ef_search: int | None = None,
) -> Neighbours:
    """Find the nearest allowed rows of each query.

    Args:
        index: Over `vectors`.
        vectors: (N, D).
        queries: (Q, D).
        k: How many.
        allowed: (N,) which rows may be found.
        config: `exact_rows` and `ef_search` are used; where most rows are allowed, the graph is searched.
        codes: Of the vectors, for exact search; see `exact_search`.
        ef_search: Replaces the configured one.

    Returns:
        (Q, min(k, allowed rows)) rows and cosines.
    """
    count = allowed.count
    k = min(k, count)
    if count <= min(config.exact_rows, len(vectors) // 2):
        return exact_search(vectors, queries, k, rows=allowed.rows, codes=codes)
    found_rows = np.empty((len(queries), k), dtype=np.int64)
    found_scores = np.empty((len(queries), k), dtype=np.float32)
    pending = np.arange(len(queries))
    fetch = max(ef_search or config.ef_search, math.ceil(_SURPLUS * k * len(vectors) / count))
    while len(pending) and fetch * _ROWS_PER_CANDIDATE <= count:
        candidates = index.search(queries[pending], fetch, ef_search=ef_search)
        keep = allowed.mask[candidates.rows]  # (pending, fetch)
        left = []
        for place, query in enumerate(pending.tolist()):
            rows = candidates.rows[place][keep[place]]
            if len(rows) < k:
                left.append(query)
                continue
            found_rows[query] = rows[:k]
            found_scores[query] = candidates.scores[place][keep[place]][:k]
        pending = np.array(left, dtype=np.int64)
        fetch *= _GROWTH
    if len(pending):
        exact = exact_search(vectors, queries[pending], k, rows=allowed.rows, codes=codes)
        found_rows[pending], found_scores[pending] = exact
    return Neighbours(found_rows, found_scores)
