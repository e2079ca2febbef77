"""A linear model of ten numbers, trained as every other objective is: for tests of the loop, not of models.

It has all that an exact resume must keep: random numbers (dropout, the order of rows), epochs of different
lengths and state beside the module.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from relsdk_training.config.settings import EmbedConfig, ModelConfig, OptimiserConfig, RunConfig
from relsdk_training.runs.run import Run

ROWS = 40
WIDTH = 10
HUMAN_ROWS = 12


class LinearObjective:
    """Regression of a sum; `mean_ap` is the share of variance that is explained.

    People labelled the first rows alone.
    """

    def __init__(self, run, *, target_seed=0, measures=True):
        self.run = run
        self.measures = measures
        self.learned = []  # batches
        self.rows = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(target_seed))
        self.targets = self.rows.sum(dim=1)
        self.seen = torch.zeros(1)
        torch.manual_seed(run.seed)
        # The loop gives what is not the transformer's another learning rate.
        self.module = nn.ModuleDict({"transformer": nn.Linear(WIDTH, 1), "dropout": nn.Dropout(0.1)})

    def batches(self, epoch, *, human=False):
        rows = HUMAN_ROWS if human else ROWS - 9 * (epoch % 2)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
        return order.split(self.run.batch_size)

    def loss(self, batch, device):
        errors = self._predictions(self.module["dropout"](self.rows[batch])) - self.targets[batch]
        self.seen += len(batch)
        self.learned.append(batch.tolist())
        return errors.square().mean(), {"seen": self.seen.item()}

    def after_step(self):
        self.seen *= 0.99

    def evaluate(self, device):
        if not self.measures:
            return {}
        errors = self._predictions(self.rows) - self.targets
        return {"mean_ap": 1 - (errors.square().mean() / self.targets.var()).item()}

    def save(self, folder):
        save_file(self.module.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"].clone()

    def _predictions(self, rows):
        return self.module["transformer"](rows).squeeze(1)


def linear_config(output, **run):
    """Return the settings of a training of ten steps into a folder."""
    settings = {"max_steps": 10, "batch_size": 8, "precision": "fp32", **run}
    return EmbedConfig(
        model=ModelConfig(checkpoint=str(Path(__file__).parent)),  # a folder must be there, and is not read
        optimiser=OptimiserConfig(learning_rate=1e-2),
        run=RunConfig(output=str(output), **settings),
    )


def train_linear(
    config, *, resume=False, on_step=lambda step, steps, statistics: None, data=(), objective=None
):
    """Train as `train_embed` does once it has read its data: lock, resume, log, checkpoints, result."""
    run = Run(config, resume=resume)
    with run.alone():
        return run.train(objective or LinearObjective(config.run), list(data), on_step=on_step)


class Stopped(Exception):
    """Raised in the middle of a training, as whatever may end one there."""


def train_linear_until(last_step, config, **options):
    """Train, and stop after a step as a crash would: without a checkpoint of it."""

    def stop(step, steps, statistics):
        if step == last_step:
            raise Stopped

    try:
        train_linear(config, on_step=stop, **options)
    except Stopped:
        return
    raise ValueError(f"the training ended before step {last_step}")


def into(config, output):
    """Return the settings of the same training in another folder."""
    return replace(config, run=replace(config.run, output=str(Path(output))))
