"""Checkpoints: what a user exports, and what an exact resume needs; nothing is pickled.

A run's folder holds `best/` and `last/` (what the objective saves, and `training.json`: what made it) and
`state-STEP/` (module, optimiser, random numbers as safetensors; the rest as JSON). A new state is written
aside and renamed before the old one goes, so a kill at any moment leaves one that is whole.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from relsdk.bundle import write_training
from relsdk.errors import InputError, RelsdkError, TrainingError
from relsdk.files.folders import remove_leftovers, staged_folder
from relsdk.typed_json import convert_json
from relsdk_training.engine.objective import Objective
from relsdk_training.engine.processes import (
    gather_values,
    is_first,
    rank,
    take_tensors,
    together,
    value_of,
    world_size,
)

__all__ = [
    "Progress",
    "check_resume",
    "clear_leftovers",
    "load_training_state",
    "random_state",
    "save_best",
    "save_training_state",
]

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
        seconds: Of the steps.
        rows: That the steps learned from.
    """

    step: int = 0
    saved_step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    without_improvement: int = 0
    seconds: float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class _Architecture:
    """A model, in words and by the shapes of its tensors."""

    name: str
    shapes: dict[str, list[int]]


@dataclass(frozen=True)
class _State:
    """What `state.json` holds."""

    identity: str
    processes: int
    architecture: _Architecture
    progress: Progress
    optimiser_groups: list[dict[str, Any]]
    schedule: dict[str, Any]
    python_random: tuple[int, tuple[int, ...], float | None]
    numpy_random: tuple[str, list[int], int, int, float]


def save_best(folder: Path, objective: Objective, about: Mapping[str, Any]) -> None:
    """Replace `best/` by what the objective saves now, and what made it."""
    _save(folder / "best", objective, about)


