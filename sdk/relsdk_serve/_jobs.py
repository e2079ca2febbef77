"""What requests ask of models: rows of tokens, or a call, with a place in one of two lanes.

Shape letters: N rows of a job, W width of a row's result.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relsdk.runtime.tokenizer import TokenizedTexts

__all__ = ["Job", "Lane", "joined"]


class Lane(enum.IntEnum):
    """Who waits for whom: interactive requests go first, bulk ones give way between slices."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(eq=False, slots=True)
class Job:
    """Work of one request for one model, or one call.

    Attributes:
        key: Jobs of the same key may share a batch.
        lane: Where it waits.
        run: Takes the joined tokens of a batch and returns its rows, (rows, W); of a call it takes None and
            returns anything.
        tokens: Of N inputs; None for a call.
        future: Gets the rows (N, W), or what the call returned, or an error.
        submitted: When it was put into the lane, in seconds of the engine's clock.
        waiting: Rows that have not been taken, the longest last: they are taken from the end.
        unfinished: Rows that have no result.
        result: The rows so far.
        queued_seconds: From its submission to its first batch.
        run_seconds: What it ran itself: its share of the batches that it was part of.
    """

    key: Hashable
    lane: Lane
    run: Callable[[Any], Any]
    tokens: TokenizedTexts | None
    future: asyncio.Future[Any]
    submitted: float
    lengths: Sequence[int] = (1,)
    waiting: list[int] = field(default_factory=list)
    unfinished: set[int] = field(default_factory=set)
    result: Any = None
    queued_seconds: float | None = None
    run_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.tokens is not None:
            self.lengths = [max(length, 1) for length in self.tokens.lengths]
        self.waiting = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        self.unfinished = set(self.waiting)

    @property
    def units(self) -> int:
        """Tokens that wait, padding not counted; 1 for a call."""
        return sum(self.lengths[row] for row in self.waiting)

    def keep(self, row: int, values: Any) -> None:
        """Keep the result of a row, or of the call."""
        if self.tokens is None:
            self.result = values
        else:
            if self.result is None:
                self.result = np.empty((len(self.lengths), len(values)), dtype=np.float32)
            self.result[row] = values
        self.unfinished.discard(row)


def joined(rows: Sequence[tuple[Job, int]]) -> TokenizedTexts:
    """Return the tokens of rows of several jobs."""
    tokens = TokenizedTexts([], [], [])
    for job, row in rows:
        if job.tokens is not None:
            tokens.ids.append(job.tokens.ids[row])
            tokens.type_ids.append(job.tokens.type_ids[row])
    return tokens
