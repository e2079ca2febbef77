"""Documents in Milvus: on a server, or in a file of milvus-lite.

Shape letters: n documents of one call, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError, MissingExtraError, StoreError
from relsdk.index.base import IndexConfig
from relsdk.index.filter_parser import Filter
from relsdk.index.store import MadeBy, Store, StoreInfo
from relsdk.index.store_uri import StoreUri
from relsdk.records import Document
from relsdk_scale._milvus_filter import ALL, filter_expression, id_expression

try:
    from relsdk_scale._milvus_client import Connection, check_file
    from relsdk_scale._milvus_collection import (
        DOCUMENT_FIELDS,
        TOKEN_FIELDS,
        Note,
        document_of,
        index_of,
        index_parameters,
        new_schema,
        row_batches,
        search_settings,
    )
    from relsdk_scale._milvus_nearest import NearestIds
    from relsdk_scale._milvus_rows import Rows
except ImportError as error:
    raise MissingExtraError("a store in Milvus", "milvus") from error

__all__ = ["MilvusStore"]

_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,254}")
_MAX_HITS = 16_384  # of one query
_HITS_A_CALL = 2_000  # of all queries, with their documents and vectors
_IDS_A_CALL = 1_000
_PAGE_BYTES = 8 * 2**20
_MAX_SCANNED = 1_000_000  # documents whose vectors an exact search of a graph reads
_POLL_SECONDS = 0.2
Nearest = list[tuple[Document, NDArray[np.float32]]]


class MilvusStore(Store):
    """A collection in Milvus 2.3 or newer, by inner product, read with strong consistency.

    Filters become conditions on fields that are made for them (`document_tokens`), so that they mean what
    they mean for an `Index` on every version of Milvus.

    Args:
        uri: Where.
        rows: Of the collection; None where the file of milvus-lite is not there yet.
    """

    def __init__(self, uri: StoreUri, rows: Rows | None) -> None:
        super().__init__(uri)
        self._rows = rows
        self._note: Note | None = None

    @classmethod
    def connect(cls, uri: StoreUri) -> MilvusStore:
        """Connect; the collection need not be there; see `Store.connect`.

        Raises:
            InputError: The name is none that Milvus allows.
            LockedError: Another process has the file of milvus-lite.
            IndexFolderError: There is something else than milvus-lite's folder.
        """
        if not _NAME.fullmatch(uri.collection):
            raise InputError(
                f"{uri.collection!r:.300} cannot be a collection in Milvus; a name has letters, digits and "
                "underscores, begins with no digit, and has at most 255 characters"
            )
        if uri.is_local:
            check_file(uri)
            if not Path(uri.address).is_dir():
                return cls(uri, None)
        return cls(uri, Rows(Connection(uri), uri.collection))

    def describe(self, *, counts: bool = True) -> StoreInfo | None:
        """Return what the collection is and holds now; see `Store.describe`."""
        note = self._read_note()
        if note is None:
            return None
        self._note = note
        kind, _ = index_of(note.config, is_lite=self.uri.is_local)
        count = 0
        if counts:
            count = self._count(None) if note.complete else self._rows_written()
        return StoreInfo(
            path=str(self.uri),
            kind=f"milvus {kind}",
            count=count,
            dimension=note.dimension,
            encoder_name=note.encoder.name,
            encoder_fingerprint=note.encoder.fingerprint,
            encoder_path=note.encoder.path,
            complete=note.complete,
            config=note.config,
        )

    def check(self, dimension: int, config: IndexConfig) -> None:
        """Refuse what Milvus does not have; see `Store.check`."""
        super().check(dimension, config)
        index_of(config, is_lite=self.uri.is_local)
        new_schema(dimension)

    def create(self, encoder: MadeBy, dimension: int, config: IndexConfig) -> None:
        """Make the collection and the index of its vectors; see `Store.create`."""
        kind, settings = index_of(config, is_lite=self.uri.is_local)
        schema = new_schema(dimension)
        if self._rows is None:
            self._rows = Rows(Connection(self.uri), self.uri.collection)
        rows = self._rows
        note = Note(encoder, dimension, config, complete=False)
        rows.call(
            "create_collection", schema=schema, properties=note.properties(), consistency_level="Strong"
        )
        try:
            self._make_indexes(kind, settings)
        except BaseException:
            rows.call("drop_collection")
            raise
        self._note = note

    def drop(self) -> None:
        """Remove the collection; see `Store.drop`."""
        if self._read_note() is not None:
            rows = self._opened_rows()
            rows.call("drop_collection")
            self._rows = Rows(rows.connection, self.uri.collection)  # that has loaded nothing
        self._note = None

    def finish(self) -> None:
        """Seal what was written, wait for its index, load it, and note that the load is complete."""
        rows, note = self._opened_rows(), self._known()
        rows.call("flush", slow=True)
        self._wait_for_index()
        # milvus-lite goes on scanning row by row what was written after it was loaded. A server takes the
        # index by itself, and released it would answer nobody.
        rows.load(again=self.uri.is_local)
        done = replace(note, complete=True)
        rows.call("alter_collection_properties", properties=done.properties())
        self._note = done

    def close(self) -> None:
        """Close the connection; milvus-lite then gives its file to other processes."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()

    def _write(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> None:
        for batch in row_batches(documents, vectors):
            self._opened_rows().call("upsert", data=batch)

    def _remove_ids(self, ids: Sequence[str]) -> int:
        rows = self._opened_rows()
        removed = 0
        for some in _portions(ids):
            there = [row["id"] for row in rows.query(id_expression(some), ["id"])]
            if there:
                rows.call("delete", filter=id_expression(there))
            removed += len(there)
        return removed

    def _remove_where(self, condition: Filter) -> int:
        rows = self._opened_rows()
        pages = rows.pages(filter_expression(condition), ["id"], _MAX_HITS)
        ids = [row["id"] for page in pages for row in page]
        for some in _portions(ids):
            rows.call("delete", filter=id_expression(some))
        return len(ids)

    def _count(self, condition: Filter | None) -> int:
        return self._opened_rows().count("" if condition is None else filter_expression(condition))

    def _read(self, ids: Sequence[str]) -> list[Document]:
        rows = self._opened_rows()
        found = (rows.query(id_expression(some), DOCUMENT_FIELDS) for some in _portions(ids))
        return [document_of(row) for page in found for row in page]

    def _nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        condition: Filter | None,
        ef_search: int | None,
        exact: bool,
    ) -> list[Nearest]:
        if k > _MAX_HITS:
            raise InputError(f"k={k:,}; Milvus returns at most {_MAX_HITS:,} documents for a query")
        expression = "" if condition is None else filter_expression(condition)
        rows, config = self._opened_rows(), self._known().config
        if exact and config.kind != "flat":
            self._refuse_large(expression)
            return self._scan(queries, k, expression)
        settings = search_settings(config, k, ef_search)
        step = max(1, _HITS_A_CALL // k)
        hits: list[Nearest] = []
        for start in range(0, len(queries), step):
            some = list(queries[start : start + step])
            found = rows.search(some, k, expression, [*DOCUMENT_FIELDS, "vector"], settings)
            hits += [list(map(_hit, entities)) for entities in found]
        short = [number for number, near in enumerate(hits) if len(near) < k]
        if short and expression and config.kind != "flat":
            # A graph can miss documents that a filter leaves; where it leaves few, all are looked at.
            fewest = min(len(hits[number]) for number in short)
            if fewest < rows.count(expression) <= max(k, config.exact_rows):
                for number, near in zip(short, self._scan(queries[short], k, expression), strict=True):
                    hits[number] = near
        return hits

    def _scan(self, queries: NDArray[np.float32], k: int, expression: str) -> list[Nearest]:
        """Compare queries (Q, D) with every vector that a filter leaves."""
        rows = self._opened_rows()
        nearest = NearestIds(queries, k)
        size = min(max(1, _PAGE_BYTES // (4 * queries.shape[1])), _MAX_HITS)
        for page in rows.pages(expression or ALL, ["id", "vector"], size):
            nearest.add([row["id"] for row in page], np.array([row["vector"] for row in page], np.float32))
        fields = [*DOCUMENT_FIELDS, "vector"]
        return [
            [_hit(row) for some in _portions(ids) for row in rows.query(id_expression(some), fields)]
            for ids in nearest.ids
        ]

    def _refuse_large(self, expression: str) -> None:
        """Refuse to read more vectors than anybody would wait for."""
        rows = self._opened_rows()
        count = rows.count("")
        if count > _MAX_SCANNED and expression:
            count = rows.count(expression)
        if count > _MAX_SCANNED:
            raise InputError(
                f"{self.uri} has {count:,} documents to compare, in a graph; an exact search reads at most "
                f"{_MAX_SCANNED:,}: leave exact out, narrow the filter, or build with kind 'flat'"
            )

    def _opened_rows(self) -> Rows:
        if self._rows is None:
            raise StoreError(f"{self.uri} is closed; open it again")
        return self._rows

    def _known(self) -> Note:
        if self._note is None:
            raise StoreError(f"{self.uri} is not open")
        return self._note

    def _read_note(self) -> Note | None:
        if self._rows is None or not self._rows.call("has_collection"):
            return None
        return Note.of(self.uri, self._rows.call("describe_collection"))

    def _rows_written(self) -> int:
        """Return about how many documents a load that is not complete has written."""
        return int(self._opened_rows().call("get_collection_stats")["row_count"])

    def _make_indexes(self, kind: str, settings: dict[str, Any]) -> None:
        try:
            self._make_index("vector", kind, metric_type="IP", params=settings)
        except StoreError as error:
            raise InputError(f"{error}; this Milvus makes no {kind} of these settings") from error
        for field in () if self.uri.is_local else TOKEN_FIELDS:
            try:
                self._make_index(field, "INVERTED")
            except StoreError:  # before 2.4 there is none for arrays: filters are slower
                return

    def _make_index(self, field: str, kind: str, **settings: Any) -> None:
        self._opened_rows().call(
            "create_index", index_params=index_parameters(field, kind, **settings), slow=True
        )

    def _wait_for_index(self) -> None:
        """Wait until every row is indexed, and look at the type: some servers make another than asked for."""
        kind, _ = index_of(self._known().config, is_lite=self.uri.is_local)
        while True:
            state = self._opened_rows().call("describe_index", index_name="vector")
            if state.get("index_type") != kind:
                raise StoreError(f"{self.uri}: Milvus made {state.get('index_type')} in place of {kind}")
            if str(state.get("state")) == "Failed":
                raise StoreError(f"{self.uri}: Milvus could not index the vectors; its logs say why")
            if int(state.get("pending_index_rows") or 0) == 0:
                return
            time.sleep(_POLL_SECONDS)


def _hit(entity: Any) -> tuple[Document, NDArray[np.float32]]:
    return document_of(entity), np.asarray(entity["vector"], np.float32)


def _portions(ids: Sequence[str], size: int = _IDS_A_CALL) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
