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

from relsdk.calibration import HybridLink, hybrid_features
from relsdk.errors import InputError
from relsdk.index import MODES, Index, Mode
from relsdk.index.field_values import group_key
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import PairOutputs
from relsdk.models.pooled_scorer import PooledScorer
from relsdk.models.relevance_scorer import Predictions, RelevanceScorer, grade
from relsdk.records import Hit, SearchResult
from relsdk.search._selection import Wanted, count_groups, first_of_groups, select_hits, sort_hits
from relsdk.search.time_budget import Clock, CostEstimate, Deadline

__all__ = ["MAX_QUERY_CHARACTERS", "Searcher"]

# Far beyond any search query, far below what would stall a server.
MAX_QUERY_CHARACTERS = 2000
# How many candidates a scorer re-scores for each wanted hit.
_CANDIDATES_PER_HIT = 5
# Hits of a level are looked for among so many, at least, that were found by words alone.
_LEAST_BY_WORDS = 100
# Grouping: so many times more candidates are looked at, until there are enough groups.
_GROWTH = 4
# When so many candidates are of too few groups, it is worth while to count the groups that there are.
_MANY = 500
# With a time budget, how many candidates are scored between two looks at the clock: small enough to stop in
# time, large enough for the matrix products to be near their full rate.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class _How:
    """How candidates are found; see `Searcher.search`."""

    mode: Mode
    where: Mapping[str, Any] | None
    ef_search: int | None
    index: Index
    model: HybridLink | None


