"""The sample corpus, whose levels are exact: promises, and "nothing relevant" as an answer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.experiments.trust_models import Models
from bench.experiments.trust_promises import kept_promises
from relsdk import Document, Embedder, Index, LabelledPair, Searcher
from relsdk.levels import RelevanceLevel
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import SampleQuery, generate, level_of
from relsdk_sample.oracle import facts_of, level_from_facts
from relsdk_sample.parse import parse

# Hits of each query that are graded, as a page shows them.
HITS = 10
PAIRS_PER_QUERY = 8
# Field of a document: the ids of the queries that it is relevant to, by which it can be left out.
RELEVANT_TO = "relevant_to"


def measured_sample(
    models: Models,
    *,
    documents: int,
    labels: int,
    seed: int,
    splits: int,
) -> dict[str, Any]:
    """Search the whole corpus, grade what is found exactly, and calibrate on the hits of some queries.

    Args:
        models: They have an encoder that never saw the corpus, and make one that did.
        documents: Of the corpus; it has a fifth as many queries.
        labels: Pairs of it that the latter learned from.
        seed: Of the corpus and the splits.
        splits: Of the hits, for the promises.

    Returns:
        For each encoder its promises (see `kept_promises`), of hits of queries that it did not learn from,
        and "nothing_relevant" (see `says_nothing`), of test queries, calibrated on hits of the others.
    """
    world = generate(seed, documents, documents // 5, PAIRS_PER_QUERY)
    learned = {pair.query for pair in world.split("train")[:labels]}
    fitted = [query.text for query in world.split_queries("train") if query.text not in learned]
    test = world.split_queries("test")
    relevant = relevant_queries(world.documents, test)
    answered = set().union(*relevant.values())
    told = [
        replace(document, metadata={**document.metadata, RELEVANT_TO: relevant[document.id]})
        for document in world.documents
    ]
    encoders = {}
    with TemporaryDirectory() as temporary:
        for name, made in models.of_sample(world).items():
            bundle = Path(temporary) / made.name
            shutil.copytree(made, bundle)
            embedder = Embedder(bundle, threads=1)
            with Index.build(Path(temporary) / f"{bundle.name}.idx", told, embedder) as index:
                hits = graded_hits(Searcher(embedder, index), [*fitted, *(query.text for query in test)])
                outputs = np.array([score for score, _ in hits], dtype=np.float32)
                labelled = np.array([int(pair.level) for _, pair in hits])
                queries = [pair.query for _, pair in hits]
                promises = kept_promises(
                    outputs, labelled, queries, pairs=len(hits) // 2, splits=splits, seed=seed
                )
                known = set(fitted)
                pairs = [pair for _, pair in hits if pair.query in known]
                calibrate_bundle(bundle, pairs, variants=[embedder.variant.name])
                searcher = Searcher(Embedder(bundle, threads=1), index)
                found = says_nothing(searcher, [one for one in test if one.id in answered])
            encoders[name] = {"promises": promises, "nothing_relevant": found}
    return {
        "documents": documents,
        "queries": len(world.queries),
        "labels": min(labels, len(world.split("train"))),
        "encoders": encoders,
    }


def graded_hits(searcher: Searcher, queries: Sequence[str]) -> list[tuple[float, LabelledPair]]:
    """Return the first hits of each query with their cosines and exact levels."""
    return [
        (hit.score, LabelledPair(query, hit.document, level_of(query, hit.document)))
        for query, hits in zip(queries, searcher.search_batch(queries, k=HITS), strict=True)
        for hit in hits
    ]


def relevant_queries(documents: Sequence[Document], queries: Sequence[SampleQuery]) -> dict[str, list[str]]:
    """Return for each document's id the ids of the queries that it is relevant to (level >= 2)."""
    readings = {query.id: list(parse(query.text)) for query in queries}
    return {
        document.id: [
            query
            for query, read in readings.items()
            if any(level_from_facts(one, facts) >= RelevanceLevel.MOSTLY for one in read)
        ]
        for document in documents
        for facts in [facts_of(document)]
    }


def says_nothing(searcher: Searcher, queries: Sequence[SampleQuery]) -> dict[str, Any]:
    """Ask queries that have relevant documents, with these and without, whether nothing relevant is there.

    Returns:
        "queries": how many. "without_relevant" and "with_relevant": the share that was told so.
    """
    said: dict[str, list[bool]] = {"without_relevant": [], "with_relevant": []}
    for query in queries:
        for name, where in (
            ("without_relevant", {RELEVANT_TO: {"ne": query.id}}),
            ("with_relevant", None),
        ):
            result = searcher.search(query.text, HITS, where=where)
            said[name].append((result.nothing_relevant or 0.0) >= 0.5)
    return {"queries": len(queries)} | {name: round(float(np.mean(one)), 4) for name, one in said.items()}
