"""relsdk's index as a contender, with what only it is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.living_index.contenders import Contender
from bench.living_index.corpus import FILTERS, Matrix, Rows
from relsdk import Index
from relsdk.index import IndexConfig
from relsdk.index.hnsw import HnswIndex


class Ours(Contender):
    """The default settings; an option to compare is a subclass with other ones."""

    package = "relsdk"
    holds = "vectors, documents, columns, postings"
    filters = frozenset(FILTERS)
    config = IndexConfig()

    def build(self, folder: Path, count: int, threads: int) -> None:
        self.index = Index.build(
            folder,
            self.corpus.documents(range(count)),
            self.corpus,
            vectors=self.corpus.vectors[:count],
            config=self.config,
            num_threads=threads,
        )

    def build_in_steps(self, folder: Path, steps: Sequence[int], threads: int) -> list[dict[str, float]]:
        """Build a segment for each step; return what each took."""
        taken, first = [], 0
        for step in steps:
            with timed() as seconds:
                if first:
                    rows = range(first, first + step)
                    vectors = self.corpus.vectors[first : first + step]
                    self.index.add(self.corpus.documents(rows), vectors=vectors, num_threads=threads)
                else:
                    self.build(folder, step, threads)
            taken.append({"documents": step, **seconds})
            first += step
        return taken

    def open(self, folder: Path) -> None:
        self.index = Index.open(folder)

    def add(self, rows: Rows, vectors: Matrix) -> None:
        self.index.add(self.corpus.documents(rows.tolist()), vectors=vectors)

    def upsert(self, rows: Rows, vectors: Matrix) -> None:
        self.index.upsert(self.corpus.documents(rows.tolist()), vectors=vectors)

    def delete(self, rows: Rows) -> None:
        self.index.delete([str(row) for row in rows])

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        where = None if name is None else FILTERS[name]
        return [int(hit.document.id) for hit in self.index.search(vector, k, where=where)]

    def retrieve(self, text: str, vector: Any, k: int, mode: Any) -> int:
        """Return how many hits a mode finds."""
        return len(self.index.retrieve([text], vector[None], k, mode=mode)[0])

    def compact(self, threads: int) -> dict[str, float]:
        """Merge everything; return what it took."""
        with timed() as seconds:
            self.index.compact(full=True, num_threads=threads)
        return seconds

    def segments(self) -> list[dict[str, Any]]:
        """Return what the index consists of."""
        return [
            {"documents": one.count, "dead": one.dead, "graph": one.graph, "bytes": one.bytes}
            for one in self.index.stats().segments
        ]

    def warmup(self) -> None:
        self.index.warmup()

    def close(self) -> None:
        self.index.close()


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds the seconds of the block at its end, and those of its graphs."""
    build, graph = vars(HnswIndex)["build"], {"wall": 0.0, "cpu": 0.0}

    def timed_build(cls: type[HnswIndex], *arguments: Any, **options: Any) -> HnswIndex:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return build.__func__(cls, *arguments, **options)
        finally:
            graph["wall"] += time.perf_counter() - wall
            graph["cpu"] += time.process_time() - cpu

    seconds: dict[str, float] = {}
    HnswIndex.build = classmethod(timed_build)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield seconds
    finally:
        seconds.update(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)
        seconds.update({f"graph_{name}_s": value for name, value in graph.items()})
        HnswIndex.build = build
