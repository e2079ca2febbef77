"""Search over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relsdk.errors import InputError
from relsdk.index.filter_text import parse_where
from relsdk.records import Hit, Passage, SearchResult, Signals
from relsdk.search.searcher import Searcher
from relsdk_serve._bodies import (
    FacetValue,
    HitBody,
    PassageBody,
    PromiseBody,
    ResultBody,
    SearchAnswer,
    SearchRequest,
    SignalsBody,
)
from relsdk_serve._catalogue import ServedIndex
from relsdk_serve._embeddings import INTERACTIVE_INPUTS, check_count
from relsdk_serve._faults import FieldError, NotFoundError, RequestError
from relsdk_serve._http import Call, Reply, encoded, json_reply
from relsdk_serve._jobs import Lane

__all__ = ["search", "where_of"]

_RELEVANT = 2
# As many as one query may reach, by the bounds of k and offset.
_MOST_HITS = 110_000
_MOST_VALUES = 1000


async def search(call: Call) -> Reply:
    """Find documents."""
    request = call.body(SearchRequest)
    service = call.service
    served = service.catalogue.index(request.index, request.model)
    call.facts.update(index=served.name, model=served.model.name)
    queries = _queries(request)
    check_count(call, len(queries))
    _check_hits(len(queries) * (request.k + request.offset))
    deadline = None if request.budget_ms is None else request.budget_ms / 1e3
    if len(queries) > INTERACTIVE_INPUTS:
        call.cost.lane = Lane.BULK
    service.engine.admit(call.cost.lane, deadline)
    where = where_of(request.where)
    name: str | None = None
    if request.like is not None:
        results = [await _alike(call, served, request, where)]
    else:
        name, searcher = served.searcher(request.scorer)
        results = await _answers(call, searcher, request, queries, where)
    note_results(call, served, queries, results)
    for query, result in zip(queries, results, strict=False):  # none of those that a document was like
        if request.offset == 0:
            service.drift.observe(served.name, query, result, filtered=where is not None)
    for result in results:
        _check_facets(result)
    shown: list[str | None] = [*queries] if request.like is None else [None]
    answer = SearchAnswer(
        index=served.name,
        model=served.model.name,
        scorer=name,
        generation=results[0].generation if results else served.index.generation,
        promise=PromiseBody(**results[0].promise.to_dict()) if results and results[0].promise else None,
        results=[await _result(query, result) for query, result in zip(shown, results, strict=True)],
    )
    return json_reply(answer)


def _check_hits(count: int) -> None:
    """Refuse many queries that want many hits each: one answer would fill the memory."""
    if count > _MOST_HITS:
        raise RequestError(
            413,
            f"the queries and their k (and offset) make {count:,} hits; at most {_MOST_HITS:,} are found for "
            "a request: send fewer queries at once, or a smaller k",
            param="k",
        )


def _queries(request: SearchRequest) -> list[str]:
    given = [name for name in ("query", "queries", "like") if getattr(request, name) is not None]
    if len(given) != 1:
        told = " and ".join(given) or "none"
        raise RequestError(400, f"give one of query, queries and like; got {told}", param="query")
    if request.query is not None:
        return [request.query]
    if request.queries is not None and not request.queries:
        raise RequestError(400, "queries is empty; send at least one", param="queries")
    return request.queries or []


async def _answers(
    call: Call,
    searcher: Searcher,
    request: SearchRequest,
    queries: list[str],
    where: Mapping[str, Any] | None,
) -> list[SearchResult]:
    flow = searcher.flow(
        queries,
        request.k,
        offset=request.offset,
        min_level=request.min_level,
        min_score=request.min_score,
        min_confidence=request.min_confidence,
        min_precision=request.min_precision,
        where=where,
        sort=request.sort,
        group_by=request.group_by,
        facets=request.facets,
        mode=request.mode,
        budget_ms=request.budget_ms,
    )
    return await call.service.runner.flow(flow, call.cost)


async def _alike(
    call: Call, served: ServedIndex, request: SearchRequest, where: Mapping[str, Any] | None
) -> SearchResult:
    """Find the documents most like one of the index; levels are of queries and do not apply."""
    levels = ("min_level", "min_confidence", "min_precision", "sort", "group_by", "mode", "scorer")
    for name in levels:
        if getattr(request, name) is not None:
            raise RequestError(400, f"{name} does not go with like; leave it out", param=name)
    index = served.index.snapshot()
    identifier = str(request.like)

    def work() -> SearchResult:
        if index.count({"id": identifier}) == 0:
            raise NotFoundError(f"there is no document {identifier!r}")
        end = request.offset + request.k
        hits = index.similar(identifier, end, where=where)
        if request.min_score is not None:
            hits = [hit for hit in hits if hit.score >= request.min_score]
        return SearchResult(
            hits[request.offset : end],
            candidates=len(hits),
            matching=index.count(where),
            scanned=index.scans(where),
            facets={field: index.facets(field, where) for field in request.facets},
            generation=index.generation,
        )

    result = await call.service.runner.call("similar", work, call.cost)
    result.elapsed_ms = call.seconds * 1e3
    result.steps = {"retrieve": call.cost.ran * 1e3}
    return result


def _check_facets(result: SearchResult) -> None:
    for name, values in result.facets.items():
        if len(values) > _MOST_VALUES:
            raise FieldError(
                f"{name!r} has {len(values):,} values here; facets show at most {_MOST_VALUES:,}: narrow the "
                "search with where, or leave the field out",
                "facets",
            )


def where_of(value: str | dict[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a filter as `Index.search` takes it; text is read as on the command line."""
    if not isinstance(value, str):
        return value
    try:
        return parse_where([value]) if value.strip() else None
    except InputError as error:
        message = str(error).replace("--where", "where", 1)
        raise FieldError(message, "where") from None


