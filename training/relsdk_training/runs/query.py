"""Train a model that writes a query for a document and a wanted level."""

from __future__ import annotations

from collections.abc import Sequence

from relsdk.errors import InputError
from relsdk.formats import read_queries
from relsdk_training.config.settings import QueryConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.node_files import read_rows
from relsdk_training.data.pairs import held_out_queries
from relsdk_training.data.text import normal_form
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.query import QueryObjective
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.runs.run import OnNote, OnStep, Run

__all__ = ["train_query"]


def train_query(
    config: QueryConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a model that writes a query for a document and a wanted level; see `train_embed`."""
    run = Run(config, resume=resume)
    splits = load_splits(config.data, config.run.seed, on_note)
    texts = _texts_to_repeat(config, held_out_queries(config.data, splits.dev), on_note)
    data = [splits.content(), texts]
    if ended := run.result(data):
        return ended
    writer = QueryWriter.load(config.model)
    objective = QueryObjective(writer, splits.train, splits.dev, config.run, texts)
    with run.alone():
        return run.train(objective, data, metric="log_likelihood", on_step=on_step)


def _texts_to_repeat(config: QueryConfig, held_out: Sequence[str], on_note: OnNote) -> list[str]:
    """Return the distinct texts that a warm start repeats, without those in `held_out`."""
    if config.data.texts and config.model.kind != "warm_start":
        raise InputError(f"data.texts is for warm starts; model.kind is {config.model.kind!r}")
    texts = dict.fromkeys(query.text for path in config.data.texts for query in read_rows(path, read_queries))
    hidden = {normal_form(query) for query in held_out}
    visible = [text for text in texts if normal_form(text) not in hidden]
    if texts:
        dropped = len(texts) - len(visible)
        on_note(f"texts: {len(visible):,} to repeat, without {dropped:,} that dev or test asks")
    return visible
