"""Hybrid retrieval on real data: an encoder, BM25, and ways to put both together.

Run by `make hybrid`. Each encoder is exported to int8 and indexes two corpora: the titles of KUAKE-QTR, and
short titles whose names differ by one token (`data/names`). The hybrid model is fitted on dev of KUAKE-QTR,
which no encoder was trained on, and measured on its test and on the names. Writes one JSON.

Shape letters: C candidates of a query, N judged pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from bench.experiments.export_real import write_titles
from bench.harness.machine import machine_record
from relsdk import Document, Embedder, Index
from relsdk.calibration import Calibration, HybridLink, fit_calibration, hybrid_features
from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_documents, read_pairs
from relsdk.metrics import grade_report, mean_ap_over_levels
from relsdk.metrics.ranking import recall_at_k
from relsdk.models.bi_encoder import BiEncoder
from relsdk.records import LabelledPair
from relsdk.tools.hybrid_calibration import calibrate_hybrid
from relsdk_export.encoder import export_encoder
from relsdk_export.pipeline import DEFAULT_VARIANTS

INT8 = [name for name in DEFAULT_VARIANTS if name.startswith("int8")]
# Candidates that each side gives, as in a hybrid search.
DEPTH = 100
# Of reciprocal rank fusion (Cormack et al. 2009).
RRF = 60
# The last of the queries of `data/names` that need the exact token; the others are paraphrases.
EXACT = "p100"

# Those that take the candidates of one side only.
SIDES = {"dense": 0, "lexical": 1}

Float = NDArray[np.float64]


class Candidates(NamedTuple):
    """What both sides say of the candidates of a query, or of its judged documents.

    Attributes:
        ids: C document ids.
        cosines: (C,).
        bm25: (C,).
        best_possible: Of the query.
        ranks: (2, C) by meaning and by words, from 1; infinite where a side did not find it.
    """

    ids: list[str]
    cosines: Float
    bm25: Float
    best_possible: float
    ranks: Float


class Asked(NamedTuple):
    """A query with its judged documents."""

    name: str
    text: str
    levels: dict[str, int]


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Of train-real; measured, too.")
@click.option("--fp32", is_flag=True, help="Measure fp32 files: a toy of tests loses too much in int8.")
def main(shared: Path, output: Path, checkpoint: Path | None, fp32: bool) -> None:
    """Measure the untrained encoder, and a trained one if there is one."""
    encoders = {"untrained": shared / "models/me5-small-zh"}
    if checkpoint is not None:
        if not checkpoint.is_dir():
            raise click.ClickException(f"{checkpoint} is not there; run: make train-real")
        encoders["trained"] = checkpoint
    result: dict[str, Any] = {"machine": machine_record()}
    for name, folder in encoders.items():
        with TemporaryDirectory() as work:
            result[name] = measure(shared / "data", folder, Path(work), ["fp32"] if fp32 else INT8)
        click.echo(json.dumps({name: result[name]}, ensure_ascii=False), err=True)
    write_file_atomically(output, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def measure(data: Path, checkpoint: Path, work: Path, files: list[str]) -> dict[str, Any]:
    """Export, index, fit on dev, measure on test and on the names."""
    kuake = data / "kuake_qtr"
    embedder = Embedder(export_encoder(checkpoint, work / "bundle", variants=files).path)
    write_titles(kuake, work / "titles.jsonl")
    dev, test = (list(read_pairs(kuake / f"{split}.jsonl")) for split in ("dev", "test"))
    with (
        Index.build(work / "titles", read_documents(work / "titles.jsonl"), embedder) as titles,
        Index.build(work / "names", read_documents(data / "names/documents.jsonl"), embedder) as names,
    ):
        model, report = calibrate_hybrid(titles, embedder, dev)
        named = read_names(data / "names/queries.jsonl")
        return {
            "variant": report.variant,
            "model": model.to_dict(),
            "held_out_on_dev": report.to_dict(),
            "kuake_test": kuake_figures(titles, embedder, model, dev, test),
            "names": names_figures(names, embedder, model, named),
        }


def read_names(path: Path) -> list[Asked]:
    """Read the queries of `data/names`."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Asked(row["_id"], row["text"], row["qrels"]) for row in rows]


