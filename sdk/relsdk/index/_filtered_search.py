"""Search among the documents that a filter allows, without losing recall.

Few documents: exactly. Many: from the graph, with more effort the fewer are allowed, keeping those that are;
exactly, too, where that is as fast. hnswlib's filter callback is not used: it calls Python each time.
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

# The graph is asked for so many that, were the allowed spread at random, k of them are among these with so
# many standard deviations to spare. Where they are not, it is asked again for more.
_DEVIATIONS = 3.0
_GROWTH = 4
# A candidate of the graph costs about as much as so many rows of exact search. Measured at a million vectors
# of 128 numbers: 4.1 and 0.1 us.
_ROWS_PER_CANDIDATE = 40


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
        config: `exact_rows` and `ef_search` are used.
        codes: Of the vectors, for exact search; see `exact_search`.
        ef_search: Replaces the configured one.

    Returns:
        (Q, min(k, allowed rows)) rows and cosines.
    """
    count = allowed.count
    k = min(k, count)
    # The k nearest allowed are among the k * thinning nearest of all: the effort grows alike. With fewer
    # candidates recall@10 was 0.8 where a tenth of a million vectors in small clusters was allowed.
    thinning = len(vectors) / count if count else 1.0
    effort = ef_search or config.ef_search
    as_fast = max(effort, config.ef_search) * thinning * _ROWS_PER_CANDIDATE > count
    if as_fast or count <= min(config.exact_rows, len(vectors) // 2):
        return exact_search(vectors, queries, k, rows=allowed.rows, codes=codes)
    found_rows = np.empty((len(queries), k), dtype=np.int64)
    found_scores = np.empty((len(queries), k), dtype=np.float32)
    pending = np.arange(len(queries))
    fetch = math.ceil(max(_enough(k, 1.0 - 1.0 / thinning), effort) * thinning)
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


def _enough(k: int, refused: float) -> float:
    """Return how many allowed must be expected, so that there are k: m - d * sqrt(m * refused) = k."""
    deviation = _DEVIATIONS * math.sqrt(refused)
    return ((deviation + math.sqrt(deviation**2 + 4 * k)) / 2) ** 2
