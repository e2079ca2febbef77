"""Stage 2: train the judge, a second score model of a part of the labelled queries and another seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from relsdk.formats import write_pairs
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import load_pairs
from relsdk_training.query_models.chat_endpoint import open_endpoint
from relsdk_training.ssra.job import DEV, LABELLED, WEAK, Job
from relsdk_training.ssra.stages.score import has_queries, train_scorer, training_settings

__all__ = ["JUDGE_SHARE", "check", "identity", "is_trained", "work"]

# Of the queries of labels and opinions: what it learns from differs from what the score model learns from.
JUDGE_SHARE = 0.7


def is_trained(config: SsraConfig) -> bool:
    """Whether this run trains a judge."""
    return config.filter.judge == "model" and has_queries(config)


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [*training_settings(config), JUDGE_SHARE]


def check(config: SsraConfig) -> None:
    """Check the endpoint that judges."""
    if config.filter.judge == "endpoint":
        open_endpoint(config.filter.endpoint)


def work(job: Job) -> dict[str, Any]:
    """Train it and fit its levels on dev."""
    pairs = load_pairs(str(job.path(LABELLED)))
    opinions = [pair for path in job.paths(WEAK) for pair in load_pairs(str(path))]
    of_dev = {pair.query for pair in load_pairs(str(job.path(DEV)))} if opinions else set()
    learned = [*pairs, *(pair for pair in opinions if pair.query not in of_dev)]
    queries = list(dict.fromkeys(pair.query for pair in learned))
    count = max(1, round(JUDGE_SHARE * len(queries)))
    rng = np.random.default_rng(job.config.run.seed + 1)
    chosen = {queries[row] for row in rng.permutation(len(queries))[:count]}
    labelled = job.folder / "labelled.jsonl"
    write_pairs(labelled, [pair for pair in pairs if pair.query in chosen])
    # Those of dev teach nothing, and say how far the others can be believed.
    part = [pair for pair in opinions if pair.query in chosen | of_dev]
    weak = [job.folder / "weak.jsonl"] if part else []
    for path in weak:
        write_pairs(path, part)
    return train_scorer(job, labelled, weak, other_seed=1)
