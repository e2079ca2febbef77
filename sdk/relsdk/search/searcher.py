"""Encode, retrieve and grade: encoder, index and scorer together."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink, hybrid_features
from relsdk.errors import InputError
from relsdk.index import MODES, Index, Mode
from relsdk.index.field_values import group_key
from relsdk.index.store import VectorStore
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import PairOutputs
from relsdk.models.pooled_scorer import PooledScorer
from relsdk.models.relevance_scorer import Predictions, RelevanceScorer, grade
from relsdk.models.steps import Compute, Encode, Flow, run_flow
from relsdk.records import Hit, Promise, SearchResult
from relsdk.search._promised import Promises, choose_promise, promises_of_hybrid, promises_of_model
from relsdk.search._selection import (
    Wanted,
    count_groups,
    first_of_groups,
    nothing_relevant,
    select_hits,
    sort_hits,
)
from relsdk.search.store_reader import StoreReader
from relsdk.search.time_budget import Clock, CostEstimate, Deadline

__all__ = ["MAX_QUERY_CHARACTERS", "Searcher"]

# Far beyond any search query, far below what would stall a server.
MAX_QUERY_CHARACTERS = 2000
# How many candidates a scorer re-scores for each wanted hit.
_CANDIDATES_PER_HIT = 5
# Queries whose documents are retrieved together.
_QUERIES = 32
# Hits of a level are looked for among so many, at least, that were found by words alone.
_LEAST_BY_WORDS = 100
# Grouping: so many times more candidates are looked at, until there are enough groups.
_GROWTH = 4
# When so many candidates are of too few groups, it is worth while to count the groups that there are.
_MANY = 500
# A store cannot count groups, and sends each candidate with its vector: so many are asked for at most.
_MOST_OF_STORE = 10_000
# With a time budget, how many candidates are scored between two looks at the clock: small enough to stop in
# time, large enough for the matrix products to be near their full rate.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class _How:
    """How candidates are found; see `Searcher.search`."""

    mode: Mode
    where: Mapping[str, Any] | None
    ef_search: int | None
    index: Index | StoreReader
    model: HybridLink | None


class _Counts(NamedTuple):
    """What is counted of all documents that a filter allows."""

    matching: int | None
    scanned: bool
    facets: dict[str, list[tuple[str | float | bool, int]]]


class Searcher:
    """Answers queries from an index.

    Args:
        embedder: The encoder that built the index.
        index: The documents: an `Index`, or a `VectorStore` such as `open_store` returns, which is
            searched by meaning only.
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
        index: Index | VectorStore,
        scorer: RelevanceScorer | None = None,
        *,
        mode: Mode = "dense",
        clock: Clock = time.perf_counter,
    ) -> None:
        _check_mode(mode)
        self.index = index
        self.reader = index if isinstance(index, Index) else StoreReader(index)  # the same, to be read
        if scorer is not None and not isinstance(scorer, RelevanceScorer):
            raise InputError(f"scorer is a {type(scorer).__name__}; a RelevanceScorer is needed")
        index.check_encoder(embedder)
        self.embedder = embedder
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
        min_confidence: float | None = None,
        min_precision: float | None = None,
        where: Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        facets: Sequence[str] = (),
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
            min_score: Leave out hits whose score is lower. With a scorer it is the scorer's score: hits that
                it did not see are left out.
            min_confidence: Leave out hits that are less probably of `min_level` (of level 2 without one) or
                above, from 0 to 1.
            min_precision: Keep the hits above the threshold that is promised to give this precision or a
                higher one for `min_level` (2 without one), from 0 to 1; `min_level` leaves out nothing else
                then. `relsdk calibrate BUNDLE PAIRS --target-precision 0.9 --level 2` makes a promise; see
                `promises` and `SearchResult.promise`. Hits that a scorer did not see are left out.
            where: Filter on metadata; see `Index.search`.
            sort: A field, or -field for falling values: the most relevant hits (`offset` + `k`, at least 100)
                are put in this order, those without a value last. `min_level` keeps what is hardly relevant
                from coming first.
            group_by: A field: of hits with the same value there, only the first is kept, such as one of each
                author: with a scorer, the first in the order of retrieval. Documents without it are groups of
                their own. In a vector store, of the 10,000 nearest documents.
            facets: Fields whose values are counted over all documents that the filter allows; see
                `Index.facets`.
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
            CalibrationError: Levels are asked for and the model has no calibration, or `min_precision` is
                given and nothing as high is promised for the level; the message says what to run.
        """
        (result,) = run_flow(
            self.flow(
                [query],
                k,
                offset=offset,
                min_level=min_level,
                min_score=min_score,
                min_confidence=min_confidence,
                min_precision=min_precision,
                where=where,
                sort=sort,
                group_by=group_by,
                facets=facets,
                mode=mode,
                ef_search=ef_search,
                budget_ms=budget_ms,
            )
        )
        return result

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        offset: int = 0,
        min_level: int | None = None,
        min_score: float | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        where: Mapping[str, Any] | None = None,
        sort: str | None = None,
        group_by: str | None = None,
        facets: Sequence[str] = (),
        mode: Mode | None = None,
        ef_search: int | None = None,
    ) -> list[SearchResult]:
        """Answer several queries; see `search`. One list of hits for each query, in their order.

        There is no budget: a batch is for throughput. `elapsed_ms` counts from the start of the batch.
        """
        return run_flow(
            self.flow(
                queries,
                k,
                offset=offset,
                min_level=min_level,
                min_score=min_score,
                min_confidence=min_confidence,
                min_precision=min_precision,
                where=where,
                sort=sort,
                group_by=group_by,
                facets=facets,
                mode=mode,
                ef_search=ef_search,
            )
        )

    def flow(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        facets: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        ef_search: int | None = None,
        budget_ms: float | None = None,
        **conditions: Any,
    ) -> Flow[list[SearchResult]]:
        """Yield the steps of answering queries, all from one generation; see `relsdk.models.steps`.

        Args:
            queries: The queries.
            k: See `search`.
            facets: See `search`.
            where: See `search`.
            mode: See `search`.
            ef_search: See `search`.
            budget_ms: See `search`; for all the queries together.
            conditions: What else `search` takes.

        Raises:
            InputError: See `search`.
            CalibrationError: See `search`.
        """
        deadline = Deadline(budget_ms, self._clock)
        wanted, how = Wanted(k, **conditions), self._how(mode, where, ef_search)
        self._check(queries, wanted, how)
        wanted = self._keep_promise(wanted, how)
        times: dict[str, float] = {}
        vectors = yield from _timed(Encode(self.embedder, "query", list(queries)), times, deadline)  # (n, D)
        results = []
        for start in range(0, len(queries), _QUERIES):
            some = slice(start, start + _QUERIES)
            retrieve = partial(self._retrieve, queries[some], vectors[some], wanted, how)
            count = partial(_count, how.index, how.where, facets) if start == 0 else None
            both = partial(_both, retrieve, count, deadline)
            found, counted, seconds = yield from _timed(Compute("retrieve", both), times, deadline)
            if counted is not None:  # in one step: each waits for a worker
                counts = counted
                times["count"] = seconds
                times["retrieve"] -= seconds
            for query, result in zip(queries[some], found, strict=True):
                if self.scorer is not None:
                    hits = list(result)
                    result = yield from self._by_scorer(
                        self.scorer, query, hits, wanted, how, deadline, times
                    )
                result.matching, result.scanned, result.facets = counts
                result.promise = wanted.promise
                result.generation = how.index.generation
                result.steps = {name: seconds * 1e3 for name, seconds in times.items()}
                result.elapsed_ms = deadline.elapsed * 1e3
                results.append(result)
        return results

    def promises(self, mode: Mode | None = None) -> tuple[Promise, ...]:
        """Return what is promised of hits by what grades them: what `min_precision` may ask for.

        Args:
            mode: See `search`.
        """
        return tuple(self._promises(self._how(mode, None, None)).made)

    def warmup(self) -> None:
        """Load and run the models, so that the first request does not pay, and start the cost estimate."""
        self.embedder.warmup()
        self.reader.warmup()
        if self.scorer is not None:
            for _ in range(2):
                self.search("预热", k=2, budget_ms=math.inf)

    def _how(self, mode: Mode | None, where: Mapping[str, Any] | None, ef_search: int | None) -> _How:
        """Return how candidates are found: all in one generation, though others may change the index."""
        mode = self.mode if mode is None else _check_mode(mode)
        index = self.reader.snapshot()
        if isinstance(index, StoreReader):  # which is what it is now, and not what it was when this was made
            index.check_encoder(self.embedder)
        model = None if mode == "dense" else index.hybrid_models.get(self.embedder.variant.name)
        return _How(mode, where, ef_search, index, model)

    def _retrieve(
        self, queries: Sequence[str], vectors: NDArray[np.float32], wanted: Wanted, how: _How
    ) -> list[SearchResult]:
        """Return the hits of each query, or with a scorer its candidates."""
        hit_lists = self._candidates(queries, vectors, wanted, how)
        if self.scorer is not None:
            return [SearchResult(hits) for hits in hit_lists]
        order = "cosine" if how.model is None else "hybrid"
        order = "bm25" if how.mode == "lexical" else order
        results = []
        for hits in hit_lists:
            scores, predictions = self._grade(hits, how)
            select = partial(select_hits, hits, np.arange(len(hits)), scores, predictions)
            page = sort_hits(select(wanted), wanted, how.index)[wanted.offset : wanted.end]
            none = None if predictions is None else nothing_relevant(predictions)
            result = SearchResult(page, candidates=len(hits), order=order, nothing_relevant=none)
            result.best = next(iter(select(Wanted(1))), None)
            results.append(result)
        if how.mode == "dense":
            self._say_what_is_outside(queries, hit_lists, results)
        return results

    def _say_what_is_outside(
        self, queries: Sequence[str], hit_lists: Sequence[Sequence[Hit]], results: Sequence[SearchResult]
    ) -> None:
        """Note in what queries are unlike those of the encoder's calibration."""
        seen = self.embedder.query_range
        if seen is None:
            return
        prompt = self.embedder.known_prompt("query")
        tokens = self.embedder.tokenize(list(queries), prompt_name=prompt).ids
        for ids, hits, result in zip(tokens, hit_lists, results, strict=True):
            best = max((hit.cosine for hit in hits), default=None)
            result.outside = seen.outside(ids, self.embedder.unknown_id, best)

    def _candidates(
        self,
        queries: Sequence[str],
        vectors: NDArray[np.float32],
        wanted: Wanted,
        how: _How,
    ) -> list[list[Hit]]:
        """Retrieve what is graded, for each query; of each group the best."""
        count = wanted.pool
        unsorted_levels = self.scorer is None and how.mode == "lexical" and wanted.needs_levels
        if self.scorer is not None or unsorted_levels:
            count *= _CANDIDATES_PER_HIT  # levels do not fall with this order
        if unsorted_levels:
            count = max(count, _LEAST_BY_WORDS)
        limit = _most_candidates(how.index, wanted)
        count = min(count, limit)
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
            while len(groups := first_of_groups(hits, field)) < count and len(hits) == fetched < limit:
                if fetched >= _MANY and most == math.inf:
                    most = count_groups(how.index, field, how.where)
                if len(groups) >= most:
                    break
                fetched = min(fetched * _GROWTH, limit)
                (hits,) = retrieve([query], vector[None], fetched)
            if unsorted_levels:  # the first of a group may be below the level, and another one not
                hits = self._by_encoder(hits, wanted.levels_of(len(hits)), how)
            grouped.append(first_of_groups(hits, field)[:count])
        if all(group_key(hit.document, field) is None for hits in grouped for hit in hits):
            how.index.check_field(field)
        return grouped

    def _by_encoder(self, hits: list[Hit], wanted: Wanted, how: _How) -> list[Hit]:
        """Grade hits as `_grade` does, and keep those that are wanted."""
        return select_hits(hits, np.arange(len(hits)), *self._grade(hits, how), wanted)

    def _grade(self, hits: Sequence[Hit], how: _How) -> tuple[NDArray[np.float32], Predictions | None]:
        """Grade hits by the model of cosine and words, or by the encoder's calibration, if there is one."""
        scores = np.array([hit.score for hit in hits], dtype=np.float32)
        cosines = np.array([hit.cosine for hit in hits], dtype=np.float32)
        if how.model is not None:
            signals = [(one.bm25, one.best_possible) for hit in hits if (one := hit.signals) is not None]
            features = hybrid_features(cosines, *np.array(signals).reshape(-1, 2).T)
            return scores, grade(PairOutputs(scores, features.astype(np.float32)), how.model)
        if self.embedder.is_calibrated:
            return scores, grade(PairOutputs(scores, cosines), self.embedder.calibration)
        return scores, None

    def _by_scorer(
        self,
        scorer: RelevanceScorer,
        query: str,
        hits: list[Hit],
        wanted: Wanted,
        how: _How,
        deadline: Deadline,
        times: dict[str, float],
    ) -> Flow[SearchResult]:
        """Order and grade by the scorer what it reaches in time; the rest follows."""
        parts: list[Predictions] = []
        scored = 0
        while scored < len(hits):
            size = self._next_chunk(len(hits) - scored, deadline)
            if size == 0:
                break
            started = deadline.elapsed
            chunk = hits[scored : scored + size]
            parts.append((yield from scorer.hits_flow([(query, hit) for hit in chunk])))
            times["score"] = times.get("score", 0.0) + deadline.elapsed - started
            if deadline.is_set:
                self._cost.note(size, deadline.elapsed - started)
            scored += size
        chosen: list[Hit] = []
        best = None
        none = None if hits else 1.0
        if parts:
            predictions = Predictions.concatenate(parts)
            order = np.argsort(-predictions.scores, kind="stable")
            (best,) = select_hits(hits, order, predictions.scores, predictions, Wanted(1))
            none = nothing_relevant(predictions)
            chosen = select_hits(hits, order, predictions.scores, predictions, wanted)
        elif hits and deadline.left > 0:
            self._cost.relax()
        chosen = sort_hits(chosen, wanted, how.index)[: wanted.end]
        scored_hits = len(chosen)
        if wanted.min_score is None and wanted.min_precision is None and scored_hits < wanted.end:
            chosen += sort_hits(self._by_encoder(hits[scored:], wanted, how), wanted, how.index)
        return SearchResult(
            chosen[wanted.offset : wanted.end],
            candidates=len(hits),
            scored=scored,
            skipped=len(hits) - scored,
            scored_hits=max(scored_hits - wanted.offset, 0),
            order="scorer",
            best=best,
            nothing_relevant=none,
        )

    def _keep_promise(self, wanted: Wanted, how: _How) -> Wanted:
        """Look up the promise of `min_precision`, of what will grade the hits."""
        if wanted.min_precision is None:
            return wanted
        promises = self._promises(how)
        return replace(wanted, promise=choose_promise(promises, wanted.relevant, wanted.min_precision))

    def _promises(self, how: _How) -> Promises:
        if self.scorer is not None:
            return promises_of_model(self.scorer.model)
        if how.model is not None and isinstance(self.index, Index):
            return promises_of_hybrid(how.model, self.embedder, self.index)
        return promises_of_model(self.embedder)

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
        if wanted.needs_levels and self.scorer is None and how.model is None:
            _ = self.embedder.calibration  # or the error that says how to get one


