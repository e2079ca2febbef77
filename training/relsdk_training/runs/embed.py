"""Train an encoder on graded pairs."""

from __future__ import annotations

from pathlib import Path

from relsdk.errors import InputError
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_training.config.settings import EmbedConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.pairs import check_dev
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.embedding import EmbeddingObjective
from relsdk_training.runs.run import OnNote, OnStep, Run

__all__ = ["train_embed"]


def train_embed(
    config: EmbedConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train an encoder on graded pairs; `OUTPUT/best` is what `relsdk export encoder` takes.

    Without `data.dev` nothing is measured, and `OUTPUT/best` is the encoder at the last step.

    Args:
        config: See `EmbedConfig`.
        resume: Go on from the last checkpoint.
        on_step: Called after each step.
        on_note: Called with lines for people.

    Raises:
        InputError: The configuration, the data or the checkpoint is wrong.
        LockedError: Another process trains in the same folder.
        TrainingError: Training cannot go on.
    """
    run = Run(config, resume=resume)
    splits = load_splits(config.data, config.run.seed, on_note, needs_dev=False)
    if not splits.train.targets[:, 1:].any():
        raise InputError("every pair to learn from has level 0; an encoder needs pairs of a level above it")
    if len(splits.dev):
        check_dev(splits.dev)
    elif config.run.patience:
        raise InputError(f"run.patience={config.run.patience} needs data.dev to say what improves")
    data = splits.content()
    if ended := run.result(data):
        return ended
    encoder = TextEncoder.load(
        Path(config.model.checkpoint),
        layers=config.model.layers or None,
        prompts=config.model.prompts,
        max_tokens=config.model.max_tokens,
        lora_rank=config.model.lora_rank,
        dropout=config.model.dropout,
    )
    objective = EmbeddingObjective(encoder, splits.train, splits.dev, config.loss, config.run)
    if wider := [dim for dim in config.loss.matryoshka_dims if dim not in objective.cuts]:
        on_note(
            f"loss.matryoshka_dims: {wider} left out; the encoder's vectors have "
            f"{encoder.settings.dimension} dimensions"
        )
    with run.alone():
        return run.train(objective, data, on_step=on_step)
