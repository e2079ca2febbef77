"""Approximate search in a graph: hierarchical navigable small worlds, by hnswlib.

Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs", 2016.
Shape letters: N documents, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._duplicate_vectors import DuplicateVectors
from relsdk.index._graph_file import check_graph_file
from relsdk.index.base import IndexConfig, Neighbours, Progress, VectorIndex
from relsdk.index.flat import exact_search
from relsdk.runtime.hardware import choose_threads

__all__ = ["GRAPH_FILE", "HnswIndex"]

GRAPH_FILE = "graph.hnsw"
# Vectors added between two reports of progress, and two chances for Ctrl-C.
_ADD_BLOCK = 2048


class HnswIndex(VectorIndex):
    """A graph over unit vectors; its scores are cosines.

    hnswlib searches with max(ef, k) candidates, and its `set_ef` changes the searches of all threads. So ef
    stays 1, each search asks for as many results as it wants candidates, and the surplus is cut off.

    Of equal vectors the graph holds one; see `DuplicateVectors`.
    """

    def __init__(
        self, graph: Any, vectors: NDArray[np.float32], duplicates: DuplicateVectors, config: IndexConfig
    ) -> None:
        self._graph = graph
        self._vectors = vectors
        self._duplicates = duplicates
        self._config = config
        graph.set_ef(1)

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        config: IndexConfig,
        *,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> HnswIndex:
        """Build the graph block by block; see `VectorIndex.build`."""
        duplicates = DuplicateVectors.find(vectors)
        rows = duplicates.representatives()
        threads = choose_threads(num_threads).threads
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(
            max_elements=len(rows),
            M=config.M,
            ef_construction=config.ef_construction,
            random_seed=config.seed,
        )
        for start in range(0, len(rows), _ADD_BLOCK):
            block = rows[start : start + _ADD_BLOCK]
            graph.add_items(vectors[block], block, num_threads=threads)
            if on_progress is not None:
                on_progress("graph", start + len(block))
        graph.set_num_threads(threads)
        return cls(graph, vectors, duplicates, config)

    def search(self, queries: NDArray[np.float32], k: int, *, ef_search: int | None = None) -> Neighbours:
        """Find the nearest rows; see `VectorIndex.search`.

        Where the graph reaches fewer than it was asked for, the search is exact instead.
        """
        k = min(k, len(self._vectors))
        if not len(queries):
            return exact_search(self._vectors, queries, k)
        candidates = min(max(ef_search or self._config.ef_search, k), self._graph.get_current_count())
        try:
            labels, distances = self._graph.knn_query(queries, k=candidates)  # (Q, candidates)
        except RuntimeError:  # hnswlib found fewer
            return exact_search(self._vectors, queries, k)
        return self._duplicates.expand(labels[:, :k].astype(np.int64), 1.0 - distances[:, :k], k)

    def save(self, folder: Path) -> None:
        """Write the graph and the duplicates.

        Raises:
            OSError: The file is not what it must be: hnswlib does not say when a disk is full.
        """
        path = folder / GRAPH_FILE
        self._duplicates.save(folder)
        self._graph.save_index(os.fsencode(path))  # as bytes: a name need not be UTF-8
        wanted, written = int(self._graph.index_file_size()), path.stat().st_size
        if written != wanted:
            raise OSError(f"{written:,} of {wanted:,} bytes were written; the disk is probably full")

    @classmethod
    def load(cls, folder: Path, vectors: NDArray[np.float32], config: IndexConfig) -> HnswIndex:
        """Read the graph into memory; see `VectorIndex.load`."""
        path = folder / GRAPH_FILE
        duplicates = DuplicateVectors.load(folder, len(vectors))
        check_graph_file(path, duplicates.representatives(), vectors.shape[1], config)
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        try:
            graph.load_index(os.fsencode(path))
        except (RuntimeError, MemoryError) as error:
            raise IndexFolderError(f"cannot read {path}: hnswlib: {error}; build the index again") from error
        graph.set_num_threads(choose_threads().threads)
        return cls(graph, vectors, duplicates, config)
