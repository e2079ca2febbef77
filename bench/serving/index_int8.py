"""Exact and filtered search with vectors in 8 bits beside the whole vectors alone: time, memory, recall.

    python -m bench.serving.index_int8 --output bench/results/index_int8.json

Two indexes of the same vectors without a graph, searched by turns, one thread. Vectors are in clusters, as
those of texts are. Recall is of a search with `exact=True`, which reads the whole vectors. Milliseconds are
of the CPU; every filter was used before, and the files are in memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness.machine import machine_record
from relsdk.index import Index, IndexConfig

_SEED = 0
_K = 10
_QUERIES = 40
# A filter that leaves so many of a hundred documents; None leaves all.
_SHARES: tuple[int | None, ...] = (1, 10, None)


class _Given:
    """Stands for the encoder of vectors that are given."""

    name = fingerprint = "given"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def encode_document(self, inputs: Any) -> NDArray[np.float32]:
        raise NotImplementedError


def _vectors(count: int, dimension: int) -> NDArray[np.float32]:
    """Draw (count, dimension) unit vectors around centres, a hundred to each."""
    random = np.random.default_rng(_SEED)
    centres = random.standard_normal((max(count // 100, 1), 24))
    hidden = centres[random.integers(len(centres), size=count)] + 0.7 * random.standard_normal((count, 24))
    found = hidden @ random.standard_normal((24, dimension))
    found += 0.3 * random.standard_normal((count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def _ids(index: Index, query: NDArray[np.float32], where: dict[str, Any] | None, exact: bool) -> list[str]:
    return [hit.document.id for hit in index.search(query, _K, where=where, exact=exact)]


def measure(folder: Path, count: int, dimension: int, rounds: int) -> dict[str, Any]:
    """Build both indexes and search them by turns.

    Returns:
        Bytes of the vectors of each way, and for each share of allowed documents milliseconds and recall@10.
    """
    vectors = _vectors(count + _QUERIES, dimension)
    queries = vectors[count:]
    indexes = {}
    for name, int8 in (("fp32", False), ("int8", True)):
        indexes[name] = Index.build(
            folder / name,
            ({"id": str(row), "title": "t", "percent": row % 100} for row in range(count)),
            _Given(dimension),
            vectors=vectors[:count],
            config=IndexConfig(kind="flat", int8=int8),
            lexical=False,
        )
    files = indexes["int8"].info().files
    sizes = {Path(name).name: size for name, size in files.items()}
    rows = []
    for share in _SHARES:
        where = None if share is None else {"percent": {"lt": share}}
        times: dict[str, list[float]] = {name: [] for name in indexes}
        right, wanted = dict.fromkeys(indexes, 0), 0
        for turn in range(1 + rounds):  # the first warms up
            for query in queries:
                truth = set(_ids(indexes["fp32"], query, where, True)) if not turn else set()
                wanted += len(truth)
                for name, index in indexes.items():
                    start = time.process_time()
                    found = _ids(index, query, where, False)
                    times[name] += [1000 * (time.process_time() - start)] if turn else []
                    right[name] += len(truth & set(found))
        rows.append(
            {
                "allowed": 1.0 if share is None else share / 100,
                "cpu_ms": {name: round(median(taken), 3) for name, taken in times.items()},
                "recall_at_10": {name: hits / wanted for name, hits in right.items()},
            }
        )
    for index in indexes.values():
        index.close()
    read = {"fp32": sizes["vectors.npy"], "int8": sizes["codes.npy"] + sizes["scales.npy"]}
    return {"documents": count, "dimension": dimension, "bytes_searched": read, "searches": rows}


@click.command()
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSON file.")
@click.option("--documents", default=200_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(output: Path, documents: int, rounds: int) -> None:
    """Measure and write."""
    found = []
    for dimension in (128, 384):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            found.append(measure(Path(folder), documents, dimension, rounds))
            click.echo(json.dumps(found[-1]), err=True)
    content = {"machine": machine_record(_SEED), "rounds": rounds, "indexes": found}
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
