"""The interface between the loop and what is trained: batches, a loss, a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Objective", "Statistics"]

Statistics = dict[str, float]


class Objective(Protocol):
    """What is trained: a module, a loss and a measure."""

    @property
    def module(self) -> nn.Module:
        """What the optimiser changes."""

    def batches(self, epoch: int, *, human: bool = False) -> Sequence[Any]:
        """Return an epoch's batches, each what `loss` takes; the same ones for the same epoch.

        Args:
            epoch: Its number, from 0.
            human: Take what people labelled alone; asked only where the training has such a part.
        """

    def loss(self, batch: Any, device: torch.device) -> tuple[Tensor, Statistics]:
        """Return the loss of a batch, and statistics for the log."""

    def after_step(self) -> None:
        """Follow the module after an optimiser step (momentum copies)."""

    def evaluate(self, device: torch.device) -> Statistics:
        """Measure on dev, nothing where there is none; the loop has set the module to inference."""

    def save(self, folder: Path) -> None:
        """Write the checkpoint that a user exports into an empty folder."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what an exact resume needs besides the module: queues, copies."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
