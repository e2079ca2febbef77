"""Processes of `torchrun` that train one model together: each takes its share of every batch.

Nothing here needs to be called differently in a single process. Shape letters: B rows of one batch.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import distributed, nn

__all__ = [
    "any_process",
    "average_gradients",
    "gather_values",
    "is_distributed",
    "is_first",
    "join",
    "leave",
    "rank",
    "share",
    "wait",
    "world_size",
]

T = TypeVar("T")


def join() -> None:
    """Join the other processes, if `torchrun` started this one with others, until this one exits."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(leave)


def leave() -> None:
    """Leave the other processes.

    A group that is still there when Python ends aborts the process now and then: its threads drop tensors
    that Python can no longer free (github.com/pytorch/pytorch/pull/179291).
    """
    if is_distributed():
        distributed.destroy_process_group()


def is_distributed() -> bool:
    """Whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if is_distributed() else 0


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def gather_values(value: T) -> list[T]:
    """Return the value of every process, in order of their numbers; all must ask."""
    values = [value] * world_size()
    if is_distributed():
        distributed.all_gather_object(values, value)
    return values


def wait() -> None:
    """Return when every process has come here."""
    if is_distributed():
        distributed.barrier()


def share(rows: Any) -> Any:
    """Return this process's part of a batch (B,), as long as every other's: up to W - 1 rows are dropped."""
    if not is_distributed():
        return rows
    size = len(rows) // distributed.get_world_size()
    start = rank() * size
    return rows[start : start + size]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes; see `gather` for why no other factor is needed."""
    if not is_distributed():
        return
    for parameter in parameters:
        if parameter.grad is None:  # a part of the model that no row of this process needed
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
        parameter.grad /= distributed.get_world_size()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set in any process, so that all act alike."""
    if not is_distributed():
        return flag
    flags = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(flags)
    return bool(flags.item())
