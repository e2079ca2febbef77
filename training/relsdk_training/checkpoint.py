"""Checkpoints: what a user exports, and what an exact resume needs; nothing is pickled.

A run's folder holds `best/` and `last/` (what the objective saves) and `state-STEP/` (module, optimiser,
random numbers as safetensors; the rest as JSON). A new state is written aside and renamed before the old one
goes, so a kill at any moment leaves one that is whole.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from relsdk.errors import InputError, RelsdkError
from relsdk.folders import staged_folder
from relsdk_training.errors import TrainingError

if TYPE_CHECKING:
    from relsdk_training.loop import Objective

__all__ = ["Progress", "load_training_state", "save_best", "save_training_state"]

_STATE = "state-"


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: Optimiser steps done.
        saved_step: Step of the last checkpoint.
        best_step: Step of the best dev measure.
        best: Dev measures there.
        without_improvement: Evaluations since.
    """

    step: int = 0
    saved_step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    without_improvement: int = 0


def save_best(folder: Path, objective: Objective) -> None:
    """Replace `best/` by what the objective saves now."""
    _save(folder / "best", objective)


def save_training_state(
    folder: Path,
    identity: str,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    schedule: LambdaLR,
    progress: Progress,
) -> None:
    """Write a state and `last/`, then remove older states.

    Raises:
        TrainingError: The disk is full or not writable; the checkpoint before is intact.
    """
    tensors: dict[str, Tensor] = {f"module.{k}": v for k, v in objective.module.state_dict().items()}
    tensors |= {f"objective.{k}": v for k, v in objective.state_dict().items()}
    packed = optimiser.state_dict()
    for number, state in packed["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    tensors |= {f"random.{name}": value for name, value in _random_state().items()}
    content = {
        "identity": identity,
        "architecture": _architecture(objective),
        "progress": asdict(progress),
        "optimiser_groups": packed["param_groups"],
        "schedule": {k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"},
        "python_random": random.getstate(),
        "numpy_random": [part.tolist() if isinstance(part, np.ndarray) else part for part in _numpy_state()],
    }
    target = folder / f"{_STATE}{progress.step:08d}"
    try:
        with staged_folder(target, marker="state.json", overwrite=True) as staging:
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
                staging / "tensors.safetensors",
            )
            (staging / "state.json").write_text(json.dumps(content), encoding="utf-8")
    except (OSError, RelsdkError) as error:
        raise TrainingError(
            f"{target} cannot be written ({error}); free some space and go on with --resume from the "
            "checkpoint before it, which is intact"
        ) from error
    _save(folder / "last", objective)
    for old in folder.glob(f"{_STATE}*"):
        if old != target:
            shutil.rmtree(old)


def load_training_state(
    folder: Path, identity: str, objective: Objective, optimiser: torch.optim.Optimizer, schedule: LambdaLR
) -> Progress:
    """Take over the newest state of a run; a run that has none starts from the beginning.

    Raises:
        InputError: The state is of another configuration, data or architecture.
    """
    states = sorted(folder.glob(f"{_STATE}????????"))
    if not states:
        return Progress()
    newest = states[-1]
    content = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    ours = _architecture(objective)
    if content["architecture"] != ours:
        raise InputError(
            f"{newest} is a checkpoint of {content['architecture']['name']}, and this run trains "
            f"{ours['name']}; choose another output folder or the same model"
        )
    if content["identity"] != identity:
        raise InputError(
            f"{newest} is of another configuration or other data; choose another output folder, or resume "
            "with what it was started with (config.json)"
        )
    tensors = load_file(newest / "tensors.safetensors")
    objective.module.load_state_dict(_under(tensors, "module."))
    objective.load_state_dict(_under(tensors, "objective."))
    optimiser_state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimiser.").items():
        number, _, key = name.partition(".")
        optimiser_state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": optimiser_state, "param_groups": content["optimiser_groups"]})
    schedule.load_state_dict({**content["schedule"], "lr_lambdas": [None] * len(schedule.lr_lambdas)})
    _set_random_state(_under(tensors, "random."))
    version, numbers, gauss = content["python_random"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = content["numpy_random"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    return Progress(**content["progress"])


def _save(target: Path, objective: Objective) -> None:
    try:
        with staged_folder(target, marker="config.json", overwrite=True) as staging:
            objective.save(staging)
    except (OSError, RelsdkError) as error:
        raise TrainingError(
            f"{target} cannot be written ({error}); what was there before is intact"
        ) from error


def _architecture(objective: Objective) -> dict[str, Any]:
    shapes = {name: list(value.shape) for name, value in objective.module.state_dict().items()}
    transformer = getattr(objective.module, "transformer", objective.module)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return {"name": f"{type(transformer).__name__} with {count:,} numbers", "shapes": shapes}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{n}": state for n, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for number in range(torch.cuda.device_count()):
        if f"cuda{number}" in states:
            torch.cuda.set_rng_state(states[f"cuda{number}"], number)


def _numpy_state() -> tuple[Any, ...]:
    state = np.random.get_state()  # noqa: NPY002
    return tuple(state)
