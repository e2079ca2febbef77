"""Train one of the models inside a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk_training.config.settings import DataConfig, EmbedConfig, QueryConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.engine.interrupt import STOPPED_FROM_OUTSIDE
from relsdk_training.engine.loop import TrainResult
from relsdk_training.ssra.job import DEV, Job, OnNote, OnProgress

__all__ = ["check_start", "opinion_settings", "train_model", "train_to_end", "training_data"]


def check_start(section: str, config: ScoreConfig | QueryConfig | EmbedConfig) -> None:
    """Check that there is a checkpoint to start from.

    Raises:
        InputError: There is none.
    """
    checkpoint = config.model.checkpoint
    if not (checkpoint and Path(checkpoint).is_dir()):
        raise InputError(
            f"{section}.checkpoint {checkpoint!r} is not a folder; set it, or training.checkpoint for all "
            "models; get one with: relsdk model pull"
        )


def training_data(
    job: Job, train: Path, *, weak: Sequence[Path] = (), written: Sequence[Path] = ()
) -> DataConfig:
    """Return what a model learns from, and decides by on dev.

    Args:
        job: The stage.
        train: File of pairs that people labelled.
        weak: Files of opinions, which these pairs and dev correct.
        written: Files of pairs that a model wrote or graded, at their levels.
    """
    files: dict[str, Any] = {"weak": tuple(map(str, weak)), "written": tuple(map(str, written))}
    settings = job.config.data
    for name in ("weak", "written"):
        if files[name]:
            files[f"{name}_weight"] = getattr(settings, f"{name}_weight")
    if weak or written:
        files["human_last"] = settings.human_last
    return DataConfig(train=str(train), dev=str(job.path(DEV)), **files)


def opinion_settings(config: SsraConfig, *sections: str) -> list[Any]:
    """Return how "weak" and "written" pairs are learned, those of them that a run has, for an identity.

    Args:
        config: Of the run.
        sections: Which of the two a stage learns from.
    """
    data = config.data
    weights = {name: getattr(data, f"{name}_weight") for name in sections if getattr(data, name)}
    return [weights, data.human_last] if weights else []


def train_model(
    job: Job, train: Callable[..., TrainResult], config: Any, data: DataConfig, *, other_seed: int = 0
) -> dict[str, Any]:
    """Train a model in the stage's folder, or go on with it.

    The training ends a step on Ctrl-C and returns; here that ends the run.

    Args:
        job: The stage.
        train: `train_score`, `train_query` or `train_embed`.
        config: Its settings.
        data: What it learns from.
        other_seed: 0 takes the run's seed, another number a seed far from it.

    Returns:
        The stage's report: measures on dev, steps, the best step.
    """
    run = job.config.run
    seed = run.seed + 1000 * other_seed
    settings = replace(
        config,
        data=data,
        run=replace(config.run, output=str(job.folder), seed=seed, threads=run.threads),
    )

    return train_to_end(train, settings, job.on_note, job.on_progress)


def train_to_end(
    train: Callable[..., TrainResult], config: Any, on_note: OnNote, on_progress: OnProgress
) -> dict[str, Any]:
    """Train in the folder of a stage, or go on there; Ctrl-C ends the run.

    Args:
        train: As of `train_model`.
        config: All its settings; `run.output` is the stage's folder.
        on_note: Called with lines for people.
        on_progress: Called with the stage's name, the steps done, and all.

    Returns:
        As `train_model`.
    """
    name = Path(config.run.output).name

    def on_step(step: int, steps: int, statistics: dict[str, float]) -> None:
        on_progress(name, step, steps)

    result = train(config, resume=True, on_step=on_step, on_note=on_note)
    if result.stopped in STOPPED_FROM_OUTSIDE:
        raise KeyboardInterrupt
    for warning in result.warnings:
        on_note(f"{name}: {warning}")
    dev = {measure: value for measure, value in result.best.items() if math.isfinite(value)}
    return {"dev": dev, "steps": result.steps, "best_step": result.best_step}