def _both(
    retrieve: Callable[[], list[SearchResult]], count: Callable[[], _Counts] | None, deadline: Deadline
) -> tuple[list[SearchResult], _Counts | None, float]:
    """Count, and retrieve; return how many seconds the counting took, too."""
    started = deadline.elapsed
    counts = None if count is None else count()
    seconds = deadline.elapsed - started
    return retrieve(), counts, seconds


def _count(index: Index | StoreReader, where: Mapping[str, Any] | None, facets: Sequence[str]) -> _Counts:
    values = {field: index.facets(field, where) for field in facets}
    matching = None if isinstance(index, StoreReader) else index.count(where)
    return _Counts(matching, index.scans(where), values)


def _most_candidates(index: Index | StoreReader, wanted: Wanted) -> int:
    return sys.maxsize if isinstance(index, Index) else max(wanted.pool, _MOST_OF_STORE)


def _timed(step: Encode | Compute, times: dict[str, float], deadline: Deadline) -> Flow[Any]:
    """Yield a step and note how many seconds it took, by its name."""
    started = deadline.elapsed
    result = yield step
    name = "encode" if isinstance(step, Encode) else step.name
    times[name] = times.get(name, 0.0) + deadline.elapsed - started
    return result


def _check_mode(mode: Mode) -> Mode:
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"mode={mode!r}; allowed are {', '.join(map(repr, MODES))}")
    return mode
