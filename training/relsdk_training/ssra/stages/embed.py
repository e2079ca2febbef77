"""Stage 3: train the encoder on the balanced pairs."""

from __future__ import annotations

from typing import Any

from relsdk_training.config.settings import DataConfig
from relsdk_training.config.ssra import SsraConfig, embed_training
from relsdk_training.engine.identity import training_identity
from relsdk_training.runs.embed import train_embed
from relsdk_training.ssra.job import DEV, Job
from relsdk_training.ssra.model_training import check_start, train_model

__all__ = ["check", "identity", "work"]


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    return [training_identity(embed_training(config)), config.run.seed]


def check(config: SsraConfig) -> None:
    """Check what the encoder starts from."""
    check_start("embed", embed_training(config))


def work(job: Job) -> dict[str, Any]:
    """Train it; `best/` is what `relsdk export encoder` takes."""
    data = DataConfig(train=str(job.path("balance/pairs.jsonl")), dev=str(job.path(DEV)))
    return train_model(job, train_embed, embed_training(job.config), data)
