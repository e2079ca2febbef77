"""Pairs of a query and a random document of another one, which are of level 0.

Labelled pairs were chosen by some search, mostly by words, and do not tell how unlike a query a document can
be. Unlabelled neighbours of a query are not taken: many of them are relevant, and as level 0 they spoil every
probability.

Shape letters: N labelled pairs, W wanted ones, M drawn ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.levels import RelevanceLevel
from relsdk.records import LabelledPair

__all__ = ["draw_unjudged", "random_negatives"]

# Draws of a document for each pair; one whose query has judged every draw goes without.
_DRAWS = 20

Int = NDArray[np.int64]


def draw_unjudged(wanted: Int, query_of: Int, document_of: Int, documents: int, seed: int) -> Int:
    """Draw documents that a query has not judged.

    Args:
        wanted: (W,) numbers of queries, each as often as it gets a document.
        query_of: (N,) queries of the judged pairs.
        document_of: (N,) their documents.
        documents: How many there are to draw from.
        seed: Of the draws.

    Returns:
        (M, 2) numbers of query and document, M <= W.
    """
    rng = np.random.default_rng(seed)
    judged = np.unique(query_of * documents + document_of)
    drawn = np.full(len(wanted), -1)
    for _ in range(_DRAWS):
        missing = np.flatnonzero(drawn < 0)
        tried = rng.integers(0, documents, len(missing))
        fine = ~np.isin(wanted[missing] * documents + tried, judged)
        drawn[missing[fine]] = tried[fine]
    found = np.stack([wanted, drawn], axis=1)
    return found[drawn >= 0]


def random_negatives(pairs: Sequence[LabelledPair], count: int, *, seed: int = 0) -> list[LabelledPair]:
    """Return pairs of level 0: each query with up to `count` random documents that it has not judged.

    Args:
        pairs: Labelled pairs, whose documents are drawn from.
        count: Documents for each query.
        seed: Of the draws.
    """
    queries = {query: number for number, query in enumerate(dict.fromkeys(pair.query for pair in pairs))}
    texts = {(pair.document.title, pair.document.text): pair.document for pair in pairs}
    numbers = {key: number for number, key in enumerate(texts)}
    query_of = np.array([queries[pair.query] for pair in pairs])
    document_of = np.array([numbers[pair.document.title, pair.document.text] for pair in pairs])
    wanted = np.repeat(np.arange(len(queries)), min(count, len(texts)))
    drawn = np.unique(draw_unjudged(wanted, query_of, document_of, len(texts), seed), axis=0)
    names, documents = list(queries), list(texts.values())
    return [LabelledPair(names[q], documents[d], RelevanceLevel.IRRELEVANT) for q, d in drawn.tolist()]
