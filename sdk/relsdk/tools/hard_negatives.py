"""Hard negatives from an index: near a query, yet irrelevant in the eyes of another model.

Training data for the next encoder: documents that the present one puts close to a query although they do not
answer it (Xiong et al. 2021, ANCE; the guard against false negatives as in Qu et al. 2021, RocketQA).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.levels import RelevanceLevel
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.records import Document, Hit, LabelledPair

__all__ = ["Miner"]

# Queries that are searched for, and whose candidates are judged, at once.
_AT_ONCE = 64


class _Known(NamedTuple):
    """The labels of a query: ids and texts of its documents, and the most relevant of them."""

    ids: set[str]
    texts: set[str]
    best: Document


class Miner:
    """Finds hard negatives for the queries of labelled pairs.

    Args:
        embedder: The encoder that built the index.
        index: Where negatives come from.
        guard: Judges candidates: only those it calls irrelevant are taken. None takes all, false negatives
            among them.

    Raises:
        EncoderMismatchError: The index was built with another encoder.
        CalibrationError: The guard has no levels.
    """

    def __init__(self, embedder: Embedder, index: Index, guard: RelevanceScorer | None = None) -> None:
        index.check_encoder(embedder)
        self.embedder = embedder
        self.index = index
        self.guard = guard

    def mine(
        self,
        pairs: Sequence[LabelledPair],
        *,
        negatives: int = 3,
        candidates: int = 30,
        max_ratio: float = 0.95,
    ) -> Iterator[LabelledPair]:
        """Yield negatives of each query that has a relevant document, as pairs of level 0.

        Args:
            pairs: Labelled pairs; what they judge is never mined, whatever its level.
            negatives: How many to take for a query, the nearest first.
            candidates: How many near documents to look at.
            max_ratio: A negative's cosine is at most this times that of the query's most relevant document
                (0.95 in SSRA): what is as near as a relevant document may be relevant itself.

        Raises:
            InputError: A number is out of range, or no pair is relevant.
        """
        if negatives < 1 or candidates < negatives or not 0.0 < max_ratio <= 1.0:
            raise InputError(
                f"negatives={negatives}, candidates={candidates}, max_ratio={max_ratio}; needed are at least "
                "1 negative, at least as many candidates, and a ratio above 0 and at most 1"
            )
        known = _known(pairs)
        if not known:
            raise InputError("no pair has a level above 0, so there is nothing to compare negatives with")
        queries = list(known)
        for start in range(0, len(queries), _AT_ONCE):
            some = queries[start : start + _AT_ONCE]
            yield from self._mine([(query, known[query]) for query in some], negatives, candidates, max_ratio)

    def _mine(
        self, queries: list[tuple[str, _Known]], negatives: int, candidates: int, max_ratio: float
    ) -> Iterator[LabelledPair]:
        vectors = self.embedder.encode_query([query for query, _ in queries])  # (n, D)
        best = self.embedder.encode_document([known.best for _, known in queries])  # (n, D)
        limits = max_ratio * np.einsum("nd,nd->n", vectors, best)
        hit_lists = self.index.search(vectors, candidates)
        near = [
            [hit for hit in hits if hit.score <= limit and not self._is_known(hit, known)]
            for (_, known), hits, limit in zip(queries, hit_lists, limits, strict=True)
        ]
        for (query, _), hits in zip(queries, self._keep_irrelevant(queries, near), strict=True):
            for hit in hits[:negatives]:
                yield LabelledPair(query, hit.document, RelevanceLevel.IRRELEVANT)

    def _is_known(self, hit: Hit, known: _Known) -> bool:
        return hit.document.id in known.ids or _text(hit.document) in known.texts

    def _keep_irrelevant(self, queries: list[tuple[str, _Known]], near: list[list[Hit]]) -> list[list[Hit]]:
        """Leave what the guard calls irrelevant."""
        query_hits = [(query, hit) for (query, _), hits in zip(queries, near, strict=True) for hit in hits]
        if self.guard is None or not query_hits:
            return near
        levels: NDArray[np.int64] = self.guard.predict_hits(query_hits).levels
        ends = np.cumsum([len(hits) for hits in near])[:-1]
        return [
            [hit for hit, level in zip(hits, of_query, strict=True) if level == RelevanceLevel.IRRELEVANT]
            for hits, of_query in zip(near, np.split(levels, ends), strict=True)
        ]


def _known(pairs: Sequence[LabelledPair]) -> dict[str, _Known]:
    """Gather what is judged of each query that has a relevant document."""
    of_query: dict[str, list[LabelledPair]] = {}
    for pair in pairs:
        of_query.setdefault(pair.query, []).append(pair)
    known = {}
    for query, judged in of_query.items():
        best = max(judged, key=lambda pair: pair.level)
        if best.level > RelevanceLevel.IRRELEVANT:
            documents = [pair.document for pair in judged]
            texts = {_text(document) for document in documents}
            known[query] = _Known({document.id for document in documents}, texts, best.document)
    return known


def _text(document: Document) -> str:
    return f"{document.title} {document.text}".strip()
