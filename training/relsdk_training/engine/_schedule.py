"""Which batches each optimiser step learns from: of all pairs, and at last of what people labelled alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

from relsdk.errors import InputError
from relsdk_training.config.settings import RunConfig
from relsdk_training.engine.objective import Objective
from relsdk_training.engine.processes import share, world_size

__all__ = ["count_steps", "steps_to_do"]


def count_steps(objective: Objective, run: RunConfig) -> int:
    """Return how many optimiser steps the epochs have: pairs fall into batches differently in each."""
    lengths = (len(_filled(objective.batches(epoch))) for epoch in range(run.epochs))
    return sum(math.ceil(length / run.accumulation) for length in lengths)


def steps_to_do(
    objective: Objective, run: RunConfig, done: int, total: int, human_last: float
) -> Iterator[tuple[list[Any], bool]]:
    """Yield the batches of each optimiser step that is not done yet, and whether it ends its epoch.

    The last steps go over what people labelled, again and again; no epoch ends there.

    Args:
        objective: Gives the batches.
        run: How many are a step.
        done: Steps that are done.
        total: Steps of the whole training.
        human_last: Share of them that comes last; at least one step, unless it is 0.

    Raises:
        InputError: An epoch has no batch, or no step comes before the last ones.
    """
    mixed = total - (max(1, round(human_last * total)) if human_last else 0)
    if mixed < 1:
        raise InputError(
            f"data.human_last={human_last} leaves none of {total} steps to data.weak and data.written; take "
            "a smaller share, or more steps"
        )
    if human_last:
        _filled(objective.batches(0, human=True))  # too few are told now, and not after hours
    if done < mixed:
        yield from islice(_passes(objective.batches, run.accumulation), done, mixed)
    human = _passes(partial(objective.batches, human=True), run.accumulation)
    for group, _ in islice(human, max(done - mixed, 0), total - mixed):
        yield group, False


def _passes(
    batches_of: Callable[[int], Sequence[Any]], accumulation: int
) -> Iterator[tuple[list[Any], bool]]:
    """Yield the batches of each step of epoch after epoch, and whether it ends its epoch."""
    for epoch in count():
        batches = _filled(batches_of(epoch))
        for start in range(0, len(batches), accumulation):
            group = [share(batch) for batch in batches[start : start + accumulation]]
            yield group, start + accumulation >= len(batches)


def _filled(batches: Sequence[Any]) -> list[Any]:
    """Return those of an epoch's batches that give every process a row.

    Raises:
        InputError: There is none.
    """
    filled = [batch for batch in batches if len(batch) >= world_size()]
    if not filled:
        raise InputError("the training data does not fill one batch; check data.* and run.batch_size")
    return filled
