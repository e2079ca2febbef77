"""Prepared vectors, so that only the index is measured; and the indexes of the peers, set alike.

Shape letters: N documents, Q queries, D dimension, K results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.serving.peers import module
from bench.serving.settings import Settings
from relsdk import Document
from relsdk.files.folders import staged_folder
from relsdk.index import IndexConfig

K = 10
QUERIES = 500
_FILE = "graph"
Matrix = NDArray[np.float32]


class VectorSet:
    """An encoder that hands out prepared vectors: unit, in clusters, queries from the same clusters.

    Attributes:
        documents: (N, D) float32.
        queries: (Q, D) float32.
    """

    name, fingerprint, path = "prepared vectors", "0" * 16, None

    def __init__(self, count: int, dimension: int, queries: int = QUERIES) -> None:
        rng = np.random.default_rng([count, dimension])
        self.dimension = dimension
        clusters = max(8, count // 40)
        centres = rng.standard_normal((clusters, dimension), dtype=np.float32)
        unit = np.empty((count + queries, dimension), dtype=np.float32)
        for start in range(0, len(unit), 65_536):  # a million vectors at once would need twice the memory
            block = unit[start : start + 65_536]
            rng.standard_normal(out=block, dtype=np.float32)
            block *= 0.7
            block += centres[rng.integers(clusters, size=len(block))]
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        self.documents, self.queries = unit[:count], unit[count:]

    def __len__(self) -> int:
        return len(self.documents)

    def encode_document(self, inputs: list[Document]) -> Matrix:
        """See `Embedder.encode_document`."""
        return self.documents[[int(document.id) for document in inputs]]

    def records(self) -> list[Document]:
        """Documents as a search team has them: a title, and fields to filter on."""
        return [
            Document(
                id=str(row),
                title=f"视频 {row}",
                metadata={"thousandth": row * 7919 % 1000, "author": f"作者{row % 97}"},
            )
            for row in range(len(self))
        ]

    def exact(self, allowed: NDArray[np.bool_] | None = None) -> list[list[int]]:
        """Rows of the K nearest documents of each query, by comparing with all of them."""
        rows = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        found: list[list[int]] = []
        for start in range(0, len(self.queries), 64):
            scores = self.queries[start : start + 64] @ self.documents[rows].T
            k = min(K, len(rows))
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            found += rows[best].tolist()
        return found


@dataclass(frozen=True)
class Graph:
    """A bare index: no documents, row numbers only.

    Attributes:
        name: Of the library.
        build: (N, D) to the library's index, with relsdk's settings.
        search: (index, query (D,), ef) to row numbers.
        save: (index, path) to a file.
        load: (path, D) to the index that was saved.
    """

    name: str
    build: Callable[[Matrix], Any]
    search: Callable[[Any, Matrix, int], Any]
    save: Callable[[Any, str], Any]
    load: Callable[[str, int], Any]


def kept(graph: Graph, version: str, vectors: VectorSet, folder: Path) -> Any:
    """Return a graph of a vector set out of a folder, built and put there unless an earlier run did.

    It is searched as it was read in both cases. Nothing of relsdk is kept: its version does not tell its
    builds apart.

    Args:
        graph: How the library builds and reads one.
        version: Of the library.
        vectors: N documents of D dimensions.
        folder: Where graphs are kept: one folder each, by library, vectors and settings.

    Raises:
        click.ClickException: What an earlier run left does not load.
        RelsdkError: The file system refused.
    """
    config = IndexConfig()
    count, dimension = vectors.documents.shape
    digest = hashlib.sha256(vectors.documents.data).hexdigest()[:8]
    how = f"m{config.M}-ef{config.ef_construction}-seed{config.seed}"
    path = folder / f"{graph.name}-{version}-{count}x{dimension}-{digest}-{how}"
    if not path.is_dir():
        click.echo(f"{count:,} x {dimension}: {graph.name} builds its graph", err=True)
        with staged_folder(path, marker=_FILE) as staging:
            graph.save(graph.build(vectors.documents), str(staging / _FILE))
            return graph.load(str(staging / _FILE), dimension)  # before it is put there: a full disk cuts it
    try:
        return graph.load(str(path / _FILE), dimension)
    except Exception as error:  # each library has its own
        raise click.ClickException(f"{path} does not load ({error}); remove it to build it anew") from error


def graphs(settings: Settings) -> list[Graph]:
    """Return the libraries that are here, each with relsdk's M, ef_construction and threads."""
    config, threads = IndexConfig(), settings.threads
    makers = {"hnswlib": _hnswlib, "usearch": _usearch, "faiss": _faiss}
    found: list[Graph] = []
    if not settings.peers:
        return found
    for name, make in makers.items():
        library = module(settings, f"{name}.index" if name == "usearch" else name)
        if library is not None:
            found.append(make(library, config, threads))
    return found


def _hnswlib(library: Any, config: IndexConfig, threads: int) -> Graph:
    def build(vectors: Matrix) -> Any:
        graph = library.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(
            max_elements=len(vectors),
            M=config.M,
            ef_construction=config.ef_construction,
            random_seed=config.seed,
        )
        graph.add_items(vectors, num_threads=threads)
        graph.set_num_threads(threads)
        return graph

    def search(graph: Any, query: Matrix, ef: int) -> Any:
        graph.set_ef(ef)
        return graph.knn_query(query, k=K)[0][0]

    def load(path: str, dimension: int) -> Any:
        graph = library.Index(space="ip", dim=dimension)
        graph.load_index(path)
        graph.set_num_threads(threads)
        return graph

    return Graph("hnswlib", build, search, lambda graph, path: graph.save_index(path), load)


def _usearch(library: Any, config: IndexConfig, threads: int) -> Graph:
    def build(vectors: Matrix) -> Any:
        graph = library.Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32",
            connectivity=config.M,
            expansion_add=config.ef_construction,
        )
        graph.add(np.arange(len(vectors)), vectors, threads=threads)
        return graph

    def search(graph: Any, query: Matrix, ef: int) -> Any:
        graph.expansion_search = ef
        return graph.search(query, K, threads=threads).keys

    def load(path: str, dimension: int) -> Any:
        graph = library.Index.restore(path)
        if graph is None:
            raise ValueError("not a graph of usearch")
        return graph

    return Graph("usearch", build, search, lambda graph, path: graph.save(path), load)


def _faiss(library: Any, config: IndexConfig, threads: int) -> Graph:
    library.omp_set_num_threads(threads)

    def build(vectors: Matrix) -> Any:
        graph = library.IndexHNSWFlat(vectors.shape[1], config.M, library.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = config.ef_construction
        graph.add(vectors)
        return graph

    def search(graph: Any, query: Matrix, ef: int) -> Any:
        graph.hnsw.efSearch = ef
        return graph.search(query[None], K)[1][0]

    def load(path: str, dimension: int) -> Any:
        return library.read_index(path)

    return Graph("faiss", build, search, library.write_index, load)
