"""A vector store as the searcher and the server read it: what an index answers, as far as a store can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink, SearchProfile
from relsdk.errors import InputError
from relsdk.index import Encoder, IndexStats, Mode
from relsdk.index.filter_parser import comparisons, parse_filter
from relsdk.index.store import Store, VectorStore
from relsdk.records import Document, Hit, Matrix

__all__ = ["StoreReader"]

_VERBS = ("upsert", "delete", "search", "count", "check_encoder")


class StoreReader:
    """Reads a store that has the five methods of `VectorStore`.

    A store has vectors and filters. What needs more, such as words, facets or passages, needs an index folder
    and is refused.

    Args:
        store: An open `Store`, or a class of your own.

    Raises:
        InputError: It lacks one of the methods.
    """

    # A store has no generations: each answer is of what is there then.
    generation = ""
    hybrid_models: Mapping[str, HybridLink] = {}

    def __init__(self, store: VectorStore) -> None:
        missing = [name for name in _VERBS if not callable(getattr(store, name, None))]
        if missing or isinstance(store, type):
            raise InputError(
                f"index is a {type(store).__name__}; an Index is needed, as Index.open returns it, or a "
                f"store with the methods {', '.join(_VERBS)}"
            )
        self.store = store

    @property
    def path(self) -> str:
        """Its URI, for messages."""
        return str(self.store.uri) if isinstance(self.store, Store) else type(self.store).__name__

    def snapshot(self) -> StoreReader:
        """Return the same store: it shows what is there now."""
        return self

    def retrieve(
        self,
        texts: Sequence[str],
        vectors: NDArray[Any],
        k: int = 10,
        *,
        mode: Mode = "dense",
        model: HybridLink | None = None,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
    ) -> list[list[Hit]]:
        """Find documents by meaning; see `Index.retrieve`.

        Raises:
            InputError: Another mode; or nothing was found, and no document has a field of the filter.
        """
        if mode != "dense":
            self._refuse(f"a {mode} search")
        matrix: Matrix = np.asarray(vectors, dtype=np.float32)
        hits = self.store.search(matrix, k, ef_search=ef_search, where=where) if len(matrix) else []
        if where and hits and not any(hits):  # an index folder says at once that it does not know a field
            for field in {leaf.field.name: leaf.field for leaf in comparisons(parse_filter(where))}.values():
                if field.column is None:
                    self.check_field(field.name)
        return hits

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows."""
        return self.store.count(where)

    def scans(self, where: Mapping[str, Any] | None) -> bool:
        """Return False: how a store answers a filter is its own affair."""
        return False

    def check_field(self, field: str) -> None:
        """Refuse a field that no document has.

        Raises:
            InputError: The store has looked for it.
        """
        if self.store.count({field: {"exists": True}}) == 0:
            raise InputError(f"no document of {self.path} has the field {field!r}; check its name")

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse another encoder; see `Index.check_encoder`."""
        self.store.check_encoder(encoder)

    def warmup(self) -> None:
        """Ask the store once, so that the first search finds a connection."""
        self.store.count()

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents by id; see `Index.get`."""
        if not isinstance(self.store, Store):
            self._refuse("a look at one document")
        return self.store.get(ids)

    def facets(
        self, field: str, where: Mapping[str, Any] | None = None
    ) -> list[tuple[str | float | bool, int]]:
        """Refuse: counting values needs an index folder."""
        self._refuse("facets")

    def similar(
        self,
        id: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        ef_search: int | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Refuse: the vectors of documents are read from an index folder."""
        self._refuse("a search for similar documents")

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Return none: which fields documents have is not known."""
        return {}

    def profiles(self, variant: str) -> Mapping[str, SearchProfile]:
        """Return none: `relsdk calibrate --index` keeps them in an index folder."""
        return {}

    def stats(self) -> IndexStats:
        """Return how many documents there are; bytes and segments are the store's own affair."""
        return IndexStats(generation="", format=0, count=self.count(), dead=0, bytes=0, segments=())

    def refresh(self, encoder: Encoder | None = None) -> bool:
        """Look again at what the collection is; return False, for there is nothing to open.

        Raises:
            EncoderMismatchError: It was built anew with another encoder.
        """
        if isinstance(self.store, Store):
            self.store.open()
        if encoder is not None:
            self.store.check_encoder(encoder)
        return False

    def upsert(self, documents: Sequence[Document], encoder: Encoder) -> int:
        """Write documents; see `Index.upsert`."""
        return self.store.upsert(documents, encoder)

    def delete(self, ids: Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None) -> int:
        """Delete documents; see `Index.delete`."""
        return self.store.delete(ids, where=where)

    def compact(self, *, num_threads: int | None = None) -> bool:
        """Return False: a store compacts itself."""
        return False

    def close(self) -> None:
        """Close a store of relsdk's."""
        if isinstance(self.store, Store):
            self.store.close()

    def __len__(self) -> int:
        return self.count()

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{what} needs an index folder; {self.path} is a vector store")
