"""The sample corpus, whose levels are exact: promises, and "nothing relevant" as an answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.experiments.trust_models import Models
from bench.experiments.trust_promises import kept_promises
from relsdk import Embedder, Index, LabelledPair, Searcher
from relsdk.levels import RelevanceLevel
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import SampleWorld, generate, level_of
from relsdk_sample.oracle import facts_of, level_from_facts
from relsdk_sample.parse import parse

# Hits of each query that are graded, as a page shows them.
HITS = 10


def measured_sample(models: Models, *, documents: int, seed: int, splits: int) -> dict[str, Any]:
    """Search the whole corpus, grade what is found exactly, and calibrate on a half of the queries.

    Returns:
        "promises": see `kept_promises`, of hits. "nothing_relevant": of queries whose relevant documents
        are in no index, and of the others, in how many search says that nothing relevant is there.
    """
    world = generate(seed, n_documents=documents, n_queries=documents // 5)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = folder / "bundle"
        shutil.copytree(models.encoder, bundle)
        embedder = Embedder(bundle, threads=1)
        with Index.build(folder / "whole.idx", world.documents, embedder) as index:
            pairs = graded_hits(Searcher(embedder, index), [query.text for query in world.queries])
        outputs = np.array([score for score, _ in pairs], dtype=np.float32)
        labels = np.array([int(pair.level) for _, pair in pairs])
        queries = [pair.query for _, pair in pairs]
        promises = kept_promises(outputs, labels, queries, pairs=len(pairs) // 2, splits=splits, seed=seed)
        fitted = {query.text for query in world.split_queries("train")}
        calibrate_bundle(
            bundle, [pair for _, pair in pairs if pair.query in fitted], variants=[embedder.variant.name]
        )
        found = without_relevant(world, Embedder(bundle, threads=1), folder / "less.idx")
    return {
        "documents": documents,
        "queries": len(world.queries),
        "promises": promises,
        "nothing_relevant": found,
    }


def graded_hits(searcher: Searcher, queries: list[str]) -> list[tuple[float, LabelledPair]]:
    """Return the first hits of each query with their cosines and exact levels."""
    return [
        (hit.score, LabelledPair(query, hit.document, level_of(query, hit.document)))
        for query, hits in zip(queries, searcher.search_batch(queries, k=HITS), strict=True)
        for hit in hits
    ]


def without_relevant(world: SampleWorld, embedder: Embedder, folder: Path) -> dict[str, Any]:
    """Leave out of the index what is relevant to every second query, and ask those of no training split."""
    facts = [facts_of(document) for document in world.documents]
    relevant = {
        query.text: {
            row
            for row, fact in enumerate(facts)
            if any(level_from_facts(reading, fact) >= RelevanceLevel.MOSTLY for reading in readings)
        }
        for query in world.queries
        for readings in [list(parse(query.text))]
    }
    gone = {row for query in world.queries[::2] for row in relevant[query.text]}
    left = (document for row, document in enumerate(world.documents) if row not in gone)
    asked = [query.text for name in ("dev", "test") for query in world.split_queries(name)]
    with Index.build(folder, left, embedder) as index:
        results = Searcher(embedder, index).search_batch(asked, k=HITS)
    says = {
        query: (result.nothing_relevant or 0.0) >= 0.5 for query, result in zip(asked, results, strict=True)
    }
    nothing = {query: not relevant[query] - gone for query in asked}
    counted = {
        name: [says[query] for query in asked if nothing[query] == truth]
        for name, truth in (("without_relevant", True), ("with_relevant", False))
    }
    return {
        name: {"queries": len(said), "said_nothing": round(float(np.mean(said)), 4)}
        for name, said in counted.items()
    }
