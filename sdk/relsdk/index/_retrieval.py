"""Candidates of a query from both sides, by meaning and by words, each with what both say of it.

Shape letters: C candidates, D dimension, n rows of one segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink, hybrid_features
from relsdk.index._generation import Found, Generation
from relsdk.index._lexical_search import LexicalQuery, LexicalSearch
from relsdk.index._row_set import RowSet
from relsdk.records import Hit, Signals

__all__ = ["MODES", "Candidates", "Mode", "candidate_hits", "found_hits", "hybrid_scores", "retrieve"]

MODES = ("dense", "lexical", "hybrid")
Mode = Literal["dense", "lexical", "hybrid"]

# So many at least are taken from each side: what both rank in the middle may be best of all.
_LEAST = 100
# Passages: so many times more are looked at, until they are of enough documents.
_GROWTH = 4

IntArray = NDArray[np.int64]


class Candidates(NamedTuple):
    """The candidates of one query, each document once; in the order of the rows.

    Attributes:
        rows: (C,) document rows, counted over all segments.
        vectors: (C,) vector rows, counted over all segments: the passage that was found.
        cosines: (C,) float32.
        bm25: (C,) float32, 0 for those without a word of the query.
        best_possible: What BM25 of no document can surpass.
        dense_ranks: (C,) from 1, 0 for those that were found by words only.
        lexical_ranks: (C,) from 1, 0 for those that were found by meaning only.
    """

    rows: IntArray
    vectors: IntArray
    cosines: NDArray[np.float32]
    bm25: NDArray[np.float32]
    best_possible: float
    dense_ranks: IntArray
    lexical_ranks: IntArray


def retrieve(
    generation: Generation,
    words: LexicalSearch,
    vector: NDArray[np.float32],
    tokens: Sequence[str],
    k: int,
    *,
    dense: bool,
    where: Mapping[str, Any] | None,
    ef_search: int | None,
) -> Candidates:
    """Find the documents nearest to a vector and those with the words of a query.

    Args:
        generation: Of the index.
        words: Over its segments.
        vector: (D,) of the query.
        tokens: Of the query.
        k: How many are wanted; more candidates are looked at.
        dense: False takes those with the words alone.
        where: A filter.
        ef_search: Effort of a search in the graphs.
    """
    query = words.query(tokens)
    count = max(k, _LEAST)
    allowed = [generation.vectors_of(*one) for one in enumerate(generation.allowed(where))]
    lexical, scores = _with_words(generation, words, query, count if dense else k, allowed)
    near = np.empty(0, dtype=np.int64)
    if dense:
        found = generation.search(vector[None], count, ef_search=ef_search, where=where, exact=False)
        near = found.vectors[0][found.rows[0] >= 0]
    vectors = np.unique(np.concatenate([lexical, near]))
    lexical_ranks, dense_ranks = np.zeros((2, len(vectors)), dtype=np.int64)
    places = np.searchsorted(vectors, lexical)
    lexical_ranks[places] = np.arange(1, len(lexical) + 1)
    dense_ranks[np.searchsorted(vectors, near)] = np.arange(1, len(near) + 1)
    bm25 = np.full(len(vectors), np.nan, dtype=np.float32)  # not known yet
    bm25[places] = scores
    rows, cosines = _describe(generation, words, query, vector, vectors, bm25)
    return Candidates(rows, vectors, cosines, bm25, query.best_possible, dense_ranks, lexical_ranks)


def _with_words(
    generation: Generation,
    words: LexicalSearch,
    query: LexicalQuery,
    count: int,
    allowed: Sequence[RowSet],
) -> tuple[IntArray, NDArray[np.float32]]:
    """Find vector rows with words of a query, of as many documents if there are so many.

    Returns:
        The rows, counted over all segments, best first, and their BM25.
    """
    wanted = count
    while True:  # several passages of one document may be among the best
        hits = words.search(query, wanted, allowed)
        vectors: IntArray = hits.rows + generation.vector_starts[hits.segments]
        if len(vectors) < wanted or generation.count_documents(hits.segments, hits.rows) >= count:
            return vectors, hits.scores
        wanted *= _GROWTH


def _describe(
    generation: Generation,
    words: LexicalSearch,
    query: LexicalQuery,
    vector: NDArray[np.float32],
    vectors: IntArray,
    bm25: NDArray[np.float32],
) -> tuple[IntArray, NDArray[np.float32]]:
    """Return document row and cosine of vectors (C,), rising rows counted over all segments.

    BM25 (C,) is completed: NaN where words did not find a vector.
    """
    rows = np.empty(len(vectors), dtype=np.int64)
    cosines = np.empty(len(vectors), dtype=np.float32)
    ends = np.searchsorted(vectors, generation.vector_starts)
    for number, segment in enumerate(generation.segments):
        own = slice(ends[number], ends[number + 1])
        some = vectors[own] - generation.vector_starts[number]  # (n,)
        if len(some):
            rows[own] = segment.documents_of(some) + generation.starts[number]
            cosines[own] = np.einsum("nd,d->n", segment.vectors[some], vector)
            missing = np.flatnonzero(np.isnan(bm25[own]))
            bm25[own.start + missing] = words.scores(query, number, some[missing])
    return rows, cosines


def candidate_hits(
    generation: Generation, candidates: Candidates, scores: NDArray[np.float32], k: int
) -> list[Hit]:
    """Make records of the k candidates with the highest scores (C,), of each document the best passage."""
    order = np.lexsort((candidates.vectors, -scores))
    _, first = np.unique(candidates.rows[order], return_index=True)
    order = order[np.sort(first)][:k]
    rows = candidates.rows[order].tolist()
    documents = generation.documents(sorted(rows))
    return [
        Hit(
            documents[row],
            float(scores[place]),
            passage=generation.passage(documents[row], int(candidates.vectors[place])),
            signals=Signals(
                cosine=float(candidates.cosines[place]),
                bm25=float(candidates.bm25[place]),
                best_possible=candidates.best_possible,
                dense_rank=int(candidates.dense_ranks[place]) or None,
                lexical_rank=int(candidates.lexical_ranks[place]) or None,
            ),
        )
        for row, place in zip(rows, order.tolist(), strict=True)
    ]


def found_hits(generation: Generation, found: Found) -> list[list[Hit]]:
    """Make records of what was found; one statement a segment for all queries."""
    documents = generation.documents(sorted(set(found.rows[found.rows >= 0].tolist())))
    lists = zip(found.rows.tolist(), found.scores.tolist(), found.vectors.tolist(), strict=True)
    hits = []
    for rows, scores, vectors in lists:
        hits.append(
            [
                Hit(documents[row], score, passage=generation.passage(documents[row], vector))
                for row, score, vector in zip(rows, scores, vectors, strict=True)
                if row >= 0
            ]
        )
    return hits


def hybrid_scores(candidates: Candidates, model: HybridLink | None) -> NDArray[np.float32]:
    """Return what a hybrid search orders candidates by, (C,): the model's score, without one the cosine."""
    if model is None:
        return candidates.cosines
    features = hybrid_features(candidates.cosines, candidates.bm25, candidates.best_possible)
    return model.scores(features).astype(np.float32)