def kuake_figures(
    index: Index,
    embedder: Embedder,
    model: HybridLink,
    dev: Sequence[LabelledPair],
    test: Sequence[LabelledPair],
) -> dict[str, dict[str, float]]:
    """Return, of each contender, recall from all titles, order of the judged pairs, and levels."""
    judged: dict[str, list[LabelledPair]] = {}
    for pair in test:
        judged.setdefault(pair.query, []).append(pair)
    asked = [
        Asked(query, query, {pair.document.id: int(pair.level) for pair in pairs})
        for query, pairs in judged.items()
    ]
    found = retrieve(index, embedder, asked)
    documents = [[pair.document for pair in pairs] for pairs in judged.values()]
    own = list(judge(index, embedder, asked, documents, found))
    labels = np.array([int(pair.level) for pairs in judged.values() for pair in pairs])
    figures = {}
    for name, score in contenders(model).items():
        scores = [score(one, among) for one, among in zip(own, found, strict=True)]
        precision = mean_ap_over_levels(labels, np.concatenate(scores))
        figures[name] = {
            **recalls(asked, found, partial(retrieved, name, score)),
            "mean_ap": precision.mean_ap,
        }
    figures["dense"] |= level_figures(labels, own, dense_levels(embedder, dev), lambda one: one.cosines)
    figures["hybrid"] |= level_figures(labels, own, model, features_of)
    return {name: rounded(values) for name, values in figures.items()}


def names_figures(
    index: Index, embedder: Embedder, model: HybridLink, asked: Sequence[Asked]
) -> dict[str, dict[str, float]]:
    """Return, of each contender, how often the first document is a full match, in percent."""
    found = retrieve(index, embedder, asked)
    kinds = {"exact": [one.name <= EXACT for one in asked], "paraphrase": [one.name > EXACT for one in asked]}
    figures = {}
    for name, score in contenders(model).items():
        first = [best(one, retrieved(name, score, one)) for one in found]
        right = np.array([one.levels.get(id, 0) == 3 for one, id in zip(asked, first, strict=True)])
        figures[name] = rounded({f"hit_at_1_{kind}": right[of].mean() for kind, of in kinds.items()})
    return figures


def retrieve(index: Index, embedder: Embedder, asked: Sequence[Asked]) -> list[Candidates]:
    """Return the union of the best of both sides for each query."""
    texts = [one.text for one in asked]
    vectors = embedder.encode_query(texts)
    near = index.search(vectors, DEPTH)
    worded = index.retrieve(texts, vectors, DEPTH, mode="lexical")
    found = []
    for text, dense, lexical in zip(texts, near, worded, strict=True):
        signals = {hit.document.id: hit.signals for hit in lexical}
        documents = {hit.document.id: hit.document for hit in [*dense, *lexical]}
        cosines = {id: signal.cosine for id, signal in signals.items() if signal is not None}
        cosines |= {hit.document.id: hit.score for hit in dense}
        bm25, best_possible = index.bm25(text, list(documents.values()))
        ranks = np.full((2, len(documents)), np.inf)
        for side, hits in enumerate((dense, lexical)):
            places = {hit.document.id: rank for rank, hit in enumerate(hits, 1)}
            ranks[side] = [places.get(id, np.inf) for id in documents]
        ids = list(documents)
        found.append(Candidates(ids, np.array([cosines[id] for id in ids]), bm25, best_possible, ranks))
    return found


