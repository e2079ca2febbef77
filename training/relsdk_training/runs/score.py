"""Train a score model on graded pairs, alone or with teachers."""

from __future__ import annotations

from pathlib import Path

from relsdk_checkpoint.scorer import ScoreModel
from relsdk_training.config.settings import ScoreConfig
from relsdk_training.data.lessons import load_splits
from relsdk_training.data.pairs import check_dev, held_out_queries
from relsdk_training.engine.identity import checkpoint_hash
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.score import ScoreObjective
from relsdk_training.runs.run import OnNote, OnStep, Run
from relsdk_training.teachers.cache import forget_teachers
from relsdk_training.teachers.targets import check_teachers, soft_targets, unlabelled_pairs

__all__ = ["train_score"]


def train_score(
    config: ScoreConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a score model on graded pairs, as `train_embed` an encoder; for `relsdk export scorer`.

    With `config.teacher`, it also learns what other models say of these pairs and of such without labels; see
    `relsdk_training.teachers.targets`, also for what it raises beyond `train_embed`.
    """
    check_teachers(config.teacher)
    run = Run(config, resume=resume)
    splits = load_splits(config.data, config.run.seed, on_note)
    check_dev(splits.dev)
    model = ScoreModel.load(
        Path(config.model.checkpoint),
        config.model.head,
        layers=config.model.layers or None,
        max_tokens=config.model.max_tokens,
        lora_rank=config.model.lora_rank,
        dropout=config.model.dropout,
    )
    unlabelled: list[tuple[str, str]] = []
    if config.teacher.pairs:
        held_out = held_out_queries(config.data, splits.dev)
        unlabelled, dropped = unlabelled_pairs(config.teacher.pairs, splits.train.pairs, held_out)
        on_note(f"{len(unlabelled):,} pairs to grade, without {dropped:,} of queries of dev or test")
    data = [splits.content(), unlabelled, *map(checkpoint_hash, config.teacher.checkpoints)]
    if ended := run.result(data):
        return ended
    with run.alone():  # from the teachers' first pair on: what they say is kept in the folder
        lesson = splits.train
        if config.teacher.checkpoints:
            lesson = soft_targets(config.teacher, splits.train, unlabelled, splits.dev, config.run, on_note)
        objective = ScoreObjective(model, lesson, splits.dev, config.run)
        result = run.train(objective, data, on_step=on_step)
        if not result.goes_on:
            forget_teachers(run.folder)
    return result
