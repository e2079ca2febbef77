"""Stage 2 of SSRA for one shard of documents: write, clean, judge, keep what has the wanted level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relsdk.levels import NUM_LEVELS
from relsdk_training.data.text import normal_form
from relsdk_training.query_models.base import QueryModel, QueryRequest
from relsdk_training.ssra.cleaning import cleaned, fault
from relsdk_training.ssra.judges import Group, Judge, consistent
from relsdk_training.ssra.records import Record, document_of, drop, new_record, pair_key
from relsdk_training.ssra.scoring import PairScorer

__all__ = ["Filters", "agreement", "annotate", "filtered", "write"]


@dataclass(frozen=True)
class Filters:
    """Who decides whether a pair is believed.

    Attributes:
        scorer: Gives levels.
        thresholds: Least probability of the level, for levels 0-3.
        by_score: Whether the scorer must agree with the wanted level.
        judge: Checks the order of a document's queries; None checks nothing.
        held_out: Normal forms of queries that must not be learned: those of dev and test.
        scripts: Of the labelled queries; a written one of another script is no query of this domain.
    """

    scorer: PairScorer
    thresholds: Sequence[float]
    by_score: bool
    judge: Judge | None
    held_out: Collection[str]
    scripts: Collection[str]


def annotate(
    lines: Sequence[Mapping[str, Any]], filters: Filters, known: Collection[tuple[str, str]]
) -> list[Record]:
    """Give existing queries of documents a level.

    Args:
        lines: Of a candidates shard: `document` and its `queries`.
        filters: Who decides.
        known: Pairs that have a label already, as `records.pair_key` gives them; they are left out.

    Returns:
        Records; kept where the probability of the predicted level reaches its threshold.
    """
    records = [
        new_record(line["document"], query, wanted=None, source="annotated")
        for line in lines
        for query in line["queries"]
        if pair_key(query, document_of(line["document"])) not in known
    ]
    _score(records, filters.scorer)
    for record in records:
        level = record["predicted"]
        if record["probabilities"][level] < filters.thresholds[level]:
            drop(record, "score")
    return records


def write(
    documents: Sequence[Mapping[str, Any]],
    model: QueryModel,
    *,
    levels: Sequence[int],
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Write queries of every wanted level for documents.

    Args:
        documents: Objects with `id`, `title`, `text`.
        model: Writes.
        levels: Wanted levels.
        samples: Queries for each document and level.
        seed: Of the sampling.

    Returns:
        Objects with `document`, `wanted` and `queries`, as they were written.
    """
    asked = [(document, level) for document in documents for level in levels]
    requests = [QueryRequest(document_of(document), level) for document, level in asked]
    written = model.write(requests, samples=samples, seed=seed)
    return [
        {"document": dict(document), "wanted": level, "queries": queries}
        for (document, level), queries in zip(asked, written, strict=True)
    ]


def agreement(
    model: QueryModel, scorer: PairScorer, documents: Sequence[str], *, levels: Sequence[int], seed: int
) -> dict[str, Any]:
    """Say how well a query model follows the wanted level.

    Args:
        model: Writes one query for each document and level.
        scorer: Judges them.
        documents: Texts, at least one.
        levels: Distinct wanted levels, at least one.
        seed: Of the sampling.

    Returns:
        "levels": for each of `levels` the share of documents whose query has the level; "mean": of these;
        "duplicate_rate": share of usable queries that were written before; "usable": share of queries that
        cleaning leaves.
    """
    requests = [QueryRequest(document, level) for document in documents for level in levels]
    written = model.write(requests, samples=1, seed=seed)
    usable = [
        (cleaned(queries[0]), request)
        for queries, request in zip(written, requests, strict=True)
        if queries and not fault(cleaned(queries[0]), "")
    ]
    found = scorer.probabilities([(query, request.document) for query, request in usable]).argmax(axis=1)
    right = np.zeros(NUM_LEVELS)
    for (_, request), level in zip(usable, found, strict=True):
        right[request.level] += level == request.level
    shares = {level: float(right[level]) / len(documents) for level in levels}
    distinct = len({normal_form(query) for query, _ in usable})
    return {
        "levels": {str(level): round(share, 4) for level, share in shares.items()},
        "mean": round(sum(shares.values()) / len(shares), 4),
        "duplicate_rate": round(1 - distinct / max(1, len(usable)), 4),
        "usable": round(len(usable) / len(requests), 4),
    }


def filtered(
    lines: Sequence[Mapping[str, Any]], filters: Filters, *, round_number: int, model_hash: str
) -> list[Record]:
    """Clean and judge what was written.

    Args:
        lines: Of `write`.
        filters: Who decides.
        round_number: Goes into the records.
        model_hash: Goes into the records.
    """
    records = []
    seen: set[tuple[str, int, str]] = set()
    for line in lines:
        document, level = line["document"], line["wanted"]
        for query in (cleaned(query) for query in line["queries"]):
            record = new_record(document, query, wanted=level, source="synthesised")
            record |= {"round": round_number, "model": model_hash}
            key = (document_of(document), level, normal_form(query))
            reason = fault(query, document["title"], filters.scripts) or ("duplicate" if key in seen else "")
            reason = reason or ("held out" if normal_form(query) in filters.held_out else "")
            seen.add(key)
            if reason:
                drop(record, reason)
            records.append(record)
    usable = [record for record in records if record["kept"]]
    _score(usable, filters.scorer)
    if filters.by_score:
        for record in usable:
            level = record["wanted"]
            if record["predicted"] != level or record["probabilities"][level] < filters.thresholds[level]:
                drop(record, "score")
    if filters.judge is not None:
        _check_order([record for record in usable if record["kept"]], filters.judge)
    return records


def _score(records: Sequence[Record], scorer: PairScorer) -> None:
    found = scorer.probabilities([(record["query"], document_of(record["document"])) for record in records])
    for record, row in zip(records, found, strict=True):
        record["predicted"] = int(row.argmax())
        record["probabilities"] = [round(float(p), 4) for p in row]


def _check_order(records: Sequence[Record], judge: Judge) -> None:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(document_of(record["document"]), []).append(record)
    asked = [
        Group(document, [r["query"] for r in of_one], [r["wanted"] for r in of_one])
        for document, of_one in groups.items()
    ]
    for of_one, wrong in zip(groups.values(), judge.contradictions(asked), strict=True):
        compared = len({record["wanted"] for record in of_one}) > 1
        for record, stays, clashes in zip(
            of_one, consistent(wrong), np.any(wrong | wrong.T, axis=1), strict=True
        ):
            verdict = "agrees" if not clashes else "contradicts"
            record["judge"] = {"verdict": verdict if compared else "not asked"}
            if not stays:
                drop(record, "judge")
