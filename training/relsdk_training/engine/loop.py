"""The training loop of every objective: steps, devices, checkpoints and dev, without a word of models.

Shape letters: B rows of one batch.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from relsdk.errors import TrainingError
from relsdk_training.config.settings import OptimiserConfig, RunConfig
from relsdk_training.engine._log import RunLog
from relsdk_training.engine._schedule import count_steps, steps_to_do
from relsdk_training.engine.checkpoint import (
    Progress,
    load_training_state,
    random_state,
    save_best,
    save_training_state,
)
from relsdk_training.engine.interrupt import STOPPED_FROM_OUTSIDE, InterruptAfterStep
from relsdk_training.engine.objective import Objective, Statistics
from relsdk_training.engine.precision import Autocast, autocast_for
from relsdk_training.engine.processes import (
    any_process,
    average_gradients,
    is_first,
    rank,
    take_weights,
    together,
    value_of,
    world_size,
)

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        steps: Optimiser steps.
        best_step: Where dev was best; without dev, the last step of a training that finished.
        best: Dev measures there; none without dev.
        seconds: Of training, without evaluation.
        rows_per_second: Training throughput.
        stopped: "finished", "patience", "interrupted" or, by SIGTERM, "terminated".
        warnings: Signs that nothing was learned, for people; of an ended training only.
    """

    steps: int
    best_step: int
    best: Statistics
    seconds: float
    rows_per_second: float
    stopped: str
    warnings: tuple[str, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether it was stopped from outside, and a resume goes on with it."""
        return self.stopped in STOPPED_FROM_OUTSIDE


def train(
    objective: Objective,
    optimiser: OptimiserConfig,
    run: RunConfig,
    *,
    metric: str,
    identity: str,
    about: Mapping[str, Any],
    human_last: float = 0.0,
    resume: bool = False,
    on_step: Callable[[int, int, Statistics], None] = lambda step, steps, statistics: None,
) -> TrainResult:
    """Train until the epochs, the steps or the patience are used up; under `torchrun`, in all processes.

    `run.output` gets `best/` (what the objective saves, at its best on dev or, where it measures nothing, at
    the end), `last/` (the same at the last checkpoint), `state-STEP/` (for an exact resume) and `log.jsonl`.

    Args:
        objective: What is trained.
        optimiser: AdamW's settings.
        run: Epochs, checkpoints, precision, seed.
        metric: Which dev measure decides; higher is better.
        identity: Names configuration and data: a resume under another one is refused.
        about: What checkpoints shall say of how they were made, a JSON object.
        human_last: Last share of the steps, which take batches of what people labelled alone.
        resume: Go on from the last checkpoint; without one, start.
        on_step: Called after each optimiser step with its number, how many there are, and statistics.

    Returns:
        How it ended. An interrupt (Ctrl-C) finishes the step, writes a checkpoint and returns, too.

    Raises:
        TrainingError: The loss or the gradient is not finite; the last checkpoint is untouched.
        InputError: The checkpoint to resume from is of another run or architecture, or there is no batch.
    """
    trainer = _Trainer(objective, optimiser, run, metric, identity, about, resume=resume)
    progress = trainer.progress
    if not progress.best:
        trainer.evaluate()
    stopped = "finished"
    with InterruptAfterStep() as interrupt:
        for group, ends_epoch in steps_to_do(objective, run, progress.step, trainer.total, human_last):
            if run.patience and progress.without_improvement >= run.patience:
                stopped = "patience"
                break
            if any_process(interrupt.signal is not None, trainer.device):
                trainer.checkpoint()
                stopped = interrupt.stopped
                break
            statistics = trainer.step(group)
            on_step(progress.step, trainer.total, statistics)
            is_due = partial(_is_due, progress.step, trainer.total, ends_epoch)
            if is_due(run.evaluate_every):
                trainer.evaluate()
            if is_due(run.checkpoint_every or run.evaluate_every):
                trainer.checkpoint()
    if stopped not in STOPPED_FROM_OUTSIDE and progress.saved_step < progress.step:
        trainer.checkpoint()
    throughput = progress.rows / max(progress.seconds, 1e-9)
    return TrainResult(
        progress.step, progress.best_step, dict(progress.best), progress.seconds, throughput, stopped
    )


class _Trainer:
    """What a training does: step, evaluate on dev, write checkpoints; see `train` for the arguments.

    Attributes:
        device: Where the module is.
        total: Optimiser steps of the whole training.
        progress: Where it is.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: OptimiserConfig,
        run: RunConfig,
        metric: str,
        identity: str,
        about: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        self.objective, self.metric = objective, metric
        self.identity, self.about = identity, about
        self.device = Accelerator(cpu=not torch.cuda.is_available()).device
        self.autocast = autocast_for(self.device, run.precision)
        if run.threads:
            torch.set_num_threads(run.threads)
        self.folder = Path(run.output)
        if is_first():  # the others may have no such place
            self.folder.mkdir(parents=True, exist_ok=True)
        self.total = run.max_steps or count_steps(objective, run)
        objective.module.to(self.device)
        self.parameters = [item for item in objective.module.parameters() if item.requires_grad]
        self.max_norm = optimiser.max_grad_norm
        self.adam = torch.optim.AdamW(_groups(objective.module, optimiser), fused=True)
        self.schedule = LambdaLR(self.adam, lambda step: _factor(step, self.total, optimiser.warmup))
        take_weights(objective.module)  # what was drawn at random, too
        torch.manual_seed(_own_seed(run.seed))
        self.progress = Progress()
        if resume:
            self.progress = load_training_state(self.folder, identity, objective, self.adam, self.schedule)
        self.log = RunLog(self.folder / "log.jsonl", after=self.progress.step) if is_first() else None

    def step(self, group: list[Any]) -> Statistics:
        """Learn from the batches of one optimiser step, and write what they gave to the log.

        Raises:
            TrainingError: The loss or the gradient is not finite.
        """
        progress, module = self.progress, self.objective.module
        started = time.perf_counter()
        module.train()
        loss, statistics = _backward(self.objective, self.device, self.autocast, group)
        average_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = f"the checkpoint of step {progress.saved_step} is intact; " * bool(progress.saved_step)
            raise TrainingError(
                f"step {progress.step + 1}: loss {loss}, gradient norm {norm}; {kept}start again, into "
                "another run.output, with a smaller optimiser.learning_rate or run.precision=fp32"
            )
        rate = float(self.schedule.get_last_lr()[0])
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad(set_to_none=True)
        self.objective.after_step()
        seconds = time.perf_counter() - started
        rows = world_size() * sum(len(batch) for batch in group)
        progress.step += 1
        progress.seconds, progress.rows = progress.seconds + seconds, progress.rows + rows
        statistics = {
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate,
            "rows_per_second": rows / seconds,
            **statistics,
        }
        self._log("step", statistics)
        return statistics

    def evaluate(self) -> None:
        """Measure on dev; keep the module if it is the best so far or, without dev, at the last step."""
        self.objective.module.eval()
        with torch.inference_mode(), self.autocast():
            measures = self.objective.evaluate(self.device)
        measures = value_of(0, measures)  # on another CPU the last digit is another one
        progress = self.progress
        if measures:
            self._log("dev", measures)
            is_best = measures[self.metric] > progress.best.get(self.metric, -math.inf)
        else:
            is_best = progress.step == self.total
        if is_best:
            progress.best, progress.best_step, progress.without_improvement = measures, progress.step, 0
            with together():
                if is_first():
                    save_best(self.folder, self.objective, self.about)
        elif measures:
            progress.without_improvement += 1

    def checkpoint(self) -> None:
        """Write what a resume needs, and the module as it is."""
        self.progress.saved_step = self.progress.step
        numbers = random_state()
        with together():
            if is_first():
                save_training_state(
                    self.folder,
                    self.identity,
                    self.objective,
                    self.adam,
                    self.schedule,
                    self.progress,
                    numbers,
                    self.about,
                )

    def _log(self, kind: str, values: Statistics) -> None:
        """Write a line of the log; of several processes, one does."""
        if self.log is not None:
            self.log.write(kind, self.progress.step, values)


def _is_due(step: int, total: int, ends_epoch: bool, every: int) -> bool:
    """Whether something is to be done after a step: every so many, or after each epoch where that is 0."""
    return step == total or (step % every == 0 if every else ends_epoch)


def _backward(
    objective: Objective, device: torch.device, autocast: Autocast, group: list[Any]
) -> tuple[float, Statistics]:
    """Accumulate the gradient of a step's batches; return mean loss and statistics."""
    total, values = 0.0, defaultdict[str, list[float]](list)
    for batch in group:
        with autocast():
            loss, statistics = objective.loss(batch, device)
        torch.autograd.backward(loss / len(group))
        total += loss.item() / len(group)
        for name, value in statistics.items():  # batches of one step may be of two kinds
            values[name].append(value)
    return total, {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def _groups(module: nn.Module, optimiser: OptimiserConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not; what is not the transformer's learns faster."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_head = "transformer." not in name or ".classifier" in name or ".score." in name
            groups.setdefault((is_head, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": optimiser.head_learning_rate if is_head else optimiser.learning_rate,
            "weight_decay": optimiser.weight_decay if decays else 0.0,
        }
        for (is_head, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _own_seed(seed: int) -> int:
    """Return the seed of this process: dropout of its own, and in the first that of a process alone."""
    return int(np.random.SeedSequence((seed, rank())).generate_state(1)[0]) if rank() else seed


def _factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    warm = max(1, round(warmup * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
