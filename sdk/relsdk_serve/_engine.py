"""Workers that run the models: batches of what waits, two lanes, and a bound on how long anything waits.

There is no timer: a free worker takes what waits, neighbours in length first. int8 files of relsdk's export
give a text the same vector in any batch, so sharing one changes no answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from relsdk.errors import InputError, RelsdkError
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk_serve._jobs import Job, Lane, joined

__all__ = ["Engine", "InputFailedError", "Observer", "OverloadedError", "WorkerState", "settleable"]

_LOG = logging.getLogger(__name__)
# A batch is meant to take at most so long while others wait or came lately.
_SLICE_SECONDS = 0.02
_LATELY_SECONDS = 1.0
# Tokens of a batch; see `relsdk.runtime.batching`.
_MOST_TOKENS, _LEAST_TOKENS = 1024, 32
# Rows of one lane that are looked at for a batch.
_LOOKED_AT = 512
# A request is refused where so many wait in its lane for each worker ...
_REQUESTS_WAITING = 20
# ... and it would wait longer than this.
_LEAST_WAIT = {Lane.INTERACTIVE: 0.02, Lane.BULK: 1.0}
# Of the workers' time bulk gets at least this share while interactive requests wait.
_BULK_SHARE = 0.1
_GAIN = 1 / 8  # of the running estimates
_ASSUMED_SECONDS = 1e-4  # a token or a call, before anything was measured
_LEAST_SECONDS = 1e-9  # what a coarse clock does not show still takes time


class OverloadedError(RelsdkError):
    """A request would wait too long.

    Args:
        wait: Estimated seconds until it would start.
        limit: The most it may wait.
        reason: "queue" or "deadline".
    """

    def __init__(self, wait: float, limit: float, reason: str = "queue") -> None:
        super().__init__(
            f"the request would wait {wait * 1e3:,.0f} ms, at most {limit * 1e3:,.0f} ms are allowed; try "
            "again later, send fewer at once, or give the server more workers"
        )
        self.retry_after = max(wait - limit / 2, 0.05)
        self.reason = reason


class InputFailedError(RelsdkError):
    """A model cannot run one of the inputs.

    Args:
        row: Which, from 0.
        error: What the model said.
    """

    def __init__(self, row: int, error: BaseException) -> None:
        super().__init__(f"the model cannot run input {row}: {error}")
        self.row = row


class Observer(Protocol):
    """What is told of batches, such as metrics."""

    def batch(self, key: Hashable, rows: int, tokens: int, seconds: float) -> None:
        """Note a batch that ran."""

    def worker_restarted(self) -> None:
        """Note that a worker had to be started again."""


@dataclass(slots=True)
class WorkerState:
    """One worker.

    Attributes:
        thread: Runs it.
        busy_since: When its batch began, in seconds of the engine's clock; None while it waits.
        batch: What it runs.
    """

    thread: threading.Thread | None = None
    busy_since: float | None = None
    batch: list[tuple[Job, int]] = field(default_factory=list)


class Engine:
    """Runs jobs on a fixed number of threads; made and asked on one event loop.

    Args:
        workers: Threads; each runs one batch at a time.
        max_wait: Seconds that a request may wait; beyond it is refused. None lets 20 of them wait for each
            worker, and more for a short time.
        observer: Is told of batches.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        workers: int,
        *,
        max_wait: float | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._max_wait = max_wait
        self._observer = observer
        # A lock and a queue of wake-ups are C; threading.Condition is Python, and slower.
        self._changed = threading.RLock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._idle = 0  # workers that wait for a wake-up that nobody has sent
        self._lanes: dict[Lane, deque[Job]] = {lane: deque() for lane in Lane}
        self._seconds_per_unit: dict[Hashable, float] = {}
        self._units: dict[Lane, dict[Hashable, int]] = {lane: {} for lane in Lane}
        self._last_interactive = -1e9
        self._bulk_credit = 0.0
        self._stopping = False
        self.workers = [WorkerState() for _ in range(workers)]
        for number in range(workers):
            self._start(number)

    # What the event loop asks.

    def wait(self, lane: Lane) -> float:
        """Return how many seconds a request would wait in a lane: what is queued, over the workers."""
        seconds = 0.0
        for other in Lane:
            if other <= lane:
                for key, units in self._units[other].items():
                    seconds += units * self._seconds_per_unit.get(key, _ASSUMED_SECONDS)
        return seconds / len(self.workers)

    def limit(self, lane: Lane) -> float:
        """Return how many seconds a request may wait in a lane; no end while few others wait there."""
        if self._max_wait is not None:
            return self._max_wait
        few = len(self._lanes[lane]) < _REQUESTS_WAITING * len(self.workers)
        return math.inf if few else _LEAST_WAIT[lane]

    def admit(self, lane: Lane, deadline: float | None = None) -> None:
        """Refuse a request that would wait too long.

        Args:
            lane: Where it would wait.
            deadline: Seconds from now in which its answer is worth something.

        Raises:
            OverloadedError: The message says how long.
        """
        wait, limit = self.wait(lane), self.limit(lane)
        if wait > limit:
            raise OverloadedError(wait, limit)
        if deadline is not None and (turn := self._turn(lane)) > deadline:
            raise OverloadedError(turn, deadline, "deadline")

    def _turn(self, lane: Lane) -> float:
        """Return how many seconds it is to a request's first slice: jobs of a lane take turns."""
        seconds = 0.0
        with self._changed:
            for job in (job for other in Lane if other <= lane for job in self._lanes[other]):
                cost = self._seconds_per_unit.get(job.key, _ASSUMED_SECONDS)
                seconds += min(cost * job.units, _SLICE_SECONDS)
        return seconds / len(self.workers)

    async def rows(
        self,
        key: Hashable,
        tokens: TokenizedTexts,
        run: Callable[[TokenizedTexts], Any],
        lane: Lane,
    ) -> Job:
        """Run N tokenised inputs; return the finished job, its rows in `result`.

        Raises:
            InputFailedError: The model cannot run one of them.
        """
        return await self._finished(Job(key, lane, run, tokens, self._future(), self._clock()))

    async def call(self, name: Hashable, function: Callable[[], Any], lane: Lane = Lane.INTERACTIVE) -> Job:
        """Run a function on a worker; return the finished job, what it returned in `result`."""
        return await self._finished(
            Job(("call", name), lane, lambda _: function(), None, self._future(), self._clock())
        )

    def oldest_batch(self) -> float:
        """Return for how many seconds the slowest worker has been at its batch; 0 where all wait."""
        now = self._clock()
        started = [state.busy_since for state in self.workers]
        return max((now - since for since in started if since is not None), default=0.0)

    @property
    def alive(self) -> int:
        """How many workers run."""
        threads = [state.thread for state in self.workers if state.thread is not None]
        return sum(thread.ident is None or thread.is_alive() for thread in threads)  # None: it starts

    @property
    def waiting(self) -> dict[Lane, int]:
        """Tokens and calls that wait, by lane."""
        return {lane: sum(units.values()) for lane, units in self._units.items()}

    def stop(self, seconds: float = 5.0) -> None:
        """End the workers after the batches that run; what waits is cancelled, and what hangs, too."""
        with self._changed:
            self._stopping = True
            for _ in self.workers:
                self._wake.put(None)
            unfinished = {job for jobs in self._lanes.values() for job in jobs}
        end = time.monotonic() + seconds
        for state in self.workers:
            if state.thread is not None:
                state.thread.join(max(end - time.monotonic(), 0.0))
            unfinished.update(job for job, _ in state.batch)
        for job in unfinished:
            job.future.cancel()

    @staticmethod
    def _future() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _finished(self, job: Job) -> Job:
        if not job.unfinished:
            return job
        with self._changed:
            if self._stopping:
                raise asyncio.CancelledError
            units = self._units[job.lane]
            units[job.key] = units.get(job.key, 0) + job.units
            self._lanes[job.lane].append(job)
            self._wake_one()
        try:
            await job.future
        except asyncio.CancelledError:
            self._drop(job)
            raise
        return job

    def _drop(self, job: Job) -> None:
        """Take a job whose caller went away out of its lane."""
        with self._changed:
            self._units[job.lane][job.key] -= job.units
            job.waiting.clear()
            if job in self._lanes[job.lane]:
                self._lanes[job.lane].remove(job)

    # What the workers do.

    def _start(self, number: int) -> None:
        thread = threading.Thread(
            target=self._work, args=(number,), name=f"relsdk-worker-{number}", daemon=True
        )
        # Before it runs: one that ends at once names its own successor here.
        self.workers[number].thread = thread
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            self.workers[number].thread = None
            raise

    def _work(self, number: int) -> None:
        """Run batches until the end; where that fails itself, another thread goes on in its place."""
        state = self.workers[number]
        try:
            while (batch := self._next_batch()) is not None:
                state.batch, state.busy_since = batch, self._clock()
                self._run(batch)
                state.batch, state.busy_since = [], None
        except BaseException as error:
            jobs = {job for job, _ in state.batch}
            state.batch, state.busy_since = [], None
            if not self._stopping:
                self._start(number)  # before anything that takes time: /livez looks at it
                self._tell(lambda observer: observer.worker_restarted())
            self._fail(jobs, error)
            _LOG.exception("a worker ended; another one takes its place")

    def _wake_one(self) -> None:
        """Wake a worker that waits, if any; with the lock held."""
        if self._idle:
            self._idle -= 1
            self._wake.put(None)

    def _next_batch(self) -> list[tuple[Job, int]] | None:
        """Wait for something to do and take it; None at the end."""
        while True:
            with self._changed:
                if self._stopping:
                    return None
                lane = self._next_lane()
                if lane is not None:
                    head = self._lanes[lane][0]
                    try:
                        return self._take(lane)
                    except BaseException as error:  # or the next worker would end by it, too
                        self._fail({head}, error)
                        raise
                self._idle += 1
            self._wake.get()

    def _next_lane(self) -> Lane | None:
        first, second = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        if second and (not first or self._bulk_credit >= _SLICE_SECONDS):
            return Lane.BULK
        return Lane.INTERACTIVE if first else None

    def _take(self, lane: Lane) -> list[tuple[Job, int]]:
        """Take the rows of a batch: the first job's longest row, and those nearest to it in length."""
        jobs = self._lanes[lane]
        head = jobs[0]
        if lane is Lane.INTERACTIVE:
            self._last_interactive = self._clock()
        rows = [(head, head.waiting[-1])]
        if head.tokens is not None and (len(jobs) > 1 or len(head.waiting) > 1):
            rows = self._neighbours(jobs, head, self._budget(head.key, lane))
        for job, row in rows:
            job.waiting.remove(row)
            self._units[lane][job.key] -= job.lengths[row]
            if job.queued_seconds is None:
                job.queued_seconds = self._clock() - job.submitted
        for job in dict.fromkeys(job for job, _ in rows):
            if not job.waiting:
                jobs.remove(job)
        if head.waiting:  # others have their turn before its next slice
            jobs.rotate(-1)
        if any(self._lanes.values()):
            self._wake_one()
        return rows

    @staticmethod
    def _neighbours(jobs: deque[Job], head: Job, budget: int) -> list[tuple[Job, int]]:
        """Choose rows whose batch, padding included, stays within a budget of tokens."""
        wanted = head.lengths[head.waiting[-1]]
        near: list[tuple[int, int, Job, int]] = []
        for order, job in enumerate(jobs):
            if job.key == head.key:
                room = _LOOKED_AT - len(near)
                near += [
                    (abs(job.lengths[row] - wanted), order, job, row) for row in job.waiting[-room:][::-1]
                ]
                if len(near) >= _LOOKED_AT:
                    break
        near.sort(key=lambda item: item[:2])
        rows, longest = [(near[0][2], near[0][3])], wanted
        for _, _, job, row in near[1:]:
            longest = max(longest, job.lengths[row])
            if (len(rows) + 1) * longest > budget:
                break
            rows.append((job, row))
        return rows

    def _budget(self, key: Hashable, lane: Lane) -> int:
        """Return the tokens of a batch: a slice's worth, or many where nobody would wait for its end."""
        lately = self._clock() - self._last_interactive < _LATELY_SECONDS
        if lane is Lane.BULK and not lately:
            return _MOST_TOKENS
        tokens = int(_SLICE_SECONDS / self._seconds_per_unit.get(key, _ASSUMED_SECONDS))
        return min(max(tokens, _LEAST_TOKENS), _MOST_TOKENS)

    def _run(self, batch: list[tuple[Job, int]]) -> None:
        """Run a batch; where it fails, each of its rows alone, and then those fail that fail alone."""
        started = self._clock()
        failed: dict[Job, BaseException] = {}
        head = batch[0][0]
        try:
            results = head.run(joined(batch) if head.tokens is not None else None)
            self._keep(batch, [results] if head.tokens is None else results)
        except BaseException as error:
            if head.tokens is None:
                failed = {head: error}
            elif len(batch) == 1:
                failed = {head: _failure(batch[0][1], error)}
            else:
                failed = self._run_alone(batch)
        seconds = self._clock() - started
        tokens = self._measure(batch, seconds)
        self._resolve({job for job, _ in batch}, failed)
        self._tell(lambda observer: observer.batch(head.key, len(batch), tokens, seconds))

    def _keep(self, batch: list[tuple[Job, int]], results: Any) -> None:
        with self._changed:  # another worker may have other rows of the same job
            for (job, row), values in zip(batch, results, strict=True):
                job.keep(row, values)

    def _run_alone(self, batch: list[tuple[Job, int]]) -> dict[Job, BaseException]:
        failed: dict[Job, BaseException] = {}
        for job, row in batch:
            if job in failed:
                continue
            try:
                self._keep([(job, row)], job.run(joined([(job, row)])))
            except BaseException as error:
                failed[job] = _failure(row, error)
        return failed

    def _measure(self, batch: list[tuple[Job, int]], seconds: float) -> int:
        """Learn from a batch, and return how many tokens it had."""
        head = batch[0][0]
        units = sum(job.lengths[row] for job, row in batch)
        with self._changed:
            known = self._seconds_per_unit.get(head.key)
            cost = max(seconds / units, _LEAST_SECONDS)
            self._seconds_per_unit[head.key] = cost if known is None else known + _GAIN * (cost - known)
            if head.lane is Lane.INTERACTIVE:
                # Bulk saves up for a slice while it waits.
                credit = self._bulk_credit + _BULK_SHARE * seconds
                self._bulk_credit = credit if self._lanes[Lane.BULK] else 0.0
            else:
                self._bulk_credit = 0.0
            for job, row in batch:
                job.run_seconds += cost * job.lengths[row]
        return units if head.tokens is not None else 0

    def _tell(self, what: Callable[[Observer], None]) -> None:
        """Tell the observer; where that fails, no work is lost."""
        if self._observer is None:
            return
        try:
            what(self._observer)
        except Exception:
            _LOG.exception("a metric could not be counted")

    def _resolve(self, jobs: set[Job], failed: dict[Job, BaseException]) -> None:
        """Tell the event loop of the jobs that are finished or have failed, in one call."""
        done = [job for job in jobs if job in failed or not job.unfinished]
        if not done:
            return
        for job in done:
            if job in failed:
                self._drop(job)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            done[0].future.get_loop().call_soon_threadsafe(_settle, done, failed)

    def _fail(self, jobs: set[Job], error: BaseException) -> None:
        """Tell the event loop of jobs that no worker goes on with."""
        for job in jobs:
            self._drop(job)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                job.future.get_loop().call_soon_threadsafe(_settle, [job], {job: error})


def _failure(row: int, error: BaseException) -> BaseException:
    """Return what the caller is told; a mistake in an argument is none of the input's."""
    return error if isinstance(error, InputError) else InputFailedError(row, error)


def _settle(done: list[Job], failed: dict[Job, BaseException]) -> None:
    for job in done:
        if job.future.done():
            continue
        error = failed.get(job)
        if error is None:
            job.future.set_result(None)
        else:
            job.future.set_exception(settleable(error))


def settleable(error: BaseException) -> Exception:
    """Return an error as one that an event loop takes: what ends a thread or a process must not end it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