def save_training_state(
    folder: Path,
    identity: str,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    schedule: LambdaLR,
    progress: Progress,
    numbers: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> None:
    """Write `last/` and a state, then remove older states.

    Args:
        folder: Of the run.
        identity: Of configuration and data.
        objective: What is trained.
        optimiser: Its optimiser.
        schedule: Its learning rate.
        progress: Where it is.
        numbers: What `random_state` returned.
        about: What made it, for `training.json` of `last/`.

    Raises:
        TrainingError: The disk is full or not writable; the checkpoint before is intact.
    """
    tensors: dict[str, Tensor] = {f"module.{k}": v for k, v in objective.module.state_dict().items()}
    tensors |= {f"objective.{k}": v for k, v in objective.state_dict().items()}
    packed = optimiser.state_dict()
    for number, state in packed["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    tensors |= {f"random.{name}": value for name, value in numbers.items()}
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    content = _State(
        identity,
        world_size(),
        _architecture(objective),
        progress,
        packed["param_groups"],
        {k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"},
        random.getstate(),
        (str(name), np.asarray(keys).tolist(), *rest),
    )
    _save(folder / "last", objective, about)  # first: a resume of a whole state need not repeat it
    target = folder / f"{_STATE}{progress.step:08d}"
    try:
        with staged_folder(target, marker="state.json", overwrite=True) as staging:
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
                staging / "tensors.safetensors",
            )
            (staging / "state.json").write_text(json.dumps(asdict(content)), encoding="utf-8")
        for old in folder.glob(f"{_STATE}*"):
            if old != target:
                shutil.rmtree(old)
    except (OSError, RelsdkError, SafetensorError) as error:
        raise TrainingError(
            f"{target} cannot be written ({error}); free some space and go on with --resume from the "
            "checkpoint before it, which is intact"
        ) from error


def load_training_state(
    folder: Path, identity: str, objective: Objective, optimiser: torch.optim.Optimizer, schedule: LambdaLR
) -> Progress:
    """Take over the newest state of a run; a run that has none starts from the beginning.

    The first process reads it, and the others get it from there: they need not see the folder.

    Raises:
        InputError: See `check_resume`.
    """
    state: _State | None = None
    tensors: dict[str, Tensor] = {}
    with together():
        if is_first() and (newest := check_resume(folder, identity, objective)) is not None:
            state, tensors = _content(newest), load_file(newest / "tensors.safetensors")
    content = value_of(0, state)
    if content is None:
        return Progress()
    tensors = take_tensors(tensors)
    objective.module.load_state_dict(_with_prefix(tensors, "module."))
    objective.load_state_dict(_with_prefix(tensors, "objective."))
    optimiser_state: dict[int, dict[str, Tensor]] = {}
    for name, value in _with_prefix(tensors, "optimiser.").items():
        number, _, key = name.partition(".")
        optimiser_state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": optimiser_state, "param_groups": content.optimiser_groups})
    schedule.load_state_dict({**content.schedule, "lr_lambdas": [None] * len(schedule.lr_lambdas)})
    _set_random_state(_with_prefix(tensors, f"random.{rank()}."))
    random.setstate(content.python_random)
    kind, keys, position, has_gauss, gauss = content.numpy_random
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    return content.progress


def check_resume(folder: Path, identity: str, objective: Objective) -> Path | None:
    """Return the newest state of a run, None where there is none; nothing is changed.

    Raises:
        InputError: The state is of another configuration, data, architecture or number of processes.
    """
    states = sorted(folder.glob(f"{_STATE}????????"))
    if not states:
        return None
    newest = states[-1]
    content, ours = _content(newest), _architecture(objective)
    if content.architecture != ours:
        raise InputError(
            f"{newest} is a checkpoint of {content.architecture.name}, and this run trains "
            f"{ours.name}; choose another output folder or the same model"
        )
    if content.identity != identity:
        raise InputError(
            f"{newest} is of another configuration or other data; choose another output folder, or resume "
            "with what it was started with (config.json)"
        )
    if content.processes != world_size():
        raise InputError(
            f"{newest} is of {content.processes} processes, and here are {world_size()}; take as many"
        )
    return newest


def clear_leftovers(folder: Path) -> None:
    """Put back or remove what a killed run was writing; its lock must be held."""
    names = {"best", "last"}
    for left in folder.glob(f".{_STATE}*.*"):
        names.add(left.name[1:].partition(".")[0])
    for name in names:
        remove_leftovers(folder / name)


def random_state() -> dict[str, Tensor]:
    """Return the states of torch's random numbers of every process; all must ask."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {
        f"{number}.{name}": state
        for number, states in enumerate(gather_values(own))
        for name, state in states.items()
    }


def _content(state: Path) -> _State:
    path, remedy = state / "state.json", f"remove {state.parent} and start again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))  # a measure may be NaN
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON: {error}; {remedy}") from error
    return convert_json(content, _State, where=str(path), error=InputError, remedy=remedy)


def _save(target: Path, objective: Objective, about: Mapping[str, Any]) -> None:
    try:
        with staged_folder(target, marker="config.json", overwrite=True) as staging:
            objective.save(staging)
            write_training(staging, about)
    except (OSError, RelsdkError, SafetensorError) as error:
        raise TrainingError(
            f"{target} cannot be written ({error}); what was there before is intact: free some space and go "
            "on with --resume"
        ) from error


def _architecture(objective: Objective) -> _Architecture:
    shapes = {name: list(value.shape) for name, value in objective.module.state_dict().items()}
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    configs = (getattr(part, "config", None) for part in objective.module.modules())
    known = next((config for config in configs if hasattr(config, "model_type")), None)
    size = [
        f"{getattr(known, name)} {word}"
        for name, word in (("num_hidden_layers", "layers"), ("hidden_size", "wide"))
        if hasattr(known, name)
    ]
    kind = getattr(known, "model_type", type(objective.module).__name__)
    return _Architecture(f"{kind} ({', '.join([*size, f'{count:,} numbers'])})", shapes)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _set_random_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
