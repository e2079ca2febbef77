"""Do several things at the same time, and give the results in the order of the things."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["map_in_order"]

_LOGGER = logging.getLogger(__name__)
# While one is slow, the others go on with so many for each thread.
_AHEAD = 8
# Seconds of waiting that need no word.
_QUIET = 1.0

T = TypeVar("T")
R = TypeVar("R")


def map_in_order(
    work: Callable[[T], R], items: Iterable[T], *, at_once: int, patience: float
) -> Generator[R]:
    """Yield `work(item)` of each item, in the order of the items, as a plain loop would.

    What ends it, an error of one item, of who takes the results, or Ctrl-C, lets what has begun come to its
    end. Nothing else is begun then, and of several errors that of the first item is raised.

    Args:
        work: Called on threads.
        items: Taken on the thread of who takes the results, not far ahead of them.
        at_once: How many threads work.
        patience: Seconds to wait, after the end, for what has begun. Ctrl-C ends this waiting, too.
    """
    workers = _Workers(work, at_once)
    results: deque[Future[R]] = deque()
    source = iter(items)
    try:
        more = True
        while more or results:
            while more and len(results) < at_once * _AHEAD:
                try:
                    results.append(workers.give(next(source)))
                except StopIteration:
                    more = False
            if results:
                yield results.popleft().result()
    finally:
        workers.end(patience)


class _Workers(Generic[T, R]):
    """Threads that take items in their order, until one fails; they do not keep a process alive."""

    def __init__(self, work: Callable[[T], R], most: int) -> None:
        self._work = work
        self._most = most
        self._threads: list[threading.Thread] = []
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._ended = False
        self._changed = threading.Condition()

    def give(self, item: T) -> Future[R]:
        """Return what will hold the result of one more item, or its error."""
        result: Future[R] = Future()
        with self._changed:
            self._waiting.append((item, result))
            self._changed.notify()
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, daemon=True)
            self._threads.append(thread)
            thread.start()
        return result

    def end(self, patience: float) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._end()
        self._join(min(_QUIET, patience))
        if busy := sum(thread.is_alive() for thread in self._threads):
            _LOGGER.warning(
                "stopped; waiting at most %g seconds for %d answers that are on their way, to keep them; "
                "Ctrl-C again does not wait",
                patience,
                busy,
            )
            self._join(patience)

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _serve(self) -> None:
        while True:
            with self._changed:  # what is taken is done: else an item before a failed one could be left out
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if self._ended:
                    return
                item, result = self._waiting.popleft()
            try:
                result.set_result(self._work(item))
            except BaseException as error:
                self._end()
                result.set_exception(error)
                return
            finally:
                del item, result
