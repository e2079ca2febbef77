"""Whole queries: text in, ten documents out, of 100,000 documents; with and without a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.harness.interleave import Contender, measure
from bench.serving.peers import AbsentError, Encoder, note, open_encoder
from bench.serving.quality import recall
from bench.serving.score import scorer_bundle
from bench.serving.settings import Settings
from bench.serving.vector_sets import Graph, K, graphs
from relsdk import Document, Index, RelevanceScorer, Searcher
from relsdk.index import IndexConfig
from relsdk_sample import generate, level_of

DOCUMENTS = 100_000
SAMPLE = 100  # queries whose hits are judged
PLAIN = "fastembed int8 + hnswlib + dict"


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time `Searcher.search`, and the least that a team would put together of the peers."""
    documents = _documents(settings)
    with _index(settings, documents) as index:
        exact = _exact(settings, index, settings.queries[:SAMPLE])
        contenders = [_ours(Searcher(settings.int8, index), settings, documents, exact)]
        contenders += _plain(settings, index, documents, exact)
        rows = _timed(settings, documents, "without scorer", contenders)
        made = scorer_bundle(settings)
        if made is not None:
            searcher = Searcher(settings.int8, index, RelevanceScorer(made[0], threads=settings.threads))
            contenders = [_ours(searcher, settings, documents, None)]
            rows += _timed(settings, documents, "with scorer", contenders, calls=3)
    return rows


def _timed(
    settings: Settings, documents: Sequence[Document], case: str, contenders: list[Contender], calls: int = 20
) -> list[dict[str, Any]]:
    return measure(
        "search",
        f"{len(documents):,} documents, {case}",
        [*contenders, settings.yardstick],
        settings.plan(20, calls, warmup=min(calls, 3)),
        parameters={"documents": len(documents), "k": K, "scorer": case == "with scorer"},
        unit="queries",
    )


def _documents(settings: Settings) -> list[Document]:
    if settings.small:
        return list(settings.world.documents)
    made = generate(n_documents=DOCUMENTS).documents
    return [Document(id=one.id, title=one.title, metadata=one.metadata) for one in made]


def _index(settings: Settings, documents: Sequence[Document]) -> Index:
    """Build once for each encoder and number of documents; later runs open what is there."""
    encoder = settings.int8
    name = f"documents-{encoder.fingerprint}-{encoder.variant.name}-{len(documents)}"
    path = (settings.temporary if settings.small else settings.cache) / name
    if not path.is_dir():
        Index.build(path, documents, encoder).close()
    return Index.open(path)


def _exact(settings: Settings, index: Index, texts: Sequence[str]) -> list[list[int]]:
    """Rows that comparing with every vector finds."""
    queries = settings.int8.encode_query(list(texts), batch_size=1)
    return np.argsort(-(queries @ np.asarray(index.vectors).T), axis=1, kind="stable")[:, :K].tolist()


def _ours(
    searcher: Searcher, settings: Settings, documents: Sequence[Document], exact: list[list[int]] | None
) -> Contender:
    rows = {document.id: row for row, document in enumerate(documents)}
    queries = settings.world.queries
    found = [[rows[hit.document.id] for hit in searcher.search(query.text, K)] for query in queries[:SAMPLE]]
    return Contender(
        "relsdk Searcher",
        lambda number: searcher.search(queries[number % len(queries)].text, K),
        role="ours",
        quality=_quality(settings, documents, found, exact),
    )


def _quality(
    settings: Settings, documents: Sequence[Document], found: list[list[int]], exact: list[list[int]] | None
) -> dict[str, float]:
    """Mean level of the hits by the sample world's oracle; and how many of the exact ten are among them."""
    queries = settings.world.queries
    levels = [
        level_of(queries[number].text, documents[row]) for number, rows in enumerate(found) for row in rows
    ]
    quality = {"mean_level_at_10": round(float(np.mean(levels)), 4)}
    return quality if exact is None else {"recall_at_10": recall(found, exact), **quality}


def _plain(
    settings: Settings, index: Index, documents: Sequence[Document], exact: list[list[int]]
) -> list[Contender]:
    if not settings.peers:
        return []
    graph = next((graph for graph in graphs(settings) if graph.name == "hnswlib"), None)
    try:
        encoder = open_encoder("fastembed int8", settings.models, settings.threads)
    except AbsentError as error:
        settings.absent["fastembed int8"] = str(error)
        return []
    note(settings, "fastembed")
    return [] if graph is None else [_plain_contender(settings, index, documents, exact, graph, encoder)]


def _plain_contender(
    settings: Settings,
    index: Index,
    documents: Sequence[Document],
    exact: list[list[int]],
    graph: Graph,
    encoder: Encoder,
) -> Contender:
    """Encode, search the graph, look documents up in memory: nothing is checked, filtered or stored."""
    built = graph.build(np.array(index.vectors))
    by_row = dict(enumerate(documents))
    effort, texts = IndexConfig().ef_search, settings.queries

    def search(text: str) -> list[int]:
        return [int(row) for row in graph.search(built, encoder.encode([text])[0], effort)]

    found = [search(text) for text in texts[: len(exact)]]
    return Contender(
        PLAIN,
        lambda number: [by_row[row] for row in search(texts[number % len(texts)])],
        quality=_quality(settings, documents, found, exact),
    )
