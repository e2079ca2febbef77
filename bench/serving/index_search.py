"""Search an index, documents fetched, beside bare graphs that give row numbers; recall beside every time.

The queries come again and again, so that most documents have been read lately and are in memory; as a second
contender the index remembers none and reads them all from the file.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.harness.interleave import Contender, measure
from bench.serving.quality import recall
from bench.serving.settings import Settings
from bench.serving.vector_sets import Graph, K, VectorSet, graphs, kept
from relsdk import Index
from relsdk.index._row_cache import RowCache

DIMENSIONS = (64, 128, 384)
EFFORTS = (16, 32, 64, 128, 256)


def run(settings: Settings) -> list[dict[str, Any]]:
    """Search each size at each effort."""
    sizes = [(count, dimension) for count in (10_000, 100_000) for dimension in DIMENSIONS]
    rows = []
    for count, dimension in [(500, 32)] if settings.small else sizes:
        rows += _size(settings, "index_search", count, dimension, settings.temporary)
    return rows


def _million(dimension: int, settings: Settings) -> list[dict[str, Any]]:
    """Search a million vectors at each effort; the graphs, which take hours, are kept for the next run."""
    count = 500 if settings.small else 1_000_000
    return _size(settings, f"million_{dimension}", count, dimension, settings.cache / "graphs")


million_64, million_128, million_384 = (partial(_million, dimension) for dimension in DIMENSIONS)


def _size(settings: Settings, suite: str, count: int, dimension: int, keep: Path) -> list[dict[str, Any]]:
    vectors = VectorSet(count, dimension)
    exact = vectors.exact()
    case = f"{count:,} x {dimension}"
    built = [(graph, kept(graph, settings.present[graph.name], vectors, keep)) for graph in graphs(settings)]
    rows = list[dict[str, Any]]()
    path = settings.temporary / f"index-{count}-{dimension}"
    click.echo(f"{case}: relsdk builds its index", err=True)
    Index.build(path, vectors.records(), vectors, num_threads=settings.threads).close()
    with Index.open(path) as index, Index.open(path) as forgetful:
        for segment in forgetful._open().segments:
            segment.documents._cache = RowCache(0)
        for effort in (16, 64) if settings.small else EFFORTS:
            contenders = [
                _ours("relsdk Index", index, vectors, effort, exact),
                _ours("relsdk Index, documents from the file", forgetful, vectors, effort, exact),
            ]
            contenders += [_peer(graph, made, vectors, effort, exact) for graph, made in built]
            rows += measure(
                suite,
                f"{case}, ef {effort}",
                [*contenders, settings.yardstick],
                settings.plan(30, 20),
                parameters={"documents": count, "dimension": dimension, "ef": effort, "k": K},
                unit="queries",
            )
    return rows


def index_rows(index: Index, vectors: VectorSet, effort: int | None, **options: Any) -> list[list[int]]:
    """Row numbers of what an index finds for each query."""
    found = [index.search(query, K, ef_search=effort, **options) for query in vectors.queries]
    return [[int(hit.document.id) for hit in hits] for hits in found]


def _ours(name: str, index: Index, vectors: VectorSet, effort: int, exact: list[list[int]]) -> Contender:
    queries = vectors.queries
    return Contender(
        name,
        lambda number: index.search(queries[number % len(queries)], K, ef_search=effort),
        role="ours",
        quality={"recall_at_10": recall(index_rows(index, vectors, effort), exact)},
    )


def _peer(graph: Graph, built: Any, vectors: VectorSet, effort: int, exact: list[list[int]]) -> Contender:
    queries, search = vectors.queries, partial(graph.search, built)
    found = [[int(row) for row in search(query, effort)] for query in queries]
    return Contender(
        graph.name,
        lambda number: search(queries[number % len(queries)], effort),
        quality={"recall_at_10": recall(found, exact)},
    )
