"""Stage 2: keep of what was written that on which score model and judge agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.levels import NUM_LEVELS
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.text import normal_form
from relsdk_training.engine.identity import weights_hash
from relsdk_training.query_models.chat_endpoint import open_endpoint
from relsdk_training.query_models.rubric import read_rubric, rubric_hash
from relsdk_training.ssra._cleaning import clean, fault, scripts
from relsdk_training.ssra._shards import Make, map_shards, read_lines, shard_paths
from relsdk_training.ssra.job import HELD_OUT, LABELLED, WRITTEN, Job
from relsdk_training.ssra.judges import EndpointJudge, Group, Judge, ModelJudge, consistent
from relsdk_training.ssra.pair_records import Record, document_of, drop, new_record, read_records
from relsdk_training.ssra.scoring import PairScorer
from relsdk_training.ssra.stage_report import stage_report
from relsdk_training.ssra.stages.annotate import score_records
from relsdk_training.ssra.stages.judge import JUDGE_SHARE
from relsdk_training.ssra.stages.score import open_scorer, reading_identity
from relsdk_training.ssra.stages.write import ASKED_AT_ONCE

__all__ = ["check", "identity", "work", "work_given"]

# From this share of equal queries on, a query model repeats itself.
_REPEATS = 0.5


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    settings = config.filter
    keeping: dict[str, Any] = {
        "scorer": settings.scorer,
        "thresholds": settings.thresholds,
        "adjust": settings.adjust,
        "by_score": settings.by_score,
        "judge": settings.judge,
        "judge_share": JUDGE_SHARE,
        "judge_name": settings.endpoint.name,  # where it is changes nothing; which model answers does
    }
    if settings.judge == "endpoint" and (rubric := rubric_hash(settings.endpoint.rubric)):
        keeping["rubric"] = rubric
    return [keeping, reading_identity(config)]


def check(config: SsraConfig) -> None:
    """Check the thresholds."""
    thresholds = config.filter.thresholds
    if len(thresholds) != NUM_LEVELS or not all(0 <= least <= 1 for least in thresholds):
        raise InputError(f"filter.thresholds {list(thresholds)}; four probabilities from 0 to 1 are needed")


def work(job: Job) -> dict[str, Any]:
    """Write records of all queries of a round, kept and dropped."""
    report = _filter(job, shard_paths(job.path("write-{n}"), "written"), _open)
    if (report["duplicate_rate"] or 0.0) > _REPEATS:
        job.on_note(
            f"the query model repeats itself: {report['duplicate_rate']:.0%} of its queries were written "
            "before; train it longer, on more pairs, or raise query.temperature"
        )
    return report


def work_given(job: Job) -> dict[str, Any]:
    """Write records of the queries that a language model wrote beforehand, kept and dropped."""
    return _filter(job, job.paths(WRITTEN), _open_given)


def _filter(job: Job, shards: Sequence[Path], opener: Callable[[Job], Make]) -> dict[str, Any]:
    """Turn shards of written queries into records."""
    asks = job.config.filter.judge == "endpoint"
    at_once = ASKED_AT_ONCE * len(job.config.synthesis.levels) if asks else 0
    map_shards(job, shards, "records", opener, at_once=at_once, alone=asks)
    return stage_report(read_records(job.folder))


def _open(job: Job) -> Make:
    filters, trained = _open_filters(job), job.paths("query-{n}")
    model_hash = weights_hash(trained[0] / "best") if trained else job.config.synthesis.endpoint.name
    return lambda lines, shard: _filter_queries(
        lines, filters, round_number=job.round_number, model_hash=model_hash
    )


def _open_given(job: Job) -> Make:
    filters = _open_filters(job)
    return lambda lines, shard: _filter_queries(
        lines, filters, round_number=0, model_hash=None, source="written"
    )


@dataclass(frozen=True)
class _Filters:
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


def _filter_queries(
    lines: Sequence[Mapping[str, Any]],
    filters: _Filters,
    *,
    round_number: int,
    model_hash: str | None,
    source: str = "synthesised",
) -> list[Record]:
    """Clean what was written, and keep what has the wanted level.

    Args:
        lines: Of the written shards.
        filters: Who decides.
        round_number: Goes into the records.
        model_hash: Goes into the records.
        source: Goes into the records.
    """
    records = []
    keys: set[tuple[str, int, str]] = set()
    for line in lines:
        document, level = line["document"], line["wanted"]
        for query in (clean(query) for query in line["queries"]):
            record = new_record(document, query, wanted=level, source=source)
            record |= {"round": round_number, "model": model_hash}
            key = (document_of(document), level, normal_form(query))
            reason = fault(query, document["title"], filters.scripts) or ("duplicate" if key in keys else "")
            reason = reason or ("held out" if normal_form(query) in filters.held_out else "")
            keys.add(key)
            if reason:
                drop(record, reason)
            records.append(record)
    usable = [record for record in records if record["kept"]]
    score_records(usable, filters.scorer)
    if filters.by_score:
        for record in usable:
            level = record["wanted"]
            if record["predicted"] != level or record["probabilities"][level] < filters.thresholds[level]:
                drop(record, "score")
    if filters.judge is not None:
        _check_order([record for record in usable if record["kept"]], filters.judge)
    return records


def _check_order(records: Sequence[Record], judge: Judge) -> None:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(document_of(record["document"]), []).append(record)
    document_groups = [
        Group(document, [r["query"] for r in of_one], [r["wanted"] for r in of_one])
        for document, of_one in groups.items()
    ]
    for of_one, wrong in zip(groups.values(), judge.contradictions(document_groups), strict=True):
        compared = len({record["wanted"] for record in of_one}) > 1
        for record, stays, clashes in zip(
            of_one, consistent(wrong), np.any(wrong | wrong.T, axis=1), strict=True
        ):
            verdict = "agrees" if not clashes else "contradicts"
            record["judge"] = {"verdict": verdict if compared else "not asked"}
            if not stays:
                drop(record, "judge")


def _open_filters(job: Job) -> _Filters:
    config, judges = job.config, job.paths("judge")
    judge: Judge | None = None
    if judges:
        judge = ModelJudge(open_scorer(config, judges[0]))
    elif config.filter.judge == "endpoint":
        settings = config.filter.endpoint
        judge = EndpointJudge(open_endpoint(settings), read_rubric(settings.rubric))
    return _Filters(
        scorer=open_scorer(config, job.path("score")),
        thresholds=config.filter.thresholds,
        by_score=config.filter.by_score,
        judge=judge,
        held_out={line["query"] for line in read_lines(job.path(HELD_OUT))},
        scripts=set[str]().union(*(scripts(pair.query) for pair in read_pairs(job.path(LABELLED)))),
    )
