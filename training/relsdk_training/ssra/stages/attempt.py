"""Stage 2: let the query model write for dev documents; its agreement decides on more rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relsdk.levels import NUM_LEVELS
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.data.text import normal_form
from relsdk_training.query_models.base import QueryModel, QueryRequest
from relsdk_training.ssra._cleaning import clean, fault
from relsdk_training.ssra.job import DEV, Job
from relsdk_training.ssra.scoring import PairScorer
from relsdk_training.ssra.stages.query import sampling_identity
from relsdk_training.ssra.stages.score import open_scorer, reading_identity
from relsdk_training.ssra.stages.write import open_writer

__all__ = ["agreement", "identity", "work"]

# Dev documents that a query model is tried on after it was trained.
_DOCUMENTS = 100


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [
        sampling_identity(config),
        config.synthesis.levels,
        config.filter.adjust,
        reading_identity(config),
        config.run.seed,
    ]


def work(job: Job) -> dict[str, Any]:
    """Report the agreement; nothing is written."""
    config = job.config
    return agreement(
        open_writer(config, job.path("query-{n}")),
        open_scorer(config, job.path("score")),
        pair_arrays(load_pairs(str(job.path(DEV)))).documents[:_DOCUMENTS],
        levels=config.synthesis.levels,
        seed=config.run.seed,
    )


def agreement(
    model: QueryModel, scorer: PairScorer, documents: Sequence[str], *, levels: Sequence[int], seed: int
) -> dict[str, Any]:
    """Say how well a query model follows the wanted level.

    Args:
        model: Writes one query for each document and level.
        scorer: Gives them levels.
        documents: Texts, at least one.
        levels: Distinct wanted levels, at least one.
        seed: Of the sampling.

    Returns:
        "levels": for each of `levels` the share of documents whose query has the level; "mean": of these;
        "duplicate_rate": share of usable queries that were written before; "usable": share of queries that
        cleaning leaves.
    """
    requests = [QueryRequest(document, level) for document in documents for level in levels]
    answers = model.write(requests, samples=1, seed=seed)
    usable = [
        (clean(queries[0]), request)
        for queries, request in zip(answers, requests, strict=True)
        if queries and not fault(clean(queries[0]), "")
    ]
    predicted = scorer.probabilities([(query, request.document) for query, request in usable]).argmax(axis=1)
    right = np.zeros(NUM_LEVELS)
    for (_, request), level in zip(usable, predicted, strict=True):
        right[request.level] += level == request.level
    shares = {level: float(right[level]) / len(documents) for level in levels}
    distinct = len({normal_form(query) for query, _ in usable})
    return {
        "levels": {str(level): round(share, 4) for level, share in shares.items()},
        "mean": round(sum(shares.values()) / len(shares), 4),
        "duplicate_rate": round(1 - distinct / max(1, len(usable)), 4),
        "usable": round(len(usable) / len(requests), 4),
    }