class Searcher:
    """Answers queries from an index.

    Args:
        embedder: The encoder that built the index.
        index: The documents.
        scorer: Re-scores the top candidates; None keeps the encoder's order and grades by its calibration.
            Where the index splits documents it reads the title and the passage that was found. One that is
            pooled with the encoder takes the cosines that retrieval knows.
        mode: How documents are found where a search does not say: "dense" by meaning, "lexical" by words,
            "hybrid" by both; see `Index.retrieve`.
        clock: What `budget_ms` and `SearchResult.elapsed_ms` are measured with: seconds that never go back.

    Raises:
        EncoderMismatchError: The index was built by another encoder, or at another dimension, or the scorer
            is pooled with another one.
        InputError: Another `mode`, or one of them is something else.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: Index,
        scorer: RelevanceScorer | None = None,
        *,
        mode: Mode = "dense",
        clock: Clock = time.perf_counter,
    ) -> None:
        _check_mode(mode)
        if not isinstance(index, Index):
            raise InputError(
                f"index is a {type(index).__name__}; an Index is needed, as Index.open returns it"
            )
        if scorer is not None and not isinstance(scorer, RelevanceScorer):
            raise InputError(f"scorer is a {type(scorer).__name__}; a RelevanceScorer is needed")
        index.check_encoder(embedder)
        self.embedder = embedder
        self.index = index
        self.scorer = scorer
        self.mode = mode
        if scorer is not None and isinstance(scorer.model, PooledScorer):
            index.check_encoder(scorer.model.embedder)
        self._clock = clock
        self._cost = CostEstimate()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), mode=self.mode, clock=self._clock), (
            self.embedder,
            self.index,
            self.scorer,
        )

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        offset: int = 0,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        mode: Mode | None = None,
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
            offset: Leave out so many hits first: the next page. With a scorer, a sort, a hybrid search beyond
                the first 100 hits or a lexical one with `min_level`, a later page is chosen from more
                candidates, so that a hit may be on two pages or on none.
            min_level: Leave out hits whose most probable level is lower. A lexical search looks for them
                among its best 5 * (`offset` + `k`), at least 100.
            min_score: Leave out hits whose score is lower (`relsdk calibrate` prints one for a wanted
                precision). With a scorer it is the scorer's score: hits that it did not see are left out.
            where: Filter on metadata; see `Index.search`.
            sort: A field, or -field for falling values: the most relevant hits (`offset` + `k`, at least 100)
                are put in this order, those without a value last. `min_level` keeps what is hardly relevant
                from coming first.
            group_by: A field: of hits with the same value there, only the first is kept, such as one of each
                author: with a scorer, the first in the order of retrieval. Documents without it are groups of
                their own.
            mode: "dense", "lexical" or "hybrid"; None takes the searcher's own. Levels of a lexical or hybrid
                search are those of the index's hybrid model if it has one, else of the encoder.
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
        wanted = Wanted(k, offset, min_level, min_score, sort, group_by)
        (result,) = self._answer([query], wanted, self._how(mode, where, ef_search), deadline)
        return result

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        offset: int = 0,
        min_level: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        mode: Mode | None = None,
        ef_search: int | None = None,
    ) -> list[SearchResult]:
        """Answer several queries; see `search`. One list of hits for each query, in their order.

        There is no budget: a batch is for throughput. `elapsed_ms` counts from the start of the batch.
        """
        deadline = Deadline(None, self._clock)
        wanted = Wanted(k, offset, min_level, min_score, sort, group_by)
        return self._answer(queries, wanted, self._how(mode, where, ef_search), deadline)

    def warmup(self) -> None:
        """Load and run the models, so that the first request does not pay, and start the cost estimate."""
        self.embedder.warmup()
        self.index.warmup()
        if self.scorer is not None:
            for _ in range(2):
                self.search("预热", k=2, budget_ms=math.inf)

    def _how(self, mode: Mode | None, where: Mapping[str, Any] | None, ef_search: int | None) -> _How:
        """Return how candidates are found: all in one generation, though others may change the index."""
        mode = self.mode if mode is None else _check_mode(mode)
        index = self.index.snapshot()
        model = None if mode == "dense" else index.hybrid_models.get(self.embedder.variant.name)
        return _How(mode, where, ef_search, index, model)

    def _answer(
        self,
        queries: Sequence[str],
        wanted: Wanted,
        how: _How,
        deadline: Deadline,
    ) -> list[SearchResult]:
        self._check(queries, wanted, how)
        vectors = self.embedder.encode_query(list(queries))  # (n, D)
        hit_lists = self._candidates(queries, vectors, wanted, how)
        matching, scanned = how.index.count(how.where), how.index.scans(how.where)
        results = []
        for query, hits in zip(queries, hit_lists, strict=True):
            if self.scorer is None:
                chosen = sort_hits(self._by_encoder(hits, wanted, how), wanted, how.index)
                page = chosen[wanted.offset : wanted.end]
                order = "cosine" if how.model is None else "hybrid"
                order = "bm25" if how.mode == "lexical" else order
                result = SearchResult(page, candidates=len(hits), order=order)
            else:
                result = self._by_scorer(self.scorer, query, hits, wanted, how, deadline)
            result.matching, result.scanned = matching, scanned
            result.elapsed_ms = deadline.elapsed * 1e3
            results.append(result)
        return results

    def _candidates(
        self,
        queries: Sequence[str],
        vectors: NDArray[np.float32],
        wanted: Wanted,
        how: _How,
    ) -> list[list[Hit]]:
        """Retrieve what is graded, for each query; of each group the best."""
        count = wanted.pool
        unsorted_levels = self.scorer is None and how.mode == "lexical" and wanted.min_level is not None
        if self.scorer is not None or unsorted_levels:
            count *= _CANDIDATES_PER_HIT  # levels do not fall with this order
        if unsorted_levels:
            count = max(count, _LEAST_BY_WORDS)
        retrieve = partial(
            how.index.retrieve,
            mode=how.mode,
            model=how.model,
            where=how.where,
            ef_search=how.ef_search,
        )
        hit_lists = retrieve(queries, vectors, count)
        if wanted.group_by is None:
            return hit_lists
        field = wanted.group_by
        grouped = []
        for query, vector, hits in zip(queries, vectors, hit_lists, strict=True):
            fetched, most = count, math.inf
            while len(groups := first_of_groups(hits, field)) < count and len(hits) == fetched:
                if fetched >= _MANY and most == math.inf:
                    most = count_groups(how.index, field, how.where)
                if len(groups) >= most:
                    break
                fetched *= _GROWTH
                (hits,) = retrieve([query], vector[None], fetched)
            if unsorted_levels:  # the first of a group may be below the level, and another one not
                hits = self._by_encoder(hits, Wanted(len(hits), min_level=wanted.min_level), how)
            grouped.append(first_of_groups(hits, field)[:count])
        if all(group_key(hit.document, field) is None for hits in grouped for hit in hits):
            how.index.check_field(field)
        return grouped

    def _by_encoder(self, hits: list[Hit], wanted: Wanted, how: _How) -> list[Hit]:
        """Grade hits by the model of cosine and words, or by the encoder's calibration, if there is one."""
        if not hits:
            return []
        scores = np.array([hit.score for hit in hits], dtype=np.float32)
        cosines = np.array([hit.cosine for hit in hits], dtype=np.float32)
        predictions = None
        if how.model is not None:
            signals = [(one.bm25, one.best_possible) for hit in hits if (one := hit.signals) is not None]
            features = hybrid_features(cosines, *np.array(signals).T)
            predictions = grade(PairOutputs(scores, features.astype(np.float32)), how.model)
        elif self.embedder.is_calibrated:
            predictions = grade(PairOutputs(scores, cosines), self.embedder.calibration)
        return select_hits(hits, np.arange(len(hits)), scores, predictions, wanted)

    def _by_scorer(
        self,
        scorer: RelevanceScorer,
        query: str,
        hits: list[Hit],
        wanted: Wanted,
        how: _How,
        deadline: Deadline,
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
            chosen = select_hits(hits, order, predictions.scores, predictions, wanted)
        elif hits and deadline.left > 0:
            self._cost.relax()
        chosen = sort_hits(chosen, wanted, how.index)[: wanted.end]
        scored_hits = len(chosen)
        if wanted.min_score is None and scored_hits < wanted.end:
            chosen += sort_hits(self._by_encoder(hits[scored:], wanted, how), wanted, how.index)
        return SearchResult(
            chosen[wanted.offset : wanted.end],
            candidates=len(hits),
            scored=scored,
            skipped=len(hits) - scored,
            scored_hits=max(scored_hits - wanted.offset, 0),
            order="scorer",
        )

    def _next_chunk(self, left: int, deadline: Deadline) -> int:
        """Return how many candidates to score next; 0 when none fits."""
        return self._cost.fitting(deadline.left, min(left, _CHUNK)) if deadline.is_set else left

    def _check(self, queries: Sequence[str], wanted: Wanted, how: _How) -> None:
        if isinstance(queries, str | bytes) or not isinstance(queries, Sequence):
            raise InputError("search_batch takes a list of queries; use search for one")
        for query in queries:
            if not isinstance(query, str) or not query.strip():
                raise InputError(f"the query is {query!r}; text that is not empty is needed")
            if len(query) > MAX_QUERY_CHARACTERS:
                raise InputError(
                    f"the query has {len(query):,} characters; at most {MAX_QUERY_CHARACTERS:,} are allowed"
                )
        wanted.check()
        if wanted.min_level is not None and self.scorer is None and how.model is None:
            _ = self.embedder.calibration  # or the error that says how to get one


def _check_mode(mode: Mode) -> Mode:
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"mode={mode!r}; allowed are {', '.join(map(repr, MODES))}")
    return mode
