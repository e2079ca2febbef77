"""A contender in a process of its own, asked line by line.

    python -m bench.living_index.worker NAME FOLDER SIZE THREADS

Each answer has the seconds by the clock, and the CPU's, which other processes do not lengthen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.machine import ROOT
from bench.harness.memory import memory_now, peak_memory
from bench.living_index.contenders import contender_class
from bench.living_index.corpus import Corpus, K, Size

# So that a contender's own pools have one thread; the process is held to one CPU besides.
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "RELSDK_THREADS",
        "RAYON_NUM_THREADS",
        "LANCE_CPU_THREADS",
        "MKL_NUM_THREADS",
    )
}
_WARMUP = 3


class Session:
    """What a process does when it is asked."""

    def __init__(self, name: str, folder: Path, size: Size) -> None:
        self.corpus = Corpus(folder, size)
        self.contender = contender_class(name)(self.corpus)
        for library in self.contender.libraries:
            import_module(library)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the method that the request names."""
        name = request.pop("do")
        found: dict[str, Any] = getattr(self, f"do_{name}")(**request)
        return found

    def do_build(self, folder: str, count: int, threads: int) -> dict[str, Any]:
        """Build an index of the first documents."""
        with peak_memory() as memory:
            seconds = _seconds(lambda: self.contender.build(Path(folder), count, threads))
        return {**seconds, **memory}

    def do_steps(self, folder: str, steps: list[int], threads: int) -> dict[str, Any]:
        """Build an index segment by segment."""
        with peak_memory() as memory:
            taken = self.contender.build_in_steps(Path(folder), steps, threads)
        return {"steps": taken, **memory}

    def do_open(self, folder: str) -> dict[str, Any]:
        """Open an index."""
        return _seconds(lambda: self.contender.open(Path(folder)))

    def do_change(self, kind: str, rows: list[int], first: int = 0) -> dict[str, Any]:
        """Add or replace documents with the vectors from `first` on, or delete them."""
        numbers = np.array(rows, dtype=np.int64)
        vectors = np.array(self.corpus.vectors[first : first + len(rows)])
        call = getattr(self.contender, kind)
        return _seconds(lambda: call(numbers) if kind == "delete" else call(numbers, vectors))

    def do_search(self, start: int, calls: int, name: str | None, limit_s: float) -> dict[str, Any]:
        """Search for some of the queries, for so many seconds at most."""
        queries = self.corpus.queries
        for warm in range(1, 1 + min(_WARMUP, calls)):  # queries that are not timed here
            self.contender.search(queries[start - warm], K, name)
        walls, cpus, found = [], [], []
        end = time.perf_counter() + limit_s
        for number in range(start, start + calls):
            query = queries[number % len(queries)]
            seconds = _seconds(lambda query=query: found.append(self.contender.search(query, K, name)))
            walls.append(seconds["wall_s"])
            cpus.append(seconds["cpu_s"])
            if time.perf_counter() > end:
                break
        return {"wall_s": walls, "cpu_s": cpus, "found": [list(map(int, rows)) for rows in found]}

    def do_first(self, name: str, others: list[str], calls: int, limit_s: float) -> dict[str, Any]:
        """Search without a filter, then with one, the first of this process; warm up, and use the others.

        Returns:
            `cold`, the seconds of the first filter; those of the calls that go on with it; `later`, by name,
            those of the first use of each other one.
        """
        search, queries, found = self.contender.search, self.corpus.queries, list[Any]()
        search(queries[-1], K)
        cold = _seconds(lambda: found.append(search(queries[0], K, name)))
        self.contender.warmup()
        later = {other: _seconds(lambda other=other: search(queries[0], K, other)) for other in others}
        warm = self.do_search(1, calls, name, limit_s)
        return {
            "cold": cold,
            "later": later,
            **warm,
            "found": [list(map(int, found[0])), *warm["found"]],
        }

    def do_find(self, row: int) -> dict[str, Any]:
        """Search with the vector of a document: it is the first hit, or it is not there."""
        return {"rows": [int(found) for found in self.contender.search(self.corpus.vectors[row], 1)]}

    def do_retrieve(self, queries: int) -> dict[str, Any]:
        """Search each query by both for the first time, then by meaning, by words and by both by turns."""
        modes = ("dense", "hybrid", "lexical")
        taken: dict[str, list[dict[str, float]]] = {mode: [] for mode in ("first", *modes)}
        for number in range(-_WARMUP, queries):
            self._retrieve(number, "dense")
            taken["first"].append(self._retrieve(number, "hybrid"))
        for number in range(-_WARMUP, queries):
            for at in range(len(modes)):
                mode = modes[(number + at) % len(modes)]
                taken[mode].append(self._retrieve(number, mode))
        return {
            kind: {mode: [one[kind] for one in seconds[_WARMUP:]] for mode, seconds in taken.items()}
            for kind in ("wall_s", "cpu_s")
        }

    def _retrieve(self, number: int, mode: str) -> dict[str, float]:
        text, vector = self.corpus.texts[number], self.corpus.queries[number]
        return _seconds(lambda: self.contender.retrieve(text, vector, K, mode))

    def do_compact(self, threads: int) -> dict[str, Any]:
        """Merge all segments."""
        with peak_memory() as memory:
            seconds = self.contender.compact(threads)
        return {**seconds, **memory}

    def do_segments(self) -> dict[str, Any]:
        """Say what the index consists of."""
        return {"segments": self.contender.segments()}

    def do_memory(self) -> dict[str, Any]:
        """Say what the process holds."""
        return dict(zip(("resident_mb", "anonymous_mb"), memory_now(), strict=True))

    def do_close(self) -> dict[str, Any]:
        """Close the index."""
        self.contender.close()
        return {}


class Worker:
    """A session in another process; a context manager.

    Args:
        name: Of the contender.
        folder: Of the corpus.
        size: Of the corpus.
        threads: More than one leaves it all CPUs.
    """

    def __init__(self, name: str, folder: Path, size: Size, threads: int = 1) -> None:
        arguments = [name, str(folder.resolve()), json.dumps(asdict(size)), str(threads)]
        environment = {**os.environ, **(ONE_THREAD if threads == 1 else {})}
        if threads > 1:
            environment.pop("RELSDK_THREADS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.living_index.worker", *arguments],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: The process ended; what it wrote to its standard error says why.
        """
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the worker has no pipes")
        print(json.dumps({"do": do, **request}), file=requests, flush=True)
        line = answers.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[5:]} ended with {self.process.wait()} at {do}")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


def main() -> None:
    """Answer requests until there are none."""
    name, folder, size, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    if threads == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    content = json.loads(size)
    session = Session(name, Path(folder), Size(**{**content, "steps": tuple(content["steps"])}))
    for line in sys.stdin:
        print(json.dumps(session.answer(json.loads(line))), file=answers, flush=True)


def _seconds(work: Any) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    main()
