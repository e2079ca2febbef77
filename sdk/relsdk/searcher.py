"""Encode, retrieve, grade: the one place where encoder, index and scorer meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relsdk.embedder import Embedder
from relsdk.errors import CalibrationError, InputError
from relsdk.index import Index
from relsdk.pair_models import PairOutputs
from relsdk.records import Hit
from relsdk.scorer import RelevanceScorer, grade

__all__ = ["MAX_QUERY_CHARACTERS", "Searcher"]

# Far beyond any search query, far below what would stall a server.
MAX_QUERY_CHARACTERS = 2000
# How many candidates a scorer re-scores for each wanted hit.
_CANDIDATES_PER_HIT = 5


class Searcher:
    """Answers queries from an index.

    Args:
        embedder: The encoder that built the index.
        index: The documents.
        scorer: Re-scores the top candidates; None keeps the encoder's order and grades by its calibration.

    Raises:
        EncoderMismatchError: The index was built by another encoder, or at another dimension.
    """

    def __init__(self, embedder: Embedder, index: Index, scorer: RelevanceScorer | None = None) -> None:
        index.check_encoder(embedder)
        self.embedder = embedder
        self.index = index
        self.scorer = scorer

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[Hit]:
        """Find the most relevant documents.

        Args:
            query: What the user typed.
            k: How many hits at most; fewer is not an error.
            min_level: Leave out hits whose most probable level is lower.
            min_score: Leave out hits whose score is lower (`relsdk calibrate` prints one for a wanted
                precision).
            where: Filter on metadata; see `Index.search`.
            ef_search: Search effort of the graph; None takes the index's own.

        Returns:
            Hits in falling order of score. `Hit.relevance` is None when the model has no calibration.

        Raises:
            InputError: The query is empty or longer than `MAX_QUERY_CHARACTERS`, or an argument is out of
                range.
            CalibrationError: `min_level` is given and the model has no calibration.
        """
        return self.search_batch(
            [query], k, min_level=min_level, min_score=min_score, where=where, ef_search=ef_search
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[list[Hit]]:
        """Answer several queries; see `search`. One list of hits for each query, in their order."""
        self._check(queries, k, min_level)
        vectors = self.embedder.encode_query(list(queries))  # (n, D)
        wanted = k if self.scorer is None else k * _CANDIDATES_PER_HIT
        found = self.index.search(vectors, wanted, where=where, ef_search=ef_search)
        graded = [self._grade(query, hits) for query, hits in zip(queries, found, strict=True)]
        return [_kept(hits, min_level, min_score)[:k] for hits in graded]

    def _grade(self, query: str, hits: list[Hit]) -> list[Hit]:
        if not hits:
            return hits
        if self.scorer is not None:
            rescored = self.scorer.predict([(query, hit.document) for hit in hits])
            order = np.argsort(-rescored.scores, kind="stable")
            return [
                replace(hits[row], score=float(rescored.scores[row]), relevance=rescored[int(row)])
                for row in order
            ]
        if not self.embedder.is_calibrated:
            return hits
        scores = np.array([hit.score for hit in hits], dtype=np.float32)
        graded = grade(PairOutputs(scores, scores), self.embedder.calibration)
        return [replace(hit, relevance=graded[row]) for row, hit in enumerate(hits)]

    def _check(self, queries: Sequence[str], k: int, min_level: int | None) -> None:
        if isinstance(queries, str):
            raise InputError("search_batch takes a list of queries; use search for one")
        for query in queries:
            if not isinstance(query, str) or not query.strip():
                raise InputError(f"the query is {query!r}; text that is not empty is needed")
            if len(query) > MAX_QUERY_CHARACTERS:
                raise InputError(
                    f"the query has {len(query):,} characters; at most {MAX_QUERY_CHARACTERS:,} are allowed"
                )
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k={k!r}; a whole number of at least 1 is needed")
        if min_level is not None:
            if min_level not in (0, 1, 2, 3):
                raise InputError(f"min_level={min_level!r}; allowed are 0, 1, 2 and 3")
            if self.scorer is None and not self.embedder.is_calibrated:
                raise CalibrationError(
                    f"min_level needs levels, and {self.embedder.name} has no calibration; fit one with: "
                    f"relsdk calibrate {self.embedder.bundle.path} PAIRS"
                )


def _kept(hits: list[Hit], min_level: int | None, min_score: float | None) -> list[Hit]:
    return [
        hit
        for hit in hits
        if (min_score is None or hit.score >= min_score)
        and (min_level is None or (hit.level is not None and hit.level >= min_level))
    ]
