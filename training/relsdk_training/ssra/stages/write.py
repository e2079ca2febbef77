"""Stage 2: write queries of the wanted levels for each document."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk_training.config.ssra import SsraConfig, query_training
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.objectives.query import examples_of
from relsdk_training.query_models.base import QueryModel, QueryRequest
from relsdk_training.query_models.chat_endpoint import open_endpoint
from relsdk_training.query_models.endpoint import EndpointQueryModel
from relsdk_training.query_models.rubric import read_rubric, rubric_hash
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.ssra._shards import Make, map_shards, read_shards
from relsdk_training.ssra.job import DOCUMENTS, LABELLED, WRITTEN, Job
from relsdk_training.ssra.pair_records import document_of
from relsdk_training.ssra.stages.query import sampling_identity

__all__ = ["ASKED_AT_ONCE", "check", "identity", "open_writer", "work", "write"]

# Documents that an endpoint is asked about before the answers are written down: they cost money.
ASKED_AT_ONCE = 10
_MOST_ROUNDS = 20


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    settings = config.synthesis
    writing: list[Any] = [
        settings.levels,
        settings.samples,
        settings.endpoint.is_named,  # where it is changes nothing; which model answers does
        settings.endpoint.name,
        sampling_identity(config),
    ]
    if settings.endpoint.is_named and (rubric := rubric_hash(settings.endpoint.rubric)):
        writing.append(rubric)
    return [writing, config.run.seed]


def check(config: SsraConfig) -> None:
    """Check what is wanted, and the endpoint that writes."""
    settings = config.synthesis
    levels = settings.levels
    wrong = not levels or len(set(levels)) < len(levels) or not set(levels) <= set(range(NUM_LEVELS))
    if wrong or settings.samples < 1:
        raise InputError(
            f"synthesis.levels {list(levels)}, samples {settings.samples}; needed are different "
            "levels out of 0 to 3, at least one, and at least 1 sample"
        )
    if not settings.rounds <= _MOST_ROUNDS:
        raise InputError(f"synthesis.rounds={settings.rounds}; 0 to {_MOST_ROUNDS} is needed")
    if settings.endpoint.is_named:
        open_endpoint(settings.endpoint)


def work(job: Job) -> dict[str, Any]:
    """Write shards of documents, wanted levels and queries."""
    asks = not job.paths("query-{n}")
    at_once = ASKED_AT_ONCE if asks else 0
    shards = map_shards(job, job.paths(DOCUMENTS), "written", _open, at_once=at_once, alone=asks)
    return {"queries": sum(len(line["queries"]) for line in read_shards(shards))}


def _open(job: Job) -> Make:
    config, trained = job.config, job.paths("query-{n}")
    model = open_writer(config, trained[0]) if trained else _open_endpoint(job)
    given = {(document_of(line["document"]), line["wanted"]) for line in read_shards(job.paths(WRITTEN))}

    def make(lines: list[dict[str, Any]], shard: int) -> list[dict[str, Any]]:
        return write(
            lines,
            model,
            levels=config.synthesis.levels,
            samples=config.synthesis.samples,
            seed=config.run.seed * 10_007 + shard,
            given=given,
        )

    return make


def write(
    documents: Sequence[Mapping[str, Any]],
    model: QueryModel,
    *,
    levels: Sequence[int],
    samples: int,
    seed: int,
    given: Collection[tuple[str, int]] = (),
) -> list[dict[str, Any]]:
    """Write queries of every wanted level for documents.

    Args:
        documents: Objects with `id`, `title`, `text`.
        model: Writes.
        levels: Wanted levels.
        samples: Queries for each document and level.
        seed: Of the sampling.
        given: Document texts and levels that have a query from elsewhere and need no other.

    Returns:
        Objects with `document`, `wanted` and `queries`, as they were written.
    """
    wanted = [
        (document, level)
        for document in documents
        for level in levels
        if (document_of(document), level) not in given
    ]
    requests = [QueryRequest(document_of(document), level) for document, level in wanted]
    answers = model.write(requests, samples=samples, seed=seed) if requests else []
    return [
        {"document": dict(document), "wanted": level, "queries": queries}
        for (document, level), queries in zip(wanted, answers, strict=True)
    ]


def open_writer(config: SsraConfig, folder: Path) -> QueryModel:
    """Open the query model of a finished stage."""
    model = query_training(config).model
    return QueryWriter.open(
        folder / "best", guidance=model.guidance, temperature=model.temperature, top_p=model.top_p
    )


def _open_endpoint(job: Job) -> QueryModel:
    settings = job.config.synthesis.endpoint
    return EndpointQueryModel(
        open_endpoint(settings),
        examples_of(pair_arrays(load_pairs(str(job.path(LABELLED))))),
        temperature=job.config.query.temperature,
        rubric=read_rubric(settings.rubric),
    )
