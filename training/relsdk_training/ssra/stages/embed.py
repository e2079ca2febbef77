"""Stage 3: train the encoder on the balanced pairs, and on opinions where the run has some."""

from __future__ import annotations

from typing import Any

from relsdk.formats import read_pairs, write_pairs
from relsdk_training.config.ssra import SsraConfig, embed_training
from relsdk_training.engine.identity import training_identity
from relsdk_training.runs.embed import train_embed
from relsdk_training.ssra.job import LABELLED, WEAK, Job
from relsdk_training.ssra.model_training import check_start, opinion_settings, train_model, training_data
from relsdk_training.ssra.pair_records import labelled_key

__all__ = ["check", "identity", "work"]


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    training = training_identity(embed_training(config))
    return [training, config.run.seed, *opinion_settings(config, "weak", "written")]


def check(config: SsraConfig) -> None:
    """Check what the encoder starts from."""
    check_start("embed", embed_training(config))


def work(job: Job) -> dict[str, Any]:
    """Train it; `best/` is what `relsdk export encoder` takes.

    With `data.weak` or `data.written`, people's labels are told from what models said: these have weights,
    and the last steps may be without them.
    """
    balanced = job.path("balance/pairs.jsonl")
    data = training_data(job, balanced)
    if labelled := job.paths(LABELLED):
        human = {labelled_key(pair) for pair in read_pairs(labelled[0])}
        added = [pair for pair in read_pairs(balanced) if labelled_key(pair) not in human]
        written = [job.folder / "added.jsonl"] if added else []
        for path in written:
            write_pairs(path, added)
        data = training_data(job, labelled[0], weak=job.paths(WEAK), written=written)
    return train_model(job, train_embed, embed_training(job.config), data)
