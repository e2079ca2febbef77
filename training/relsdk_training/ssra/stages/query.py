"""Stage 2: train the query model on labelled pairs, what a language model wrote, and what stages kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from relsdk.formats import read_pairs, write_pairs
from relsdk.levels import RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_training.config.settings import QueryDataConfig
from relsdk_training.config.ssra import SsraConfig, query_training
from relsdk_training.engine.identity import training_identity
from relsdk_training.query_models.writer_checks import check_checkpoint, check_settings
from relsdk_training.runs.query import train_query
from relsdk_training.ssra._cleaning import clean, fault
from relsdk_training.ssra._shards import read_lines, read_shards, write_lines
from relsdk_training.ssra.job import DEV, DOCUMENTS, LABELLED, QUERIES, WRITTEN, Job
from relsdk_training.ssra.model_training import check_start, train_model
from relsdk_training.ssra.pair_records import distinct, document_of, kept_pairs, labelled_key, sample

__all__ = ["check", "identity", "is_trained", "reads_texts", "sampling_identity", "work"]

# Queries, and documents, at most that a warm start learns to repeat: more would drown the graded pairs.
_REPEATED = 10_000


def is_trained(config: SsraConfig) -> bool:
    """Whether this run trains a query model: not where a language model writes."""
    return config.synthesis.rounds > 0 and not config.synthesis.endpoint.is_named


def reads_texts(config: SsraConfig) -> bool:
    """Whether the query model learns to read by unlabelled text."""
    return config.query.kind == "warm_start"


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [training_identity(query_training(config)), config.run.seed, config.synthesis.most_pairs]


def sampling_identity(config: SsraConfig) -> list[float]:
    """Return what the choice of the next token depends on."""
    model = query_training(config).model
    return [model.guidance, model.temperature, model.top_p]


def check(config: SsraConfig) -> None:
    """Check the query model's settings and what it starts from."""
    if is_trained(config):
        training = query_training(config)
        check_settings(training.model)
        check_start("query", training)
        check_checkpoint(training.model)


def work(job: Job) -> dict[str, Any]:
    """Write what it learns from, and train it."""
    config = job.config
    stages = [*job.paths("annotate"), *job.paths("filter-{last}")]
    more = chain(_given_pairs(job), *map(kept_pairs, stages))
    some = sample(more, config.synthesis.most_pairs, config.run.seed)
    pairs = chain(read_pairs(job.path(LABELLED)), some)
    write_pairs(job.folder / "pairs.jsonl", distinct(pairs, labelled_key))
    del some, pairs  # the training reads the file
    data = QueryDataConfig(
        train=str(job.folder / "pairs.jsonl"), dev=str(job.path(DEV)), texts=_texts_file(job)
    )
    return train_model(job, train_query, query_training(config), data)


def _given_pairs(job: Job) -> Iterator[LabelledPair]:
    """Yield what a language model wrote beforehand, at the level that was wanted, whoever believes it.

    The labels lack the levels 1 and 2, and a score model of them knows these least.
    """
    for line in read_shards(job.paths(WRITTEN)):
        document = Document(**line["document"])
        for query in map(clean, line["queries"]):
            if not fault(query, document.title):
                yield LabelledPair(query, document, RelevanceLevel(line["wanted"]))


def _texts_file(job: Job) -> tuple[str, ...]:
    """Write the unlabelled text that a warm start learns to read by: queries and documents."""
    if not reads_texts(job.config):
        return ()
    queries = (line["query"] for line in read_lines(job.path(QUERIES)))
    documents = map(document_of, read_shards(job.paths(DOCUMENTS)))
    texts = [*islice(queries, _REPEATED), *islice(documents, _REPEATED)]
    lines = ({"_id": str(number), "text": text} for number, text in enumerate(texts))
    write_lines(job.folder / "texts.jsonl", lines)
    return (str(job.folder / "texts.jsonl"),)
