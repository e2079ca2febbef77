"""The store in Qdrant: of a server by its address, or in a folder by the client's own local mode.

Shape letters: n documents of one chunk, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError, InputError, MissingExtraError, StoreError
from relsdk.index.base import IndexConfig
from relsdk.index.filter_parser import Filter
from relsdk.index.store import MadeBy, Store, StoreInfo
from relsdk.index.store_uri import StoreUri
from relsdk.records import Document

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise MissingExtraError("a store in Qdrant", "qdrant") from error

from relsdk_scale._qdrant_client import check_folder, open_folder, open_server, told_as_ours
from relsdk_scale._qdrant_filter import TOKENS, qdrant_filter
from relsdk_scale._qdrant_payload import SHOWN, document_of, payload_of, point_id

__all__ = ["QdrantStore"]

Item = TypeVar("Item")

_KEY, _VERSION = "relsdk", 1  # of the collection's metadata
# A server takes 32 MiB a request; a character may take four bytes, a number of a vector these characters.
_REQUEST_CHARACTERS, _NUMBER_CHARACTERS = 8_000_000, 22
_POINTS, _QUERIES = 1024, 32
_OVERSAMPLING = 2.0  # candidates by 8-bit vectors for each that is asked for; they are scored again
_POLL = 0.5  # seconds


class QdrantStore(Store):
    """A collection in Qdrant; see `relsdk.index.opening`.

    A point has the UUID that is made of the document's id, the vector, and the document as payload. Vectors
    are compared by inner product. A folder is read into memory and searched exactly, by one process at a
    time; it is for tests and small collections.
    """

    def __init__(self, uri: StoreUri, client: QdrantClient | None) -> None:
        super().__init__(uri)
        self._client = client
        self._closed = False
        self._ef_search: int | None = None  # None leaves it to the server
        # The local mode is no database server: one thread at a time.
        self._lock = threading.RLock()

    @classmethod
    def connect(cls, uri: StoreUri) -> QdrantStore:
        """Connect; nothing is written, and a folder that is not there is not made.

        Raises:
            IndexFolderError: There is something else than a folder of Qdrant's.
            LockedError: Another process has the folder open.
        """
        if not uri.is_local:
            return cls(uri, open_server(uri))
        return cls(uri, open_folder(uri) if (Path(uri.address) / "meta.json").is_file() else None)

    def describe(self, *, counts: bool = True) -> StoreInfo | None:
        """Return what the collection is and holds now; None where there is none."""
        if self._client is None:
            return None
        with self._asking() as client:
            if not client.collection_exists(self.uri.collection):
                return None
            info = client.get_collection(self.uri.collection)
            count = client.count(self.uri.collection, exact=True).count if counts else 0
        noted = (info.config.metadata or {}).get(_KEY)
        try:
            return self._described(noted, int(count))
        except (KeyError, TypeError, InputError) as error:
            raise IndexFolderError(
                f"{self.uri} is a collection that this relsdk did not make; use another name, or remove it"
            ) from error

    def create(self, encoder: MadeBy, dimension: int, config: IndexConfig) -> None:
        """Make the collection, which is not there, and note that its load is not complete."""
        if self._client is None:
            check_folder(Path(self.uri.address))
            self._client = open_folder(self.uri)
        noted = {
            "version": _VERSION,
            "encoder_name": encoder.name,
            "encoder_fingerprint": encoder.fingerprint,
            "encoder_path": encoder.path,
            "dimension": dimension,
            "config": config.to_dict(),
            "complete": False,
        }
        with self._asking() as client:
            client.create_collection(
                self.uri.collection,
                vectors_config=models.VectorParams(size=dimension, distance=models.Distance.DOT),
                hnsw_config=models.HnswConfigDiff(
                    m=config.M if config.kind == "hnsw" else 0, ef_construct=max(4, config.ef_construction)
                ),
                quantization_config=_quantization(config),
                metadata={_KEY: noted},
            )
            if not client.get_collection(self.uri.collection).config.metadata:
                client.delete_collection(self.uri.collection)
                raise StoreError(f"{self.uri} keeps no notes on a collection; Qdrant 1.16 or newer is needed")
            if not self.uri.is_local:
                schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=True)
                client.create_payload_index(self.uri.collection, TOKENS, field_schema=schema, wait=True)

    def drop(self) -> None:
        """Remove the collection, which is relsdk's."""
        self._note_complete(False)  # what is interrupted here does not open
        with self._asking() as client:
            client.delete_collection(self.uri.collection)

    def finish(self) -> None:
        """After a load: wait until the server has indexed everything, and note that the load is complete."""
        calm = 1 if self.uri.is_local else 0
        while calm < 2:  # a server takes notice of what was written a moment later
            with self._asking() as client:
                status = client.get_collection(self.uri.collection).status
            if status == models.CollectionStatus.RED:
                raise StoreError(f"{self.uri}: Qdrant could not index it; its log says why")
            if status == models.CollectionStatus.GREY:  # it was started anew, and waits for a change
                with self._asking() as client:
                    client.update_collection(
                        self.uri.collection, optimizers_config=models.OptimizersConfigDiff()
                    )
            calm = calm + 1 if status == models.CollectionStatus.GREEN else 0
            if calm < 2:
                time.sleep(_POLL)
        self._note_complete(True)

    def close(self) -> None:
        """Close the connection; more than once is fine."""
        with self._lock:
            if self._client is not None and not self._closed:
                self._client.close()
            self._closed = True

    def _write(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> None:
        points = (
            models.PointStruct(id=point_id(one.id), vector=vector.tolist(), payload=payload_of(one))
            for one, vector in zip(documents, vectors, strict=True)
        )
        for some in _requests(points, vectors.shape[1]):
            with self._asking() as client:
                client.upsert(self.uri.collection, points=some, wait=True)

    def _remove_ids(self, ids: Sequence[str]) -> int:
        removed = 0
        for some in _portions([point_id(identifier) for identifier in ids], _POINTS):
            with self._asking() as client:
                there = client.retrieve(self.uri.collection, some, with_payload=False)
                client.delete(self.uri.collection, models.PointIdsList(points=list(some)), wait=True)
            removed += len(there)
        return removed

    def _remove_where(self, condition: Filter) -> int:
        chosen = qdrant_filter(condition)
        with self._asking() as client:
            count = client.count(self.uri.collection, count_filter=chosen, exact=True).count
            client.delete(self.uri.collection, models.FilterSelector(filter=chosen), wait=True)
        return int(count)

    def _nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        condition: Filter | None,
        ef_search: int | None,
        exact: bool,
    ) -> list[list[tuple[Document, NDArray[np.float32]]]]:
        requests = [
            models.QueryRequest(
                query=query.tolist(),
                filter=None if condition is None else qdrant_filter(condition),
                params=None if self.uri.is_local else self._params(ef_search, exact),
                limit=k,
                with_payload=SHOWN,
                with_vector=True,
            )
            for query in queries
        ]
        found = []
        for some in _portions(requests, _QUERIES):
            with self._asking() as client:
                answers = client.query_batch_points(self.uri.collection, requests=some)
            found += [[self._found(point) for point in answer.points] for answer in answers]
        return found

    def _count(self, condition: Filter | None) -> int:
        chosen = None if condition is None else qdrant_filter(condition)
        with self._asking() as client:
            return int(client.count(self.uri.collection, count_filter=chosen, exact=True).count)

    def _read(self, ids: Sequence[str]) -> list[Document]:
        found: list[Document] = []
        for some in _portions([point_id(identifier) for identifier in ids], _POINTS):
            with self._asking() as client:
                records = client.retrieve(self.uri.collection, some, with_payload=SHOWN)
            found += [self._document(record.id, record.payload) for record in records]
        return found

    def _params(self, ef_search: int | None, exact: bool) -> models.SearchParams:
        """Return how a server searches: what was quantised is scored again from the whole vectors."""
        quantised = models.QuantizationSearchParams(ignore=exact, rescore=True, oversampling=_OVERSAMPLING)
        ef = ef_search or self._ef_search
        return models.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantised)

    def _found(self, point: models.ScoredPoint) -> tuple[Document, NDArray[np.float32]]:
        return self._document(point.id, point.payload), np.array(point.vector, dtype=np.float32)

    def _document(self, found_id: object, payload: Mapping[str, Any] | None) -> Document:
        try:
            document = document_of(payload or {})
            known = point_id(document.id)
        except (KeyError, TypeError, ValueError, AttributeError):
            known = None
        if known != str(found_id):
            raise IndexFolderError(
                f"{self.uri} has the point {found_id}, which is no document of relsdk's: another program "
                "wrote to it; delete that point"
            )
        return document

    def _described(self, noted: Any, count: int) -> StoreInfo:
        """Return what the collection's own notes say.

        Raises:
            KeyError, TypeError, InputError: They are not of this version.
        """
        if noted["version"] != _VERSION:
            raise KeyError(noted["version"])
        config = IndexConfig.from_dict(noted["config"])
        self._ef_search = config.ef_search
        graph = f"{config.kind.upper()}{' INT8' if config.int8 else ''}"
        return StoreInfo(
            path=str(self.uri),
            kind="qdrant local, exact" if self.uri.is_local else f"qdrant {graph}",
            count=count,
            dimension=noted["dimension"],
            encoder_name=noted["encoder_name"],
            encoder_fingerprint=noted["encoder_fingerprint"],
            encoder_path=noted["encoder_path"],
            complete=noted["complete"],
            config=config,
        )

    def _note_complete(self, complete: bool) -> None:
        with self._asking() as client:
            noted = dict(client.get_collection(self.uri.collection).config.metadata or {})
            noted[_KEY] = {**noted[_KEY], "complete": complete}
            client.update_collection(self.uri.collection, metadata=noted)

    @contextmanager
    def _asking(self) -> Iterator[QdrantClient]:
        if self._client is None or self._closed:
            raise InputError(f"{self.uri} is closed; open it again")
        with self._lock if self.uri.is_local else nullcontext(), told_as_ours(self.uri):
            yield self._client


def _quantization(config: IndexConfig) -> models.ScalarQuantization | None:
    if not config.int8:
        return None
    scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    return models.ScalarQuantization(scalar=scalar)


def _requests(points: Iterator[models.PointStruct], dimension: int) -> Iterator[list[models.PointStruct]]:
    """Yield points, as many at a time as a request may hold."""
    some: list[models.PointStruct] = []
    size = 0
    for point in points:
        characters = dimension * _NUMBER_CHARACTERS + len(json.dumps(point.payload, ensure_ascii=False))
        if some and size + characters > _REQUEST_CHARACTERS:
            yield some
            some, size = [], 0
        some.append(point)
        size += characters
    if some:
        yield some


def _portions(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
