"""Processes of `torchrun` that train one model together: each takes its share of every batch.

Nothing here needs to be called differently in a single process. Shape letters: B rows of one batch.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from relsdk.errors import InputError, RelsdkError, TrainingError

__all__ = [
    "any_process",
    "average_gradients",
    "exchange",
    "gather_values",
    "is_distributed",
    "is_first",
    "is_first_of_node",
    "join",
    "leave",
    "node",
    "rank",
    "share",
    "take_tensors",
    "take_weights",
    "together",
    "value_of",
    "world_size",
]

T = TypeVar("T")


def join(timeout: int) -> None:
    """Join the other processes, if `torchrun` started this one with others, until this one exits.

    Args:
        timeout: Seconds to wait for them, here and in every exchange.

    Raises:
        TrainingError: Not all of them came.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Gradients go from GPU to GPU, and what is no tensor of a GPU by the other backend.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with exchange():
            distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
        atexit.register(leave)


@contextmanager
def exchange() -> Iterator[None]:
    """Say what it means where an exchange with the other processes fails.

    Raises:
        TrainingError: One of them has ended, or did not answer in time.
    """
    try:
        yield
    except RelsdkError:
        raise
    except RuntimeError as error:  # of gloo, of NCCL and of the store where processes meet
        reason = str(error).partition("\n")[0]
        own, processes = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        raise TrainingError(
            f"process {own} of {processes} lost another one, which has ended or did not answer within "
            f"run.timeout ({reason}); its own messages say why; start all of them again with --resume"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """Raise in every process what one of them raises in here, where none may wait for another.

    Raises:
        TrainingError: Another process failed.
    """
    failure: RelsdkError | None = None
    try:
        yield
    except RelsdkError as error:
        failure = error
    try:
        messages = gather_values("" if failure is None else str(failure))
    except TrainingError as lost:
        raise failure or lost from None  # its own failure says more
    if failure is not None:
        raise failure
    for number, message in enumerate(messages):
        if message:
            raise TrainingError(f"process {number} of {len(messages)} cannot go on: {message}")


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


def node() -> int:
    """Return the number of this process's node, from 0.

    Raises:
        InputError: What started the processes does not say it.
    """
    number = os.environ.get("GROUP_RANK", "" if is_distributed() else "0")
    if not number.isdecimal():
        raise InputError("GROUP_RANK is not set, so nodes have no numbers; start the training with torchrun")
    return int(number)


def is_first_of_node() -> bool:
    """Whether this process is the one that reads its node's files."""
    return not is_distributed() or os.environ.get("LOCAL_RANK") == "0"


def gather_values(value: T) -> list[T]:
    """Return the value of every process, in order of their numbers; all must ask."""
    values = [value] * world_size()
    if is_distributed():
        with exchange():
            distributed.all_gather_object(values, value)
    return values


def value_of(number: int, value: T) -> T:
    """Return the value of process `number`, whatever the others have; all must ask."""
    if not is_distributed():
        return value
    values: list[Any] = [value if rank() == number else None]
    with exchange():
        distributed.broadcast_object_list(values, src=number)
    (theirs,) = values
    return theirs  # type: ignore[no-any-return]


def take_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the first process, whatever the others have; they lie in the CPU's memory."""
    kinds = value_of(0, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    if not is_distributed() or is_first():
        own = dict(tensors)
    else:
        own = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in kinds.items()}
    _send(own.values())
    return own


def take_weights(module: nn.Module) -> None:
    """Put the weights of the first process in place of this one's."""
    _send(module.state_dict().values())


def _send(tensors: Iterable[Tensor]) -> None:
    """Write the first process's numbers into everyone's tensors, which are of one shape and contiguous."""
    if is_distributed():
        with exchange():
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)


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
    with exchange():
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
    with exchange():
        distributed.all_reduce(flags)
        return bool(flags.item())
