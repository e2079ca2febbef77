"""Search with a filter on metadata, by the share of documents that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.harness.interleave import Contender, measure
from bench.serving.index_search import index_rows
from bench.serving.quality import recall
from bench.serving.settings import Settings
from bench.serving.vector_sets import K, VectorSet, graphs
from relsdk import Index
from relsdk.index import IndexConfig

SHARES = (0.001, 0.01, 0.1, 0.5, 1.0)
COUNT, DIMENSION = 100_000, 128


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time each share; of the peers hnswlib filters too, by a function called for each candidate."""
    vectors = VectorSet(2000, 32) if settings.small else VectorSet(COUNT, DIMENSION)
    bare = next((graph for graph in graphs(settings) if graph.name == "hnswlib"), None)
    built = bare.build(vectors.documents) if bare is not None else None
    rows = []
    path = settings.temporary / "filtered"
    with Index.build(path, vectors.records(), vectors, num_threads=settings.threads) as index:
        for share in SHARES:
            bound = round(share * 1000)
            allowed = np.arange(len(vectors)) * 7919 % 1000 < bound
            exact = vectors.exact(allowed)
            contenders = [_ours(index, vectors, bound, exact)]
            if built is not None:
                contenders.append(_hnswlib(built, vectors, allowed, exact))
            rows += measure(
                "filtered_search",
                f"{share:.1%} of {len(vectors):,} x {vectors.dimension}",
                [*contenders, settings.yardstick],
                settings.plan(20, 10),
                parameters={
                    "documents": len(vectors),
                    "dimension": vectors.dimension,
                    "selectivity": share,
                    "k": K,
                },
                unit="queries",
            )
    return rows


def _ours(index: Index, vectors: VectorSet, bound: int, exact: list[list[int]]) -> Contender:
    where, queries = {"thousandth": {"lt": bound}}, vectors.queries
    return Contender(
        "relsdk Index",
        lambda number: index.search(queries[number % len(queries)], K, where=where),
        role="ours",
        quality={"recall_at_10": recall(index_rows(index, vectors, None, where=where), exact)},
    )


def _hnswlib(graph: Any, vectors: VectorSet, allowed: Any, exact: list[list[int]]) -> Contender:
    """Bare hnswlib at relsdk's default effort; where it finds fewer than K, as many as it can."""
    passes = allowed.tolist().__getitem__
    queries, effort = vectors.queries, IndexConfig().ef_search

    def search(query: Any) -> list[int]:
        graph.set_ef(effort)
        for k in (K, 5, 1):
            try:
                return list(graph.knn_query(query, k=k, filter=passes)[0][0])
            except RuntimeError:  # fewer than k found
                continue
        return []

    found = [[int(row) for row in search(query)] for query in queries]
    return Contender(
        "hnswlib",
        lambda number: search(queries[number % len(queries)]),
        quality={"recall_at_10": recall(found, exact)},
    )
