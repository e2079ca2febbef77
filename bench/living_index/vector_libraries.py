"""Bare vector libraries as contenders: no documents, no filters, and a file that is written as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.living_index.contenders import Contender
from bench.living_index.corpus import Matrix, Rows
from relsdk.index import IndexConfig

_CONFIG = IndexConfig()
_FILE = "index"


class Usearch(Contender):
    """A graph that deletes and adds."""

    package = "usearch"
    libraries = ("usearch.index",)
    holds = "vectors"

    def build(self, folder: Path, count: int, threads: int) -> None:
        from usearch.index import Index

        self.graph = Index(
            ndim=self.corpus.dimension,
            metric="ip",
            dtype="f32",
            connectivity=_CONFIG.M,
            expansion_add=_CONFIG.ef_construction,
            expansion_search=_CONFIG.ef_search,
        )
        self.graph.add(np.arange(count), np.array(self.corpus.vectors[:count]), threads=threads)
        folder.mkdir(parents=True)
        self.graph.save(str(folder / _FILE))

    def open(self, folder: Path) -> None:
        from usearch.index import Index

        self.graph = Index.restore(str(folder / _FILE))
        self.graph.expansion_search = _CONFIG.ef_search  # the file does not keep it
        self.graph.expansion_add = _CONFIG.ef_construction

    def add(self, rows: Rows, vectors: Matrix) -> None:
        self.graph.add(rows, vectors, threads=1)

    def delete(self, rows: Rows) -> None:
        self.graph.remove(rows, threads=1)

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        found: list[int] = self.graph.search(vector, k, threads=1).keys.tolist()
        return found


class FaissGraph(Contender):
    """A graph that cannot delete: deleted rows are passed over by a selector.

    Row i of the graph holds document `ids[i]`; a document that is replaced gets another row.
    """

    package = "faiss-cpu"
    libraries = ("faiss",)
    holds = "vectors"

    def build(self, folder: Path, count: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        graph = faiss.IndexHNSWFlat(self.corpus.dimension, _CONFIG.M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _CONFIG.ef_construction
        graph.add(np.array(self.corpus.vectors[:count]))
        folder.mkdir(parents=True)
        faiss.write_index(graph, str(folder / _FILE))

    def open(self, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.graph = faiss.read_index(str(folder / _FILE))
        self.graph.hnsw.efSearch = _CONFIG.ef_search
        self.ids: list[int] = list(range(self.graph.ntotal))
        self.places = {row: row for row in self.ids}
        self.dead: set[int] = set()
        self.parameters: Any = None

    def add(self, rows: Rows, vectors: Matrix) -> None:
        first = self.graph.ntotal
        self.graph.add(vectors)
        self.ids += rows.tolist()
        self.places.update((row, first + at) for at, row in enumerate(rows.tolist()))

    def delete(self, rows: Rows) -> None:
        import faiss

        self.dead.update(self.places.pop(row) for row in rows.tolist())
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(sorted(self.dead))))
        self.parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=_CONFIG.ef_search)

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        found = self.graph.search(vector[None], k, params=self.parameters)[1][0]
        return [self.ids[place] for place in found.tolist() if place >= 0]


class FaissFlat(Contender):
    """Every vector is compared."""

    package = "faiss-cpu"
    libraries = ("faiss",)
    holds = "vectors"

    def build(self, folder: Path, count: int, threads: int) -> None:
        import faiss

        index = faiss.IndexIDMap2(faiss.IndexFlatIP(self.corpus.dimension))
        index.add_with_ids(np.array(self.corpus.vectors[:count]), np.arange(count))
        folder.mkdir(parents=True)
        faiss.write_index(index, str(folder / _FILE))

    def open(self, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(folder / _FILE))

    def add(self, rows: Rows, vectors: Matrix) -> None:
        self.index.add_with_ids(vectors, rows)

    def delete(self, rows: Rows) -> None:
        import faiss

        self.index.remove_ids(faiss.IDSelectorBatch(rows))

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        found: list[int] = self.index.search(vector[None], k)[1][0].tolist()
        return found
