"""Stage 1: train the score model on labelled pairs and opinions, or take the one that is given."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relsdk.bundle import is_scorer_folder, read_scorer_settings
from relsdk.errors import InputError
from relsdk_training.config.settings import EmbedConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig, embed_training, score_training
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.engine.identity import checkpoint_hash, training_identity
from relsdk_training.runs.embed import train_embed
from relsdk_training.runs.score import train_score
from relsdk_training.ssra.job import DEV, LABELLED, WEAK, Job
from relsdk_training.ssra.model_training import check_start, opinion_settings, train_model, training_data
from relsdk_training.ssra.scoring import PairScorer, fit_levels

__all__ = [
    "check",
    "has_queries",
    "identity",
    "open_scorer",
    "reading_identity",
    "train_scorer",
    "training_settings",
    "work",
]

# Beyond this, probabilities of a level that is rare on dev leave the range of numbers.
_MOST_ADJUSTED = 10


def _scorer_training(config: SsraConfig) -> ScoreConfig | EmbedConfig:
    """Return how the models are trained that give pairs a level."""
    return score_training(config) if config.filter.scorer == "cross_encoder" else embed_training(config)


def training_settings(config: SsraConfig) -> list[Any]:
    """Return what a trained score model depends on."""
    training = training_identity(_scorer_training(config))
    return [config.filter.scorer, training, config.run.seed, *opinion_settings(config, "weak")]


def reading_identity(config: SsraConfig) -> list[Any]:
    """Return how a score model is read; its weights and its levels are inputs of the stages that use it."""
    model = _scorer_training(config).model
    return [config.filter.scorer, model.head, model.max_tokens]


def has_queries(config: SsraConfig) -> bool:
    """Whether this run has queries that a model wrote, to be believed or not."""
    return config.synthesis.rounds > 0 or bool(config.data.written)


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on besides its inputs."""
    given = config.filter.checkpoint
    return [reading_identity(config), checkpoint_hash(given)] if given else training_settings(config)


def check(config: SsraConfig) -> None:
    """Check the score model's settings, and the one that is given."""
    settings = config.filter
    if not settings.adjust <= _MOST_ADJUSTED:
        raise InputError(f"filter.adjust={settings.adjust}; 0 to {_MOST_ADJUSTED} is needed, 1 is in full")
    if settings.checkpoint:
        _check_given(Path(settings.checkpoint), config)
    judges = settings.judge == "model" and has_queries(config)
    if settings.scorer == "cross_encoder" and (judges or not settings.checkpoint):
        check_start("score", score_training(config))


def work(job: Job) -> dict[str, Any]:
    """Train the score model and fit its levels on dev."""
    given = job.config.filter.checkpoint
    if given:
        shutil.copytree(given, job.folder / "best", dirs_exist_ok=True)
        return {"levels": _fit(job)}
    return train_scorer(job, job.path(LABELLED), job.paths(WEAK))


def train_scorer(job: Job, labelled: Path, weak: Sequence[Path], *, other_seed: int = 0) -> dict[str, Any]:
    """Train a model that gives pairs a level, and fit its levels on dev."""
    train = train_score if job.config.filter.scorer == "cross_encoder" else train_embed
    data = training_data(job, labelled, weak=weak)
    report = train_model(job, train, _scorer_training(job.config), data, other_seed=other_seed)
    return {**report, "levels": _fit(job)}


def open_scorer(config: SsraConfig, folder: Path) -> PairScorer:
    """Open the score model of a finished stage."""
    model = _scorer_training(config).model
    return PairScorer(folder, config.filter.scorer, model, adjust=config.filter.adjust)


def _fit(job: Job) -> dict[str, Any]:
    dev = pair_arrays(load_pairs(str(job.path(DEV))))
    return fit_levels(job.folder, job.config.filter.scorer, _scorer_training(job.config).model, dev)


def _check_given(checkpoint: Path, config: SsraConfig) -> None:
    """Raise `InputError` unless a checkpoint is of the kind that shall give levels."""
    kind = config.filter.scorer
    if not (checkpoint / "config.json").is_file():
        raise InputError(
            f"filter.checkpoint {str(checkpoint)!r} is no checkpoint; name RUN/best of a training"
        )
    heads = (
        read_scorer_settings(checkpoint).head if is_scorer_folder(checkpoint) else None,
        config.score.head if kind == "cross_encoder" else None,
    )
    if heads[0] != heads[1]:
        given, needed = (
            f"a score model with a head that is {head}" if head else "an encoder" for head in heads
        )
        raise InputError(
            f"filter.checkpoint {str(checkpoint)!r} is {given}; filter.scorer={kind} needs {needed}"
        )
