"""Documents in a vector store: what every store does, and what each engine adds.

Shape letters: n documents of one chunk, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import EncoderMismatchError, IndexFolderError, InputError
from relsdk.index._arguments import check_encoder_parts, check_ids
from relsdk.index._filter_tree import Filter
from relsdk.index._manifest import MadeBy
from relsdk.index._part import Source, check_given_vectors
from relsdk.index._store_loading import KnownIds, encoded_chunks
from relsdk.index._vectors import UNIT_TOLERANCE, check_queries
from relsdk.index.base import Encoder, IndexConfig, Progress, check_whole_number
from relsdk.index.filter_parser import parse_filter
from relsdk.index.store_uri import StoreUri
from relsdk.records import Document, Hit, Matrix, Vector

__all__ = ["MadeBy", "Store", "StoreInfo", "VectorStore"]

Opened = TypeVar("Opened", bound="Store")
_HIGHEST_COSINE = (1.0 + UNIT_TOLERANCE) ** 2 + 1e-5


class VectorStore(Protocol):
    """Where documents and their vectors are: an `Index`, a `Store`, or a class of your own.

    Vectors have length 1 and are compared by inner product. `Index` says what each method takes and raises.
    """

    def upsert(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None = None,
        *,
        vectors: NDArray[Any] | None = None,
    ) -> int:
        """Write documents in place of those that have their ids; return how many."""

    def delete(self, ids: Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None) -> int:
        """Delete documents by id or by a filter; return how many."""

    def search(
        self,
        vectors: Matrix,
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """Return the k documents nearest to each query; the score of a hit is the cosine."""

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows."""

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those that are there.

        A `Searcher` asks before each search: answer from what is known.
        """


@dataclass(frozen=True)
class StoreInfo:
    """A summary of a collection.

    Attributes:
        path: Its URI.
        kind: What searches it, such as "milvus FLAT".
        count: Documents.
        dimension: D, of the vectors.
        encoder_name: Who made the vectors, for people.
        encoder_fingerprint: Who made the vectors.
        encoder_path: Where the encoder's folder was then; None when it had none.
        complete: Whether the load that made it came to its end.
        config: The settings it was made with.
    """

    path: str
    kind: str
    count: int
    dimension: int
    encoder_name: str
    encoder_fingerprint: str
    encoder_path: str | None
    complete: bool
    config: IndexConfig


class Store(ABC):
    """A collection of documents in a vector store: what is the same for every engine.

    An engine is a class in a module of its own, which `relsdk.index.opening` names. It connects, and has the
    methods with an underscore. They raise `StoreError` when the store does not answer or refuses. Levels come
    from the exact cosines of the vectors that a store returns, never from its own scores.

    Args:
        uri: Where the collection is.
    """

    def __init__(self, uri: StoreUri) -> None:
        self.uri = uri
        self._noted: StoreInfo | None = None
        self._fault = ""  # why it does not answer any more

    @classmethod
    @abstractmethod
    def connect(cls: type[Opened], uri: StoreUri) -> Opened:
        """Connect; the collection need not be there.

        Raises:
            MissingExtraError: The engine's client is not installed.
            StoreError: The store cannot be reached.
        """

    @abstractmethod
    def describe(self, *, counts: bool = True) -> StoreInfo | None:
        """Return what the collection is and holds now; None where there is none.

        Args:
            counts: Whether to count the documents, which a server may do one by one; else there are none.

        Raises:
            IndexFolderError: It is no collection of relsdk's.
        """

    def check(self, dimension: int, config: IndexConfig) -> None:
        """Refuse what the engine does not have; nothing is changed.

        Raises:
            InputError: The engine does not have what the settings ask for.
        """
        check_whole_number("the encoder's dimension", dimension, 1)

    @abstractmethod
    def create(self, encoder: MadeBy, dimension: int, config: IndexConfig) -> None:
        """Make the collection, which is not there, and note that its load is not complete.

        Raises:
            InputError: The engine does not have what the settings ask for.
        """

    @abstractmethod
    def drop(self) -> None:
        """Remove the collection, which is relsdk's."""

    @abstractmethod
    def finish(self) -> None:
        """After a load: bring everything to the disk, index it, and note that the load is complete."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; more than once is fine."""

    @abstractmethod
    def _write(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> None:
        """Write documents (n, all of different ids) and vectors (n, D) in place of what has their ids."""

    @abstractmethod
    def _remove_ids(self, ids: Sequence[str]) -> int:
        """Delete documents of different ids; return how many of them were there."""

    @abstractmethod
    def _remove_where(self, condition: Filter) -> int:
        """Delete documents that a filter allows; return how many."""

    @abstractmethod
    def _nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        condition: Filter | None,
        ef_search: int | None,
        exact: bool,
    ) -> list[list[tuple[Document, NDArray[np.float32]]]]:
        """Return the k documents nearest to each query (Q, D), and their vectors (D,), in any order."""

    @abstractmethod
    def _count(self, condition: Filter | None) -> int:
        """Return how many documents a filter allows; None allows all."""

    @abstractmethod
    def _read(self, ids: Sequence[str]) -> list[Document]:
        """Return those documents of different ids that are there, in any order."""

    def open(self) -> None:
        """Take notice of the collection, as it is now; the methods below need it.

        Raises:
            IndexFolderError: There is none, its load is not complete, or it is not relsdk's. What was open
                then answers no more.
        """
        try:
            info = self.describe(counts=False)
            if info is None:
                raise IndexFolderError(
                    f"{self.uri} is not there; make it with: relsdk index build {self.uri} "
                    "--model BUNDLE --input FILE"
                )
            if not info.complete:
                raise IndexFolderError(
                    f"the load of {self.uri} goes on, or was interrupted; run the same relsdk index build "
                    "again to go on with it"
                )
        except IndexFolderError as error:
            self._noted, self._fault = None, str(error)
            raise
        self.note(info)

    def note(self, info: StoreInfo) -> None:
        """Go on with what `describe` returned, also while the load is not complete."""
        self._noted = info

    def info(self) -> StoreInfo:
        """Return what the collection holds now."""
        info = self.describe()
        if info is None:
            raise IndexFolderError(
                f"{self.uri} is gone; make it with: relsdk index build {self.uri} --model BUNDLE --input FILE"
            )
        return info

    @property
    def dimension(self) -> int:
        """D."""
        return self._opened().dimension

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse an encoder whose vectors cannot be compared with those of the collection.

        Raises:
            EncoderMismatchError: Another fingerprint or dimension.
            InputError: It is no encoder.
        """
        check_encoder_parts(encoder)
        info = self._opened()
        if (encoder.fingerprint, encoder.dimension) != (info.encoder_fingerprint, info.dimension):
            raise EncoderMismatchError(
                f"{self.uri} was built by {info.encoder_name} (fingerprint {info.encoder_fingerprint}, "
                f"{info.dimension} dimensions), not by {encoder.name} (fingerprint {encoder.fingerprint}, "
                f"{encoder.dimension} dimensions); use the model that built it, or build it again with this "
                "one"
            )

    def add(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None = None,
        *,
        vectors: NDArray[Any] | None = None,
        chunk_size: int = 1024,
        on_progress: Progress | None = None,
    ) -> int:
        """Write documents whose ids are not in the store, chunk by chunk; see `upsert`.

        Raises:
            InputError: See `upsert`; or an id is in the store already, or occurs again: the chunks before
                were written.
        """
        return self._load(documents, encoder, vectors, chunk_size, on_progress, replaces=False)

    def upsert(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None = None,
        *,
        vectors: NDArray[Any] | None = None,
        chunk_size: int = 1024,
        on_progress: Progress | None = None,
    ) -> int:
        """Write documents, in place of those that have their ids, chunk by chunk.

        Of documents with the same id the last counts. Where it is interrupted, what was written stays; doing
        it again does no harm.

        Args:
            documents: See `Index.build`.
            encoder: Makes the vectors: the one that built the collection. Not needed where vectors are given.
            vectors: (n, D) unit vectors of that encoder, in the order of the documents.
            chunk_size: Documents for each call of the encoder and of the store.
            on_progress: Called with ("encode", documents read).

        Returns:
            How many were written.

        Raises:
            InputError: A document, vector or argument is wrong.
            EncoderMismatchError: Another encoder than the collection was built with.
            StoreError: The store did not answer, or refused.
        """
        return self._load(documents, encoder, vectors, chunk_size, on_progress, replaces=True)

    def delete(self, ids: Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None) -> int:
        """Delete documents, by id or by a filter; see `Index.delete`.

        Raises:
            InputError: Neither or both are given, or one is wrong.
            StoreError: The store did not answer, or refused.
        """
        self._opened()
        if (ids is None) == (where is None):
            raise InputError("give either ids or where: which documents to delete")
        if ids is not None:
            wanted = list(dict.fromkeys(check_ids(ids)))
            return self._remove_ids(wanted) if wanted else 0
        condition = _parsed(where)
        if condition is None:
            raise InputError(
                "where is empty, which allows every document; nothing was deleted: name a condition"
            )
        return self._remove_where(condition)

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many documents a filter allows; None allows all.

        Raises:
            InputError: The filter is wrong, or the engine cannot answer it.
            StoreError: The store did not answer, or refused.
        """
        self._opened()
        return self._count(_parsed(where))

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Return documents by id, in the order of `ids`.

        Raises:
            InputError: An id is not in the store, or `ids` is one string.
            StoreError: The store did not answer, or refused.
        """
        self._opened()
        wanted = check_ids(ids)
        known = {document.id: document for document in self._read(list(dict.fromkeys(wanted)))}
        missing = [identifier for identifier in wanted if identifier not in known]
        if missing:
            raise InputError(
                f"{len(missing):,} of {len(wanted):,} ids are not in {self.uri}: "
                f"{', '.join(repr(identifier[:200]) for identifier in missing[:5])}"
            )
        return [known[identifier] for identifier in wanted]

    @overload
    def search(
        self,
        vectors: Vector | Sequence[float],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        vectors: Matrix | Sequence[Vector] | Sequence[Sequence[float]],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]: ...
    def search(
        self,
        vectors: NDArray[Any] | Sequence[Any],
        k: int = 10,
        *,
        ef_search: int | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the documents nearest to query vectors; see `Index.search`.

        Scores are computed here, from the vectors that the store returns. Hits of equal scores are in the
        order of their ids.

        Raises:
            InputError: An argument is wrong, or the engine cannot answer the filter.
            IndexFolderError: A vector in the store has not length 1.
            StoreError: The store did not answer, or refused.
        """
        k = check_whole_number("k", k, 1)
        if ef_search is not None:
            ef_search = check_whole_number("ef_search", ef_search, 1)
        queries = check_queries(vectors, self.dimension)
        matrix = np.atleast_2d(queries)  # (Q, D)
        found = self._nearest(matrix, k, _parsed(where), ef_search, exact) if len(matrix) else []
        hits = [self._hits(query, some, k) for query, some in zip(matrix, found, strict=True)]
        return hits[0] if queries.ndim == 1 else hits

    def _hits(
        self, query: NDArray[np.float32], found: Sequence[tuple[Document, NDArray[np.float32]]], k: int
    ) -> list[Hit]:
        if not found:
            return []
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            cosines = np.stack([vector for _, vector in found]) @ query  # (K,)
        if not np.abs(cosines).max() <= _HIGHEST_COSINE:
            raise IndexFolderError(
                f"{self.uri} holds vectors that have not length 1; build it again with --overwrite"
            )
        hits = [Hit(document, float(score)) for (document, _), score in zip(found, cosines, strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.document.id))[:k]

    def _load(
        self,
        documents: Iterable[Document | Mapping[str, Any]],
        encoder: Encoder | None,
        vectors: NDArray[Any] | None,
        chunk_size: int,
        on_progress: Progress | None,
        *,
        replaces: bool,
    ) -> int:
        """Check, encode and write documents, chunk by chunk."""
        if encoder is not None:
            self.check_encoder(encoder)
        elif vectors is None:
            raise InputError("give the encoder that built the collection, or the documents' vectors")
        check_whole_number("chunk_size", chunk_size, 1)
        given = None if vectors is None else check_given_vectors(vectors, self.dimension)
        source = Source(documents, encoder, given, self.dimension, "last", chunk_size, on_progress)
        known = None if replaces else KnownIds(str(self.uri), self._read)
        return sum(self._written(chosen, rows) for chosen, rows in encoded_chunks(source, known))

    def _written(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> int:
        self._write(documents, vectors)
        return len(documents)

    def _opened(self) -> StoreInfo:
        noted = self._noted  # another thread may look again
        if noted is None and self._fault:
            raise IndexFolderError(self._fault)
        if noted is None:
            raise InputError(f"{self.uri} is not open; open it with relsdk.index.opening.open_index")
        return noted

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (type(self), self.uri)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.uri)!r})"


def _open_again(kind: type[Opened], uri: StoreUri) -> Opened:
    """Connect in another process."""
    store = kind.connect(uri)
    store.open()
    return store


def _parsed(where: Mapping[str, Any] | None) -> Filter | None:
    """Return the tree of a filter; None where it allows everything."""
    return None if where is None or where == {} else parse_filter(where)
