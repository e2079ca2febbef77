"""Run the items of a work on a Ray cluster, by Ray Data: a model in each actor, only small things travel.

Ray gives placement, restarts and lost machines. What an actor raises is no error for Ray: it is an answer,
and the driver raises it, as the runner of one machine does.
"""

from __future__ import annotations

import pickle
import socket
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from relsdk.errors import InputError, MissingExtraError, RelsdkError
from relsdk.shards.runner import Work, portable_error

try:
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("--ray", "ray") from error

from relsdk_scale._ray_cluster import cluster_address, connected

__all__ = ["RayRunner"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ray does an item again whose actor died, for ever; one that ends each of its actors is given up.
_TRIES = 4


class RayRunner:
    """Runs a work on a Ray cluster.

    Each worker is an actor with as many CPUs as the work has `threads` (1 where it does not say). Actors of
    lost machines are started elsewhere, and their items are done again. Each machine needs the same version
    of relsdk, and sees the files of the work under the same paths.

    Args:
        address: "auto" for the cluster of `RAY_ADDRESS`, else the one that this machine belongs to, else one
            that is started here and ends with the work; or "host:port" of a cluster's head.
        workers: Actors; None takes as many as the cluster has room for.

    Raises:
        InputError: An argument is out of range.
        RelsdkError: Nothing answers at the address.
    """

    def __init__(self, address: str = "auto", workers: int | None = None) -> None:
        whole = isinstance(workers, int) and not isinstance(workers, bool)
        if workers is not None and (not whole or workers < 1):
            raise InputError(f"workers={workers!r}; a whole number of at least 1 is needed")
        self.workers = workers
        self.address = cluster_address(address)

    def run(self, work: Work[Item, Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """See `relsdk.shards.runner.Runner.run`.

        Raises:
            InputError: No machine of the cluster has as many CPUs as a worker takes.
            RelsdkError: The cluster refuses or is lost, or an item ended each of its workers.
        """
        if not items:
            return
        waiting = set(range(len(items)))
        with connected(self.address), closing(self._answers(work, items)) as answers:
            for number, answer in answers:
                result, error, trace = pickle.loads(answer)
                if error is not None:
                    raise error from _ActorTraceback(trace)
                if number in waiting:  # the answer of a lost machine may come twice
                    waiting.remove(number)
                    yield number, result
        if waiting:
            raise RelsdkError(f"Ray gave no answer for {len(waiting):,} of {len(items):,} items; start again")

    def _answers(self, work: Any, items: Sequence[Any]) -> Generator[tuple[int, bytes], None, None]:
        """Yield (number, pickle of (result, None, "") or (None, error, traceback)) as they come."""
        try:
            attempts = _Attempts.remote()  # type: ignore[attr-defined]
            batches = self._dataset(work, items, attempts).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
            for batch in batches:
                yield from zip(batch["number"].to_pylist(), batch["answer"].to_pylist(), strict=True)
        except ray.exceptions.RayError as error:
            raise _in_words(error) from error

    def _dataset(self, work: Any, items: Sequence[Any], attempts: Any) -> Any:
        cpus = int(getattr(work, "threads", 1))
        room = _room(cpus)
        rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with ray.data.DataContext.current(context):
            # A block, and so a task, an item.
            return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(_version(), pickle.dumps(work), attempts),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=cpus,
                # Room that is lost leaves fewer actors, and machines that come later get some. One item waits
                # in each actor while another is done.
                compute=ray.data.ActorPoolStrategy(
                    min_size=1,
                    max_size=min(self.workers or len(items), len(items)),
                    initial_size=min(self.workers or room, room, len(items)),
                    max_tasks_in_flight_per_actor=2,
                ),
            )


class _Actor:
    """Opens a work when its first item comes; whatever it raises is an answer."""

    def __init__(self, version: str, work: bytes, attempts: Any) -> None:
        self._version = version
        self._work = work
        self._attempts = attempts
        self._do: Any = None

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        numbers = batch["number"].to_pylist()
        items = batch["item"].to_pylist()
        return {
            "number": numbers,
            "answer": [self._answer(number, item) for number, item in zip(numbers, items, strict=True)],
        }

    def _answer(self, number: int, item: bytes) -> bytes:
        try:
            if self._do is None:
                self._check_version()
                self._do = pickle.loads(self._work).open()
            opened = pickle.loads(item)
            if ray.get(self._attempts.begin.remote(number)) > _TRIES:
                raise RelsdkError(
                    f"{opened!s:.300}: {_TRIES} workers ended at this; is there enough memory for each? "
                    "Take fewer workers, or more threads each, so that a machine has fewer"
                )
            return pickle.dumps((self._do(opened), None, ""))
        except Exception as error:
            return pickle.dumps(
                (None, portable_error(error), f"{_this_machine()}:\n{traceback.format_exc()}")
            )

    def _check_version(self) -> None:
        if _version() != self._version:
            raise RelsdkError(
                f"{_this_machine()} of the cluster has relsdk {_version()}, and the machine that started the "
                f"work has {self._version}; install the same version on all"
            )


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Attempts:
    """Counts how many times each item was begun: who did so may be dead."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self._begun[number] += 1
        return self._begun[number]


class _ActorTraceback(Exception):
    """Where an error was raised in an actor."""

    def __str__(self) -> str:
        return f"in an actor on {self.args[0]}"


def _version() -> str:
    try:
        return version("relsdk")
    except PackageNotFoundError:  # a source tree on PYTHONPATH
        return "unknown"


def _this_machine() -> str:
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def _room(cpus: int) -> int:
    """Return how many actors of so many CPUs the machines of the cluster can hold."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    room = sum(int(machine // cpus) for machine in machines)
    if not room:
        raise InputError(
            f"a worker takes {cpus} CPUs, and the largest machine of the Ray cluster has "
            f"{max(machines, default=0):g}; take fewer threads, or add a machine"
        )
    return room


def _in_words(error: Exception) -> RelsdkError:
    """Return an error of Ray as one of ours, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lacking := next((line for line in lines if "No module named" in line), None):
        return RelsdkError(
            f"a machine of the Ray cluster cannot load the work ({lacking:.200}); install "
            "relsdk[ray] of the same version on each"
        )
    said = lines[0] if lines else type(error).__name__
    return RelsdkError(
        f"the Ray cluster stopped the work ({said:.300}); what was done is kept, start again to go on"
    )
