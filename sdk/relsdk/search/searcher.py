"""Encode, retrieve and grade: encoder, index and scorer together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import PairOutputs
from relsdk.models.pooled_scorer import PooledScorer
from relsdk.models.relevance_scorer import Predictions, RelevanceScorer, grade
from relsdk.records import Hit, SearchResult
from relsdk.search.time_budget import Clock, CostEstimate, Deadline

__all__ = ["MAX_QUERY_CHARACTERS", "Searcher"]

# Far beyond any search query, far below what would stall a server.
MAX_QUERY_CHARACTERS = 2000
# How many candidates a scorer re-scores for each wanted hit.
_CANDIDATES_PER_HIT = 5
# With a time budget, how many candidates are scored between two looks at the clock: small enough to stop in
# time, large enough for the matrix products to be near their full rate.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The caller's conditions on hits; see `Searcher.search`."""

    k: int
    min_level: int | None
    min_score: float | None


class Searcher:
    """Answers queries from an index.

    Args:
        embedder: The encoder that built the index.
        index: The documents.
        scorer: Re-scores the top candidates; None keeps the encoder's order and grades by its calibration.
            One that is pooled with the encoder takes the cosines that retrieval knows.
        clock: What `budget_ms` and `SearchResult.elapsed_ms` are measured with: seconds that never go back.

    Raises:
        EncoderMismatchError: The index was built by another encoder, or at another dimension, or the scorer
            is pooled with another one.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        scorer: RelevanceScorer | None = None,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        index.check_encoder(embedder)
        self.embedder = embedder
        self.index = index
        self.scorer = scorer
        if scorer is not None and isinstance(scorer.model, PooledScorer):
            index.check_encoder(scorer.model.embedder)
        self._clock = clock
        self._cost = CostEstimate()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), clock=self._clock), (self.embedder, self.index, self.scorer)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
        budget_ms: float | None = None,
    ) -> SearchResult:
        """Find the most relevant documents.

        With a budget, the scorer takes the candidates in the order of retrieval, a few at a time, for as long
        as the next few fit into what is left of it, by a running estimate of what a candidate costs. Those it
        does not reach follow the scored ones in the order of retrieval, with the encoder's score, graded by
        the encoder's calibration if it has one. `warmup` first: it loads the models and starts the estimate.

        Args:
            query: What the user typed.
            k: How many hits at most; fewer is not an error.
            min_level: Leave out hits whose most probable level is lower.
            min_score: Leave out hits whose score is lower (`relsdk calibrate` prints one for a wanted
                precision). With a scorer it is the scorer's score: hits that it did not see are left out.
            where: Filter on metadata; see `Index.search`.
            ef_search: Search effort of the graph; None takes the index's own.
            budget_ms: Milliseconds for the whole call, encoding and retrieval included; None sets no limit.
                Only re-scoring is cut short; without a scorer nothing is.

        Returns:
            Hits in falling order of score, as a list that also says how many documents the filter allowed,
            how many candidates were scored and how many skipped. `Hit.relevance` is None when the model has
            no calibration.

        Raises:
            InputError: The query is empty or longer than `MAX_QUERY_CHARACTERS`, or an argument is out of
                range.
            CalibrationError: `min_level` is given and the model has no calibration.
        """
        deadline = Deadline(budget_ms, self._clock)
        (result,) = self._answer([query], _Wanted(k, min_level, min_score), where, ef_search, deadline)
        return result

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[SearchResult]:
        """Answer several queries; see `search`. One list of hits for each query, in their order.

        There is no budget: a batch is for throughput. `elapsed_ms` counts from the start of the batch.
        """
        deadline = Deadline(None, self._clock)
        return self._answer(queries, _Wanted(k, min_level, min_score), where, ef_search, deadline)

    def warmup(self) -> None:
        """Load and run the models, so that the first request does not pay, and start the cost estimate."""
        self.embedder.warmup()
        if self.scorer is not None:
            for _ in range(2):
                self.search("预热", k=2, budget_ms=math.inf)

    def _answer(
        self,
        queries: Sequence[str],
        wanted: _Wanted,
        where: Mapping[str, Any] | None,
        ef_search: int | None,
        deadline: Deadline,
    ) -> list[SearchResult]:
        self._check(queries, wanted.k, wanted.min_level)
        vectors = self.embedder.encode_query(list(queries))  # (n, D)
        candidates = wanted.k if self.scorer is None else wanted.k * _CANDIDATES_PER_HIT
        hit_lists = self.index.search(vectors, candidates, where=where, ef_search=ef_search)
        matching = self.index.count(where)
        results = []
        for query, hits in zip(queries, hit_lists, strict=True):
            if self.scorer is None:
                result = SearchResult(self._by_encoder(hits, wanted), candidates=len(hits))
            else:
                result = self._by_scorer(self.scorer, query, hits, wanted, deadline)
            result.matching = matching
            result.elapsed_ms = deadline.elapsed * 1e3
            results.append(result)
        return results

    def _by_encoder(self, hits: list[Hit], wanted: _Wanted) -> list[Hit]:
        """Grade hits by the encoder's calibration, if there is one."""
        if not hits:
            return []
        scores = np.array([hit.score for hit in hits], dtype=np.float32)
        predictions = None
        if self.embedder.is_calibrated:
            predictions = grade(PairOutputs(scores, scores), self.embedder.calibration)
        return _select_hits(hits, np.arange(len(hits)), scores, predictions, wanted)

    def _by_scorer(
        self, scorer: RelevanceScorer, query: str, hits: list[Hit], wanted: _Wanted, deadline: Deadline
    ) -> SearchResult:
        """Order and grade by the scorer what it reaches in time; the rest follows."""
        parts: list[Predictions] = []
        scored = 0
        while scored < len(hits):
            size = self._next_chunk(len(hits) - scored, deadline)
            if size == 0:
                break
            started = deadline.elapsed
            chunk = hits[scored : scored + size]
            parts.append(scorer.predict_hits([(query, hit) for hit in chunk]))
            if deadline.is_set:
                self._cost.note(size, deadline.elapsed - started)
            scored += size
        chosen = []
        if parts:
            predictions = Predictions.concatenate(parts)
            order = np.argsort(-predictions.scores, kind="stable")
            chosen = _select_hits(hits, order, predictions.scores, predictions, wanted)
        elif hits and deadline.left > 0:
            self._cost.relax()
        scored_hits = len(chosen)
        if wanted.min_score is None and scored_hits < wanted.k:
            chosen += self._by_encoder(hits[scored:], wanted)[: wanted.k - scored_hits]
        return SearchResult(
            chosen,
            candidates=len(hits),
            scored=scored,
            skipped=len(hits) - scored,
            scored_hits=scored_hits,
        )

    def _next_chunk(self, left: int, deadline: Deadline) -> int:
        """Return how many candidates to score next; 0 when none fits."""
        return self._cost.fitting(deadline.left, min(left, _CHUNK)) if deadline.is_set else left

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
            if self.scorer is None:
                _ = self.embedder.calibration  # or the error that says how to get one


def _select_hits(
    hits: Sequence[Hit],
    order: NDArray[np.int64],
    scores: NDArray[np.float32],
    predictions: Predictions | None,
    wanted: _Wanted,
) -> list[Hit]:
    """Make records of the first hits that are wanted, and of no others.

    Args:
        hits: N candidates, or more: those beyond the scores are not looked at.
        order: (N,) in which they are taken.
        scores: (N,) their scores.
        predictions: Of the N candidates; None without a calibration.
        wanted: Which, and how many.
    """
    keep = np.ones(len(order), dtype=np.bool_)
    if wanted.min_score is not None:
        keep &= scores.astype(np.float64) >= wanted.min_score
    if wanted.min_level is not None:
        keep &= False if predictions is None else predictions.levels >= wanted.min_level
    rows = order[keep[order]][: wanted.k].tolist()
    if predictions is None:
        return [hits[row] for row in rows]
    return [Hit(hits[row].document, float(scores[row]), predictions[row]) for row in rows]
