"""Measure an index with its models on judged queries: what it finds, in which order, and at which levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relsdk.errors import InputError
from relsdk.formats import Query
from relsdk.index import Index, Mode
from relsdk.levels import RelevanceLevel
from relsdk.metrics import GradeReport, RunReport, grade_report, run_report
from relsdk.records import Hit, Promise
from relsdk.search.searcher import Searcher
from relsdk.search.store_reader import StoreReader
from relsdk.tools._promises import PromiseCheck, check_promise

__all__ = ["IndexEvaluation", "evaluate_index"]

# Queries that are encoded together; a scorer takes one after the other anyway.
_BLOCK = 32
_TOP = 10
# Ids that are looked up at a time.
_IDS = 10_000
_LEVELS = frozenset(map(int, RelevanceLevel))


@dataclass(frozen=True)
class IndexEvaluation:
    """Metrics of searches against judgements.

    Attributes:
        run: Query id to document id to score.
        ranking: What the hits are worth; one that is not judged counts as irrelevant.
        levels: The levels of hits that are judged with a level, against it; None without such hits, or
            without a calibration.
        hits: Of all queries.
        judged_hits: How many of them are judged.
        judged_at_10: Share of the first ten hits of judged queries that are judged; None without any.
        order: What the hits are ordered by; see `SearchResult`.
        relevant_not_in_index: Documents judged 1 or above for these queries that the index does not hold.
        promises: Of each promise of what graded the hits, whether the hits that are judged with a level keep
            it.
    """

    run: Mapping[str, Mapping[str, float]]
    ranking: RunReport
    levels: GradeReport | None
    hits: int
    judged_hits: int
    judged_at_10: float | None
    order: str
    relevant_not_in_index: int
    promises: tuple[PromiseCheck, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, without the run itself."""
        return {
            "ranking": self.ranking.to_dict(),
            "levels": None if self.levels is None else self.levels.to_dict(),
            "hits": self.hits,
            "judged_hits": self.judged_hits,
            "judged_at_10": self.judged_at_10,
            "order": self.order,
            "relevant_not_in_index": self.relevant_not_in_index,
            "promises": [one.to_dict() for one in self.promises],
        }


def evaluate_index(
    searcher: Searcher,
    queries: Sequence[Query],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    k: int = 100,
    mode: Mode | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> IndexEvaluation:
    """Search for each query, and measure the hits against judgements.

    Args:
        searcher: The index and its models.
        queries: Their ids are those of the judgements.
        qrels: Query id to document id to label; labels 0-3 are levels.
        k: Hits for each query.
        mode: See `Searcher.search`.
        on_progress: Called with ("search", queries done).

    Raises:
        InputError: See `Searcher.search` and `run_report`.
    """
    if not any(query.id in qrels for query in queries):
        raise InputError(
            f"none of {len(queries):,} queries is judged; queries and judgements need the same query ids "
            f"({queries[0].id if queries else None!r} and {next(iter(qrels), None)!r})"
        )
    run: dict[str, dict[str, float]] = {}
    judged: list[tuple[str, Hit, int]] = []
    top = judged_top = 0
    order = ""
    size = _BLOCK if searcher.scorer is None else 1
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        results = searcher.search_batch([one.text for one in block], k, mode=mode)
        for query, hits in zip(block, results, strict=True):
            order = hits.order
            run[query.id] = {hit.document.id: hit.score for hit in hits}
            labels = qrels.get(query.id)
            if labels is not None:
                known = [(hit, labels.get(hit.document.id)) for hit in hits]
                judged += [(query.id, hit, label) for hit, label in known if label is not None]
                top += len(known[:_TOP])
                judged_top += sum(label is not None for _, label in known[:_TOP])
        if on_progress is not None:
            on_progress("search", start + len(block))
    levels, promises = _levels(judged, searcher.promises(mode))
    return IndexEvaluation(
        run=run,
        ranking=run_report(qrels, run),
        levels=levels,
        hits=sum(map(len, run.values())),
        judged_hits=len(judged),
        judged_at_10=judged_top / top if top else None,
        order=order,
        relevant_not_in_index=_count_absent(searcher.reader, [qrels.get(query.id, {}) for query in queries]),
        promises=promises,
    )


def _count_absent(index: Index | StoreReader, judgements: Sequence[Mapping[str, int]]) -> int:
    """Return how many documents judged 1 or above are not in an index."""
    ids = list({document for labels in judgements for document, label in labels.items() if label >= 1})
    some = (ids[start : start + _IDS] for start in range(0, len(ids), _IDS))
    return len(ids) - sum(index.count({"_id": {"in": few}}) for few in some)


def _levels(
    judged: Sequence[tuple[str, Hit, int]], promises: Sequence[Promise]
) -> tuple[GradeReport | None, tuple[PromiseCheck, ...]]:
    """Compare predicted levels, and what is promised of them, with judged ones; other labels are left out."""
    known = [
        (hit.probabilities, label, query)
        for query, hit, label in judged
        if hit.relevance and label in _LEVELS
    ]
    if not known:
        return None, ()
    shares, levels, queries = zip(*known, strict=True)
    probabilities, labels = np.array(shares), np.array(levels)  # (n, 4), (n,)
    checks = tuple(check_promise(one, probabilities, labels, queries) for one in promises)
    return grade_report(labels, probabilities, queries), checks
