"""Stage 1: let the score model give the candidates their levels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from relsdk.formats import read_pairs
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra._shards import Make, map_shards, shard_paths
from relsdk_training.ssra.job import LABELLED, Job
from relsdk_training.ssra.pair_records import (
    Record,
    document_of,
    drop,
    labelled_key,
    new_record,
    pair_key,
    read_records,
)
from relsdk_training.ssra.scoring import PairScorer
from relsdk_training.ssra.stage_report import stage_report
from relsdk_training.ssra.stages.score import open_scorer, reading_identity

__all__ = ["annotate", "identity", "score_records", "work"]


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [config.filter.thresholds, config.filter.adjust, reading_identity(config)]


def work(job: Job) -> dict[str, Any]:
    """Write records of the candidates that have no label yet."""
    map_shards(job, shard_paths(job.path("candidates"), "candidates"), "records", _open)
    return stage_report(read_records(job.folder))


def _open(job: Job) -> Make:
    scorer = open_scorer(job.config, job.path("score"))
    known = {labelled_key(pair) for pair in read_pairs(job.path(LABELLED))}
    thresholds = job.config.filter.thresholds
    return lambda lines, shard: annotate(lines, scorer, thresholds, known)


def annotate(
    lines: Sequence[Mapping[str, Any]],
    scorer: PairScorer,
    thresholds: Sequence[float],
    known: Collection[tuple[str, str]],
) -> list[Record]:
    """Give existing queries of documents a level.

    Args:
        lines: Of a candidates shard: `document` and its `queries`.
        scorer: Gives levels.
        thresholds: Least probability of the level, for levels 0-3.
        known: Pairs that have a label already, as `pair_key` gives them; they are left out.

    Returns:
        Records; kept where the probability of the predicted level reaches its threshold.
    """
    records = [
        new_record(line["document"], query, wanted=None, source="annotated")
        for line in lines
        for query in line["queries"]
        if pair_key(query, document_of(line["document"])) not in known
    ]
    score_records(records, scorer)
    for record in records:
        level = record["predicted"]
        if record["probabilities"][level] < thresholds[level]:
            drop(record, "score")
    return records


def score_records(records: Sequence[Record], scorer: PairScorer) -> None:
    """Write into records which level the score model predicts, and how probable each is."""
    pairs = [(record["query"], document_of(record["document"])) for record in records]
    for record, row in zip(records, scorer.probabilities(pairs), strict=True):
        record["predicted"] = int(row.argmax())
        record["probabilities"] = [round(float(p), 4) for p in row]
