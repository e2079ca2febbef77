"""A run: sizes, folders, who is measured, and what several stages do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.living_index import figures
from bench.living_index.contenders import contender_class
from bench.living_index.corpus import FILTERS, Corpus, Oracle, Size, prepare
from bench.living_index.worker import Worker

SMALL = Size(documents=100_000, dimension=128, spare=12_000, change=1000)
LARGE = Size(
    documents=1_000_000,
    dimension=128,
    spare=6_000,
    change=1000,
    steps=(500_000, 300_000, 198_001, 1_999),
)
TOY = Size(documents=2000, dimension=16, spare=200, change=40, queries=40, rounds=2, calls=3, repeats=2)
LARGE_TOY = Size(
    documents=5000,
    dimension=16,
    spare=200,
    change=20,
    steps=(2500, 2100, 400),
    queries=40,
    rounds=2,
    calls=3,
    repeats=2,
)
# What a block of searches, or the searches of one process, may take; the slowest of the peers does fewer.
_LIMIT_S = 5.0
_WARM_CALLS = 30
# Processes that use a filter for the first time; only one where it takes so long.
_PROCESSES, _PATIENCE_S = 3, 15.0


@dataclass
class Run:
    """One run of the stages.

    Attributes:
        work: Holds corpora and indexes; later runs find them.
        shared: Has the real titles.
        contenders: Names of those that are here.
        threads: Of the builds of the million; all else has one.
        small: Size of the comparison with peers.
        large: Size of the rest.
        start: Starts a worker; tests give another.
    """

    work: Path
    shared: Path
    contenders: Sequence[str]
    threads: int = 2
    small: Size = SMALL
    large: Size = LARGE
    start: Callable[..., Any] = Worker
    _corpora: dict[Size, Corpus] = field(default_factory=dict)

    def corpus(self, size: Size) -> Corpus:
        """Return the corpus of a size, made where it is not there."""
        if size not in self._corpora:
            prepare(self.folder(size), size, self.shared)
            self._corpora[size] = Corpus(self.folder(size), size)
        return self._corpora[size]

    def folder(self, size: Size) -> Path:
        """Return where everything of a size is."""
        return self.work / f"{size.documents}x{size.dimension}"

    def index(self, size: Size, name: str, state: str) -> Path:
        """Return the folder of a contender's index in a state."""
        return self.folder(size) / name.replace(" ", "-") / state

    def worker(self, size: Size, name: str, threads: int = 1) -> Any:
        """Start a contender."""
        self.corpus(size)
        return self.start(name, self.folder(size), size, threads)

    @contextmanager
    def opened(self, size: Size, states: Sequence[tuple[str, str]]) -> Iterator[list[Any]]:
        """Yield workers that have opened an index each: (name, state)."""
        with ExitStack() as stack:
            workers = []
            for name, state in states:
                workers.append(stack.enter_context(self.worker(size, name)))
                workers[-1].opening = workers[-1].ask("open", folder=str(self.index(size, name, state)))
            yield workers
            for worker in workers:
                worker.ask("close")


def by_turns(
    workers: Sequence[Any], size: Size, exact: list[list[int]]
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Search by turns, every second round in reverse.

    Returns:
        Figures of each worker, and its median seconds in each round.
    """
    answers: list[list[dict[str, Any]]] = [[] for _ in workers]
    starts = [number * size.calls for number in range(size.rounds)]
    for number, start in enumerate(starts):
        turn = list(enumerate(workers))
        for place, worker in turn if number % 2 == 0 else turn[::-1]:
            found = worker.ask("search", start=start, calls=size.calls, name=None, limit_s=_LIMIT_S)
            answers[place].append(found)
    rounds = [[figures.median(one["wall_s"]) for one in found] for found in answers]
    return [figures.searches(found, starts, exact) for found in answers], rounds


def filters(run: Run, size: Size, states: Sequence[tuple[str, str]], oracle: Oracle) -> list[dict[str, Any]]:
    """Use each filter first in a process of its own, then the others, then it again; one result a state.

    The files' pages are in memory: they are read before.
    """
    exact = {name: oracle.nearest(size.queries, name) for name in FILTERS}
    found: list[dict[str, list[dict[str, Any]]]] = [{} for _ in states]
    for repeat in range(min(_PROCESSES, size.repeats)):
        for answers, (contender, state) in zip(found, states, strict=True):
            read_all(run.index(size, contender, state))
            supported = [name for name in FILTERS if name in contender_class(contender).filters]
            for place, name in enumerate(supported):
                if repeat and answers[name][0]["process_s"] > _PATIENCE_S:
                    continue
                others = supported[place + 1 :] + supported[:place]
                start, calls = time.perf_counter(), min(_WARM_CALLS, size.queries - 1)
                with run.opened(size, [(contender, state)]) as (worker,):
                    answer = worker.ask("first", name=name, others=others, calls=calls, limit_s=_LIMIT_S)
                answers.setdefault(name, []).append({**answer, "process_s": time.perf_counter() - start})
    return [_uses(answers, exact) for answers in found]


def _uses(answers: dict[str, list[dict[str, Any]]], exact: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Return, by filter, its first use in a fresh process, in one that used other filters, and later uses."""
    found = {}
    for name, own in answers.items():
        later = [one["later"][name] for some in answers.values() for one in some if name in one["later"]]
        first = {"fresh": [one["cold"] for one in own], "first": later}
        found[name] = {
            key: figures.calls([one["wall_s"] for one in some], [one["cpu_s"] for one in some])
            for key, some in first.items()
        }
        found[name]["again"] = figures.searches(own, [0] * len(own), exact[name])
    return found


def copy_links(source: Path, target: Path) -> None:
    """Copy a folder whose files are never written to again: as further names of the same files."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_all(folder: Path) -> None:
    """Bring the pages of all files of a folder into memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
