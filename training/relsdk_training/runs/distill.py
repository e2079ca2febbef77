"""Train a student of fewer layers on its teacher's vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from relsdk.errors import InputError
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_training.config.settings import DistillConfig
from relsdk_training.data.pairs import check_dev, load_pairs, pair_arrays
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.distillation import DistillationObjective, distillation_texts
from relsdk_training.runs.run import OnNote, OnStep, Run
from relsdk_training.teachers.cache import forget_teachers

__all__ = ["train_distill"]


def train_distill(
    config: DistillConfig,
    *,
    resume: bool = False,
    on_step: OnStep = lambda step, steps, statistics: None,
    on_note: OnNote = lambda note: None,
) -> TrainResult:
    """Train a student of fewer layers on the teacher's vectors of unlabelled texts; see `train_embed`."""
    run = Run(config, resume=resume)
    if not config.model.layers:
        raise InputError("model.layers names no layers; say what the student keeps, such as [0, 6]")
    if not config.data.dev:
        raise InputError("data.dev names no file; labelled pairs decide which checkpoint is best")
    load = partial(
        TextEncoder.load,
        Path(config.model.checkpoint),
        max_tokens=config.model.max_tokens,
        prompts=config.model.prompts,
    )
    teacher = load()
    student = load(layers=config.model.layers, lora_rank=config.model.lora_rank, dropout=config.model.dropout)
    dev = pair_arrays(load_pairs(config.data.dev, config.data.label_map))
    check_dev(dev)
    texts = distillation_texts(config.distill, teacher.settings.prompts, config.run.seed)
    on_note(f"{len(texts):,} texts; dev: {dev.describe()}")
    data = [texts, dev.content()]
    if ended := run.result(data):
        return ended
    with run.alone():  # from the teacher's first text on: its vectors are kept in the folder
        objective = DistillationObjective(student, teacher, texts, dev, config.distill, config.run, on_note)
        result = run.train(objective, data, on_step=on_step)
        if not result.goes_on:
            forget_teachers(run.folder)
    return result