def note_results(call: Call, served: ServedIndex, queries: list[str], results: list[SearchResult]) -> None:
    """Count, log and watch what was found."""
    service = call.service
    for query, result in zip(queries, results, strict=False):
        best = result.best
        relevance = None if best is None else best.relevance
        level = None if relevance is None else int(relevance.level)
        relevant = None if relevance is None else sum(relevance.probabilities[_RELEVANT:])
        service.metrics.best_hit(served.name, level, relevant)
        if service.query_log is not None:
            found = [(hit.document.id, None if hit.level is None else int(hit.level)) for hit in result]
            service.query_log.write(
                request_id=call.id, index=served.name, order=result.order, query=query, hits=found
            )
    if results and (best := results[0].best) is not None and best.level is not None:
        call.facts["level"] = int(best.level)


async def _result(query: str | None, result: SearchResult) -> ResultBody:
    return ResultBody(
        query=query,
        hits=await encoded(result, _hit),
        order=result.order,
        matching=result.matching,
        candidates=result.candidates,
        scored=result.scored,
        skipped=result.skipped,
        scored_hits=result.scored_hits,
        scanned=result.scanned,
        elapsed_ms=round(result.elapsed_ms, 3),
        steps={name: round(ms, 3) for name, ms in result.steps.items()},
        facets={
            field: [FacetValue(value=value, count=count) for value, count in values]
            for field, values in result.facets.items()
        },
        nothing_relevant=None if result.nothing_relevant is None else round(result.nothing_relevant, 6),
        outside=list(result.outside),
        warnings=result.warnings,
    )


def _hit(hit: Hit) -> HitBody:
    document, relevance, passage, signals = hit.document, hit.relevance, hit.passage, hit.signals
    return HitBody(
        id=document.id,
        score=round(hit.score, 6),
        level=None if relevance is None else int(relevance.level),
        level_name=None if relevance is None else relevance.level.name,
        probabilities=None if relevance is None else [round(p, 6) for p in relevance.probabilities],
        expected_level=None if relevance is None else round(relevance.expected_level, 6),
        title=document.title,
        text=document.text,
        passage=None if passage is None else _passage(passage),
        signals=None
        if signals is None
        else SignalsBody(
            cosine=round(signals.cosine, 6),
            bm25=round(signals.bm25, 6),
            best_possible=round(signals.best_possible, 6),
            dense_rank=signals.dense_rank,
            lexical_rank=signals.lexical_rank,
        ),
        metadata=dict(document.metadata),
    )


def _passage(passage: Passage) -> PassageBody:
    return PassageBody(text=passage.text, start=passage.start, end=passage.end)


def _signals(signals: Signals) -> SignalsBody:
    return SignalsBody(
        cosine=round(signals.cosine, 6),
        bm25=round(signals.bm25, 6),
        best_possible=round(signals.best_possible, 6),
        dense_rank=signals.dense_rank,
        lexical_rank=signals.lexical_rank,
    )
