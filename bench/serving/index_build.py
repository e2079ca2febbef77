"""Build an index: documents, database and graph for relsdk, the graph alone for the peers."""

from __future__ import annotations

from typing import Any

from bench.harness.interleave import Contender, measure
from bench.serving.index_search import index_rows
from bench.serving.quality import recall
from bench.serving.settings import Settings
from bench.serving.vector_sets import Graph, VectorSet, graphs
from relsdk import Index
from relsdk.index import IndexConfig

SIZES = ((10_000, 64), (10_000, 128), (10_000, 384), (100_000, 128))


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time whole builds, with the recall of what they built."""
    rows = []
    for count, dimension in ((500, 32),) if settings.small else SIZES:
        vectors = VectorSet(count, dimension, 100)
        contenders = [_ours(settings, vectors), *(_peer(graph, vectors) for graph in graphs(settings))]
        rows += measure(
            "index_build",
            f"{count:,} x {dimension}",
            [*contenders, settings.yardstick],
            settings.plan(3 if count > 50_000 else 5, 1, warmup=0),  # the large ones take minutes a round
            parameters={"documents": count, "dimension": dimension},
            unit="documents",
        )
    return rows


def _ours(settings: Settings, vectors: VectorSet) -> Contender:
    path, documents = settings.temporary / "built", vectors.records()

    def build() -> Index:
        return Index.build(path, documents, vectors, overwrite=True, num_threads=settings.threads)

    with build() as index:
        found = recall(index_rows(index, vectors, IndexConfig().ef_search), vectors.exact())
    return Contender(
        "relsdk Index",
        lambda _: build(),
        role="ours",
        items=len(vectors),
        quality={"recall_at_10": found},
        after=lambda index: index.close(),
    )


def _peer(graph: Graph, vectors: VectorSet) -> Contender:
    built, ef = graph.build(vectors.documents), IndexConfig().ef_search
    found = [[int(row) for row in graph.search(built, query, ef)] for query in vectors.queries]
    return Contender(
        graph.name,
        lambda _: graph.build(vectors.documents),
        items=len(vectors),
        quality={"recall_at_10": recall(found, vectors.exact())},
    )
