"""Run many items of work: in this process, in several processes, or on a cluster.

A work says how to open what it needs (a model) and does one item at a time. Items and results are small: a
worker reads its input and writes its output itself, and only says what it did.
"""

from __future__ import annotations

import importlib
import pickle
import selectors
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any, Protocol, TypeVar, cast

from relsdk.errors import InputError, MissingExtraError, RelsdkError

__all__ = ["LocalRunner", "Runner", "Work", "open_runner", "portable_error"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", covariant=True)

_MOST_WORKERS = 1024
# A worker that dies is replaced and its item is done again, but an item that kills each worker is given up.
_TRIES = 3
# Modules are found where this process finds them, and not in the current folder, where a pickle.py may be. No
# `__main__` is loaded: a script that calls relsdk is not run again in each worker, and needs no guard.
_PROGRAM = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; import pickle; "
    "sys.path[:] = pickle.load(sys.stdin.buffer); from relsdk.shards._worker import serve; serve()"
)


class Work(Protocol[_Item, _Result]):
    """What is to be done with each item: a frozen dataclass that can be pickled."""

    def open(self) -> Callable[[_Item], _Result]:
        """Load what the work needs, once a worker; return the function that does one item."""


class Runner(Protocol):
    """Does the items of a work somewhere."""

    def run(self, work: Work[Item, Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """Yield (number of the item from 0, its result) in the order in which they end.

        What the work raises is raised here, and the other workers are stopped. Close the iterator, or take
        all of it: workers live as long as it does.
        """


class LocalRunner:
    """Runs a work on this machine.

    With one worker the work is done in this process. With more, each is a process of its own, which ends when
    this one does, however that ends. A process that is killed is replaced and its item is done again.

    Args:
        workers: How many, 1 to 1024.

    Raises:
        InputError: It is no such number.
    """

    def __init__(self, workers: int = 1) -> None:
        whole = isinstance(workers, int) and not isinstance(workers, bool)
        if not whole or not 1 <= workers <= _MOST_WORKERS:
            raise InputError(f"workers={workers!r}; a whole number from 1 to {_MOST_WORKERS} is needed")
        self.workers = workers

    def run(self, work: Work[Item, Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """See `Runner.run`.

        Raises:
            RelsdkError: An item ended three workers.
        """
        if self.workers > 1 and len(items) > 1:
            yield from _in_processes(work, items, min(self.workers, len(items)))
        elif items:
            do = work.open()
            for number, item in enumerate(items):
                yield number, do(item)


def open_runner(workers: int | None = None, ray: str | None = None) -> Runner:
    """Return what runs work here, or on a Ray cluster.

    Args:
        workers: How many; None is one here, and on a cluster as many as it has room for.
        ray: "auto" for the cluster that this machine belongs to (else one is started here), or an address
            of its head, such as "head:6379"; None runs on this machine without Ray.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: An argument is out of range.
    """
    if ray is None:
        return LocalRunner(1 if workers is None else workers)
    try:
        module = importlib.import_module("relsdk_scale.ray_runner")
    except ModuleNotFoundError as error:
        raise MissingExtraError("--ray", "ray") from error
    runner: Runner = module.RayRunner(ray, workers)
    return runner


def portable_error(error: BaseException) -> BaseException:
    """Return an error that can be sent to the process that gave the work."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # it holds what is of this process, or cannot be made of its arguments
        again = None
    return again if isinstance(again, BaseException) else RelsdkError(f"{type(error).__name__}: {error}")


def _in_processes(
    work: Work[Item, Result], items: Sequence[Item], count: int
) -> Iterator[tuple[int, Result]]:
    waiting = deque(range(len(items)))
    deaths: Counter[int] = Counter()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())

        def start() -> _Process:
            process = _Process(work)
            stack.callback(process.stop)
            selector.register(process.answers, selectors.EVENT_READ, process)
            return process

        for _ in range(count):
            number = waiting.popleft()
            start().give(number, items[number])
        while selector.get_map():
            for key, _ in selector.select():
                process: _Process = key.data
                number, ended = process.number, None
                answer = process.take()
                if answer is None:
                    ended = process
                    deaths[number] += 1
                    selector.unregister(process.answers)
                    process.stop()
                    if deaths[number] == _TRIES:
                        raise RelsdkError(
                            f"{items[number]!s:.300}: {_TRIES} workers ended at this, the last "
                            f"{ended.ending}; is there enough memory for each worker? Take fewer workers"
                        )
                    waiting.appendleft(number)
                    process = start()
                elif answer[1] is not None:
                    raise answer[1] from _WorkerTraceback(answer[2])
                if waiting:
                    following = waiting.popleft()
                    process.give(following, items[following])
                else:
                    selector.unregister(process.answers)
                    process.stop()
                if answer is not None:
                    yield number, answer[0]


class _WorkerTraceback(Exception):
    """Where an error was raised in a worker."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


class _Process:
    """A worker: it is given an item and answers with (result, None, "") or (None, error, traceback)."""

    def __init__(self, work: Any) -> None:
        self.number = -1
        # In a session of its own: Ctrl-C of a terminal is for this process, which ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._items = cast(IO[bytes], self._process.stdin)
        self.answers = cast(IO[bytes], self._process.stdout)
        self._send(sys.path)
        self._send(pickle.dumps(work))

    def give(self, number: int, item: Any) -> None:
        self.number = number
        self._send(pickle.dumps(item))

    def take(self) -> tuple[Any, BaseException | None, str] | None:
        """Return the answer; None when the process is dead."""
        try:
            answer: tuple[Any, BaseException | None, str] = pickle.load(self.answers)
            return answer
        except (EOFError, pickle.UnpicklingError):  # nothing, or the beginning of an answer
            return None

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self._process.wait()
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._items, self.answers):
            with suppress(OSError):  # what was not sent is lost with its reader
                stream.close()

    def _send(self, value: Any) -> None:
        with suppress(BrokenPipeError):  # it is dead, which its answer will say
            pickle.dump(value, self._items)
            self._items.flush()
