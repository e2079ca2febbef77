"""Train a student of fewer layers, or of none, on its teacher's vectors.

Shape letters: D dimension.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from relsdk.bundle import DenseLayer
from relsdk.errors import InputError
from relsdk_checkpoint.encoder import TextEncoder, dense_module
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
    _check_layers(config)
    if config.data.weak or config.data.written or config.data.human_last:
        raise InputError(
            "data.weak, data.written and data.human_last do nothing in a distillation; leave them out"
        )
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
    if config.distill.student == "static":
        _add_head(student)
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


def _check_layers(config: DistillConfig) -> None:
    """Raise `InputError` unless the student named keeps layers, or, static, none."""
    layers, static = list(config.model.layers), config.distill.student == "static"
    if static and (layers or config.model.lora_rank):
        raise InputError(
            f"model.layers={layers}, model.lora_rank={config.model.lora_rank}, and a static student has no "
            "layers; set them to [] and 0, or take the recipe static.toml"
        )
    if not layers and not static:
        raise InputError("model.layers names no layers; say what the student keeps, such as [0, 6]")


def _add_head(student: TextEncoder) -> None:
    """Let a student without layers take the mean of its token vectors, and put two linear layers behind.

    Between them is a ReLU: a mean of words knows none of their combinations, and the head may learn some. At
    first it changes nothing, as x = relu(x) - relu(-x).
    """
    width = student.settings.dimension
    unit = np.eye(width, dtype=np.float32)
    signs = np.concatenate([unit, -unit])  # (2D, D)
    head = [
        DenseLayer(signs, np.zeros(2 * width, dtype=np.float32), "ReLU"),
        DenseLayer(signs.T, np.zeros(width, dtype=np.float32), "Identity"),
    ]
    behind = len(student.settings.dense) + 2  # the first module is the transformer, the second pools
    names = [f"{behind + number}_Dense" for number in range(len(head))]
    student.settings = replace(student.settings, pooling="mean", dense=(*student.settings.dense, *names))
    student.dense.extend(map(dense_module, head))
