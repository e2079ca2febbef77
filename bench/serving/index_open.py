"""The cost of opening an index: the first time, again, with sizes only; files in memory and not.

    python -m bench.serving.index_open --output bench/results/index_open.json

The vectors are random, the graph is a poor one (M = 8, ef_construction = 20) that is made quickly: neither
matters to what is read and checked. Each opening is a process of its own. "cold": the kernel was asked to
drop the files' pages first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness.machine import machine_record
from relsdk.index import Index, IndexConfig
from relsdk.records import Document

_SEED = 0
# Times one opening, after the imports: by the clock, and the CPU's time, which other processes do not
# lengthen; of that, the share of `check_files` (hashes) and of `check_graph_file`.
_PROGRAM = """
import json, sys, time
import relsdk.index.hnsw as hnsw, relsdk.index._generation as generation
from relsdk.index import Index

parts = {}

def timed(name, work):
    def call(*arguments, **options):
        start = time.process_time()
        try:
            return work(*arguments, **options)
        finally:
            parts[name] = parts.get(name, 0.0) + time.process_time() - start
    return call

generation.check_files = timed("files", generation.check_files)
hnsw.check_graph_file = timed("graph", hnsw.check_graph_file)
start, used = time.perf_counter(), time.process_time()
Index.open(sys.argv[1], check=sys.argv[2])
wall, cpu = time.perf_counter() - start, time.process_time() - used
print(json.dumps({"wall": wall, "cpu": cpu, **parts}))
"""


class _Random:
    """Stands for an encoder."""

    name = fingerprint = "random"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._random = np.random.default_rng(_SEED)

    def encode_document(self, inputs: Any) -> NDArray[np.float32]:
        found = self._random.standard_normal((len(inputs), self.dimension), dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def _documents(count: int) -> Iterator[Document]:
    return (Document(str(i), f"title {i}", "", {"number": i}) for i in range(count))


def _open(path: Path, check: str, cache: Path, cold: bool) -> dict[str, float]:
    if cold:
        for file in path.rglob("*"):
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), check],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(path: Path, rounds: int) -> dict[str, Any]:
    """Return milliseconds, the median of the rounds, by way and part."""
    ways = {"first": "hashes", "again": "hashes", "sizes": "sizes"}
    result: dict[str, Any] = {}
    for cold in (False, True):
        seen: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:  # empty: nothing is remembered
                for way, check in ways.items():
                    seen[way].append(_open(path, check, Path(cache), cold))
        for way, found in seen.items():
            times = {part: round(1000 * median(one[part] for one in found), 2) for part in found[0]}
            result[f"{way}, {'cold' if cold else 'warm'}"] = times
    return result


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON file.")
@click.option("--documents", multiple=True, type=int, default=(100_000, 300_000), show_default=True)
@click.option("--dimension", default=128, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(output: Path, documents: tuple[int, ...], dimension: int, rounds: int) -> None:
    """Measure and write."""
    config = IndexConfig(M=8, ef_construction=20)
    rows = []
    for count in documents:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            path = Path(folder) / "index"
            Index.build(path, _documents(count), _Random(dimension), config=config, chunk_size=10_000).close()
            with Index.open(path) as index:
                sizes = dict(index.info().files)
            rows.append({"documents": count, "bytes": sizes, "milliseconds": _measure(path, rounds)})
            click.echo(json.dumps(rows[-1]), err=True)
    content = {
        "machine": machine_record(_SEED),
        "dimension": dimension,
        "config": config.to_dict(),
        "rounds": rounds,
        "indexes": rows,
    }
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
