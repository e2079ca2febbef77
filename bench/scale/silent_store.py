"""A store that keeps nothing: what the process that loads a store does itself, before anything is sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.living_index.corpus import Corpus
from relsdk import Document
from relsdk.index import IndexConfig
from relsdk.index.store import MadeBy, Store, StoreInfo
from relsdk.index.store_uri import StoreUri, parse_store_uri

__all__ = ["SilentStore", "loading"]


class SilentStore(Store):
    """Takes everything, keeps nothing, finds nothing."""

    written = 0

    @classmethod
    def connect(cls, uri: StoreUri) -> SilentStore:
        """Return it."""
        return cls(uri)

    def describe(self, *, counts: bool = True) -> StoreInfo | None:
        """Return what was noted."""
        return self._noted

    def create(self, encoder: MadeBy, dimension: int, config: IndexConfig) -> None:
        """Note nothing."""

    def drop(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _write(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> None:
        self.written += len(documents)

    def _remove_ids(self, ids: Sequence[str]) -> int:
        return 0

    def _remove_where(self, condition: Any) -> int:
        return 0

    def _nearest(
        self, queries: NDArray[np.float32], k: int, condition: Any, ef_search: int | None, exact: bool
    ) -> list[list[tuple[Document, NDArray[np.float32]]]]:
        return [[] for _ in queries]

    def _count(self, condition: Any) -> int:
        return self.written

    def _read(self, ids: Sequence[str]) -> list[Document]:
        return []


def loading(corpus: Corpus, count: int) -> tuple[float, float]:
    """Return documents a second of a loader, and the bytes of memory that it notes of each.

    As `relsdk.index.opening.build_store`, it checks documents and vectors, and notes a number of each id.
    """
    store = SilentStore(parse_store_uri("milvus://nowhere/nothing"))
    made_by = (corpus.name, corpus.fingerprint, None)
    store.note(StoreInfo(str(store.uri), "silent", 0, corpus.dimension, *made_by, False, IndexConfig()))
    ids: set[int] = set()

    def noted() -> Iterator[Document]:
        for document in documents:
            ids.add(hash(document.id))
            yield document

    documents = list(corpus.documents(range(count)))
    start = time.perf_counter()
    store.upsert(noted(), vectors=corpus.vectors[:count])
    seconds = time.perf_counter() - start
    size = sys.getsizeof(ids) + sum(map(sys.getsizeof, ids))
    return count / seconds, size / count