def judge(
    index: Index,
    embedder: Embedder,
    asked: Sequence[Asked],
    documents: Sequence[Sequence[Document]],
    found: Sequence[Candidates],
) -> Iterable[Candidates]:
    """Yield the judged documents of each query as if they were its candidates."""
    vectors = embedder.encode_query([one.text for one in asked])
    for one, vector, some, among in zip(asked, vectors, documents, found, strict=True):
        bm25, best_possible = index.bm25(one.text, some)
        ranks = dict(zip(among.ids, among.ranks.T, strict=True))
        missing = np.full(2, np.inf)
        of_some = np.stack([ranks.get(document.id, missing) for document in some], axis=1)
        cosines = embedder.encode_document(list(some)) @ vector
        yield Candidates([document.id for document in some], cosines, bm25, best_possible, of_some)


Score = Callable[[Candidates, Candidates], Float]


def contenders(model: HybridLink) -> dict[str, Score]:
    """Return functions of documents, and of the query's candidates among which they are standardised."""

    def standardised(one: Candidates, among: Candidates) -> Float:
        total = np.zeros(len(one.ids))
        for values, of_all in ((one.cosines, among.cosines), (one.bm25, among.bm25)):
            total += (values - of_all.mean()) / (of_all.std() or 1.0)
        return total

    return {
        "dense": lambda one, _: one.cosines,
        "lexical": lambda one, _: one.bm25,
        "hybrid": lambda one, _: model.scores(features_of(one)),
        "reciprocal rank fusion": lambda one, _: (1.0 / (RRF + one.ranks)).sum(axis=0),
        "standardised sum": standardised,
    }


def features_of(one: Candidates) -> Float:
    """Return what the hybrid model judges by, (C, 2)."""
    return hybrid_features(one.cosines, one.bm25, one.best_possible)


def retrieved(name: str, score: Score, one: Candidates) -> Float:
    """Return the scores of candidates, (C,); -inf for those that the contender does not find."""
    scores = score(one, one)
    return np.where(np.isfinite(one.ranks[SIDES[name]]), scores, -np.inf) if name in SIDES else scores


def best(one: Candidates, scores: Float) -> str:
    """Return the id of the first document; "" where nothing was found."""
    return one.ids[int(scores.argmax())] if np.isfinite(scores).any() else ""


def recalls(
    asked: Sequence[Asked], found: Sequence[Candidates], score: Callable[[Candidates], Float]
) -> dict[str, float]:
    """Return the mean share of documents of level 2 or above among the first 10 and 100."""
    values: dict[str, list[float]] = {"recall_at_10": [], "recall_at_100": []}
    for one, among in zip(asked, found, strict=True):
        scores = dict(zip(among.ids, score(among).tolist(), strict=True))
        ids = list(scores | one.levels)
        levels = [one.levels.get(id, 0) for id in ids]
        if max(levels) < 2:
            continue
        given = [scores.get(id, -np.inf) for id in ids]
        for name, places in values.items():
            places.append(recall_at_k(levels, given, int(name.rsplit("_", 1)[1]), min_level=2))
    return {name: float(np.mean(places)) for name, places in values.items()}


def dense_levels(embedder: Embedder, dev: Sequence[LabelledPair]) -> Calibration:
    """Fit the levels of a dense search on dev, as `relsdk calibrate` does."""
    scores = BiEncoder(embedder).outputs([(pair.query, pair.document) for pair in dev]).scores
    calibration, _ = fit_calibration(scores, [int(p.level) for p in dev], [p.query for p in dev])
    return calibration


def level_figures(
    labels: NDArray[np.int64],
    own: Sequence[Candidates],
    model: Calibration,
    outputs: Callable[[Candidates], Float],
) -> dict[str, float]:
    """Return accuracy, kappa, log loss and calibration error of the judged pairs."""
    probabilities = model.probabilities(np.concatenate([outputs(one) for one in own]))
    grades = grade_report(labels, probabilities).to_dict()
    return {name: grades[name] for name in ("accuracy", "qwk", "log_loss", "ece")}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Round to four digits."""
    return {name: round(float(value), 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
