"""An estimate of the work that fits into the time left, without a model or a wall clock of its own.

A clock is a function that returns seconds and never goes back; tests give their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from relsdk.errors import InputError

__all__ = ["Clock", "CostEstimate", "Deadline"]

Clock = Callable[[], float]
# Gains and margin of the retransmission timer: Jacobson, "Congestion Avoidance and Control", 1988.
_MEAN_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4.0
# One slow moment must not keep work away for ever: each time not even one item fits, the estimate shrinks. So
# little that an item that truly does not fit is tried again in fewer than 1 % of the calls: p99 must hold.
_RELAXATION = 0.99


class Deadline:
    """A budget that runs from the moment it is made.

    Args:
        budget_ms: Milliseconds; None and infinity never end.
        clock: What time it is, in seconds.

    Raises:
        InputError: `budget_ms` is not a number above 0.
    """

    def __init__(self, budget_ms: float | None = None, clock: Clock = time.perf_counter) -> None:
        if budget_ms is not None and (
            isinstance(budget_ms, bool) or not isinstance(budget_ms, int | float) or not budget_ms > 0
        ):
            raise InputError(
                f"budget_ms={budget_ms!r}; a number of milliseconds above 0 is needed (None sets no limit)"
            )
        self._clock = clock
        self._started = clock()
        self._budget_ms = budget_ms
        self._seconds = math.inf if budget_ms is None else budget_ms / 1e3

    @property
    def is_set(self) -> bool:
        """Whether there is a budget at all."""
        return self._budget_ms is not None

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._started

    @property
    def left(self) -> float:
        """Seconds until it ends; not above 0 when it has ended."""
        return self._seconds - self.elapsed


class CostEstimate:
    """The cost of one item, learnt from the items so far. Safe to share between threads and after a fork.

    A smoothed mean plus four smoothed mean deviations, as a network stack estimates when an answer is late:
    high enough that what is said to fit does, and quick to follow a machine that gets slower. The first
    measurement is thrown away, as it may include loading a model.
    """

    def __init__(self) -> None:
        self._state: tuple[float, float] | None = None  # mean and deviation, seconds; replaced as a whole
        self._warm = False

    @property
    def seconds(self) -> float | None:
        """Upper estimate for one item; None before anything is known."""
        state = self._state
        return None if state is None else state[0] + _DEVIATIONS * state[1]

    def fitting(self, seconds: float, most: int) -> int:
        """Return how many of `most` items fit into some seconds.

        While nothing is known it is one, if there is any time: the item that is measured.
        """
        if seconds <= 0 or most < 1:
            return 0
        cost = self.seconds
        if cost is None:
            return 1
        return most if cost * most <= seconds else int(seconds / cost)

    def note(self, items: int, seconds: float) -> None:
        """Learn from what some items took together."""
        if not self._warm:
            self._warm = True
            return
        cost = max(seconds, 0.0) / items
        if self._state is None:
            self._state = (cost, cost / 2)
            return
        mean, deviation = self._state
        error = cost - mean
        self._state = (
            mean + _MEAN_GAIN * error,
            deviation + _DEVIATION_GAIN * (abs(error) - deviation),
        )

    def relax(self) -> None:
        """Lower the estimate a little: work was refused on its word, so nothing else would correct it."""
        if self._state is not None:
            mean, deviation = self._state
            self._state = (mean * _RELAXATION, deviation * _RELAXATION)
