"""Embedded databases with vectors as contenders: documents, metadata, filters, changes on the disk.

lancedb has an index of every field that is filtered; qdrant's local mode and txtai have none to make.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.living_index.contenders import Contender
from bench.living_index.corpus import FILTERS, K, Matrix, Rows
from relsdk.index import IndexConfig

_CONFIG = IndexConfig()
_NAME = "documents"
_SQL = {
    "equality 1 %": "{0}group{0} = '组42'",
    "equality 10 %": "topic = '主题3'",
    "range 1 %": "price < 1.0",
    "range 10 %": "price < 10.0",
}


class Lance(Contender):
    """A graph in float32, an index of each field."""

    package = "lancedb"
    libraries = ("lancedb", "lancedb.index", "pyarrow")
    holds = "vectors, documents, an index of each field"
    filters = frozenset(FILTERS)

    def build(self, folder: Path, count: int, threads: int) -> None:
        import lancedb
        from lancedb.index import Bitmap, BTree, HnswFlat, LabelList

        self.table = lancedb.connect(folder).create_table(
            _NAME, self._rows(np.arange(count), np.array(self.corpus.vectors[:count]))
        )
        graph = HnswFlat(
            distance_type="dot", m=_CONFIG.M, ef_construction=_CONFIG.ef_construction, num_partitions=1
        )
        fields = {"id": BTree(), "group": Bitmap(), "topic": Bitmap(), "price": BTree(), "tags": LabelList()}
        for field, config in {"vector": graph, **fields}.items():
            self.table.create_index(field, config=config)

    def open(self, folder: Path) -> None:
        import lancedb

        self.table = lancedb.connect(folder).open_table(_NAME)

    def add(self, rows: Rows, vectors: Matrix) -> None:
        self.table.add(self._rows(rows, vectors))

    def upsert(self, rows: Rows, vectors: Matrix) -> None:
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(self._rows(rows, vectors))

    def delete(self, rows: Rows) -> None:
        self.table.delete(f"id in ({', '.join(map(str, rows.tolist()))})")

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        query = self.table.search(vector).distance_type("dot").ef(_CONFIG.ef_search).limit(k)
        if name is not None:
            tags = FILTERS[name].get("tags")
            sql = f"array_has_any(tags, ['{tags}'])" if tags else _SQL[name].format("`")
            query = query.where(sql, prefilter=True)
        found: list[int] = query.select(["id", "title", "_distance"]).to_arrow()["id"].to_pylist()
        return found

    def _rows(self, rows: Rows, vectors: Matrix) -> Any:
        import pyarrow as pa

        documents = list(self.corpus.documents(rows.tolist()))
        columns = {
            "id": pa.array(rows, pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
            "title": [document.title for document in documents],
        }
        for field in ("author", "group", "topic", "year", "tags", "price"):
            columns[field] = pa.array([document.metadata[field] for document in documents])
        return pa.table(columns)


class Qdrant(Contender):
    """Local mode: every vector is compared, filters look at each document."""

    package = "qdrant-client"
    libraries = ("qdrant_client",)
    holds = "vectors, documents"
    filters = frozenset(FILTERS)
    memory_build = True

    def build(self, folder: Path, count: int, threads: int) -> None:
        from qdrant_client import models

        self.open(folder)
        self.client.create_collection(
            _NAME,
            vectors_config=models.VectorParams(size=self.corpus.dimension, distance=models.Distance.DOT),
        )
        for start in range(0, count, 1000):
            stop = min(start + 1000, count)
            self.add(np.arange(start, stop), np.array(self.corpus.vectors[start:stop]))
        self.close()

    def open(self, folder: Path) -> None:
        from qdrant_client import QdrantClient

        warnings.simplefilter("ignore")  # that this mode is not for many documents
        self.client = QdrantClient(path=str(folder))

    def add(self, rows: Rows, vectors: Matrix) -> None:
        from qdrant_client import models

        documents = list(self.corpus.documents(rows.tolist()))
        payloads = [{"title": document.title, **document.metadata} for document in documents]
        batch = models.Batch(ids=rows.tolist(), vectors=vectors.tolist(), payloads=payloads)
        self.client.upsert(_NAME, points=batch)

    def upsert(self, rows: Rows, vectors: Matrix) -> None:
        self.add(rows, vectors)

    def delete(self, rows: Rows) -> None:
        from qdrant_client import models

        self.client.delete(_NAME, points_selector=models.PointIdsList(points=rows.tolist()))

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        from qdrant_client import models

        allowed = None
        if name is not None:
            ((field, value),) = FILTERS[name].items()
            condition = (
                models.FieldCondition(key=field, range=models.Range(**value))
                if isinstance(value, dict)
                else models.FieldCondition(key=field, match=models.MatchValue(value=value))
            )
            allowed = models.Filter(must=[condition])
        hits = self.client.query_points(_NAME, query=vector, limit=k, query_filter=allowed).points
        return [int(hit.id) for hit in hits]

    def close(self) -> None:
        self.client.close()


class Txtai(Contender):
    """hnswlib beside SQLite. What a filter leaves of the nearest is shown: `_CANDIDATES` are asked for."""

    package = "txtai"
    libraries = ("txtai",)
    holds = "vectors, documents"
    filters = frozenset(_SQL)
    _CANDIDATES: ClassVar[dict[str, int]] = {"1 %": 100 * K, "10 %": 10 * K}

    def build(self, folder: Path, count: int, threads: int) -> None:
        self._make()
        vectors = self.corpus.vectors
        self.given = {str(row): vectors[row] for row in range(count)}
        self.embeddings.index(self._items(np.arange(count)))
        self.embeddings.save(str(folder))

    def open(self, folder: Path) -> None:
        self._make()
        self.embeddings.load(str(folder), config={"transform": lambda texts: self._encode(texts)})

    def add(self, rows: Rows, vectors: Matrix) -> None:
        self.given = dict(zip(map(str, rows.tolist()), vectors, strict=True))
        self.embeddings.upsert(self._items(rows))

    def upsert(self, rows: Rows, vectors: Matrix) -> None:
        self.add(rows, vectors)

    def delete(self, rows: Rows) -> None:
        self.embeddings.delete([str(row) for row in rows.tolist()])

    def search(self, vector: Any, k: int, name: str | None = None) -> Sequence[int]:
        self.given = {"query": vector}
        if name is None:
            return [int(hit["id"]) for hit in self.embeddings.search("query", k)]
        share = name.split(maxsplit=1)[1]
        sql = f"select id, title from txtai where similar(:v, {self._CANDIDATES[share]}) and "
        hits = self.embeddings.search(
            sql + _SQL[name].replace("{0}group{0}", "[group]"), k, parameters={"v": "query"}
        )
        return [int(hit["id"]) for hit in hits]

    def _make(self) -> None:
        from txtai import Embeddings

        self.embeddings = Embeddings(
            method="external",
            transform=lambda texts: self._encode(texts),  # a bound method would be called as a class
            content=True,
            backend="hnsw",
            hnsw={
                "efconstruction": _CONFIG.ef_construction,
                "m": _CONFIG.M,
                "efsearch": _CONFIG.ef_search,
                "randomseed": _CONFIG.seed,
            },
        )

    def _encode(self, texts: Sequence[str]) -> Matrix:
        return np.stack([self.given[text] for text in texts])

    def _items(self, rows: Rows) -> Any:
        for document in self.corpus.documents(rows.tolist()):
            yield document.id, {"text": document.id, "title": document.title, **document.metadata}, None
