"""The reader of a generation's documents."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError, InputError
from relsdk.files.folders import FileStamp
from relsdk.index._database import Connection, open_database, placeholders, portions
from relsdk.index._filter_sql import Condition
from relsdk.index._row_cache import RowCache, RowFields
from relsdk.records import Document

__all__ = ["DocumentReader"]

_IS_TEXT = " AND ".join(f"typeof({name}) = 'text'" for name in ("id", "metadata", "title", "text"))
_IS_OBJECT = "CASE WHEN json_valid(metadata) THEN json_type(metadata) = 'object' ELSE 0 END"
_COLUMNS = "row, id, title, text, metadata"
# How long a thread waits for a connection when no new one can be opened, and how often it looks.
_PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.001

# Of documents read lately, twice so many characters are kept at most: 32 MB of Chinese, 16 MB of Latin.
_KEPT_CHARACTERS = 8_000_000
_BLOCK = 4096  # rows whose metadata are read at a time

# A deque's append and pop need no lock, which a fork could copy while it is held.
Connections = deque[Connection]
_REMEDY = "check it with: relsdk index verify, or build it again"


class DocumentReader:
    """Reads a database that nobody changes, from any thread and after a fork.

    Every call borrows a connection of its own process. When the file has been deleted meanwhile (the index
    was built again), the connections of the process that opened it still work and are shared.

    A `RowCache` keeps the fields of rows read lately: popular documents cost no statement.

    Raises:
        IndexFolderError: From every method, when the database is missing, damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        self._stamp = FileStamp.of(path)
        self._path = self._stamp.path
        self._owner = os.getpid()
        self._closed = False
        self._cache = RowCache(_KEPT_CHARACTERS)
        self._idle: dict[int, Connections] = {self._owner: deque([self._connect()])}

    def __len__(self) -> int:
        """Return one more than the highest row: rows are dense, which `verify` checks."""
        with self._borrow() as connection:
            (highest,) = connection.execute("SELECT max(row) FROM documents").fetchone()
        return 0 if highest is None else int(highest) + 1

    @property
    def holds(self) -> bool:
        """Whether the file is still the one that was opened: not where the index was restored or moved."""
        return self._stamp.holds

    def fetch(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return the documents of rows, by row, with one statement for 500 that were not read lately."""
        rows_fields = [fields for fields in map(self._cache.get, rows) if fields is not None]
        if len(rows_fields) < len(rows):
            known = {fields[0] for fields in rows_fields}
            read = self._select("row", [row for row in rows if row not in known])
            self._cache.keep(read)
            rows_fields += read
            self._check_complete(rows, rows_fields)
        documents = self._documents(rows_fields)
        return {fields[0]: document for fields, document in zip(rows_fields, documents, strict=True)}

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of those ids that are there, by id, with one statement for 500."""
        rows: dict[str, int] = {}
        with self._borrow() as connection:
            for some in portions([identifier for identifier in ids if _is_unicode(identifier)]):
                sql = f"SELECT id, row FROM documents WHERE id IN ({placeholders(some)})"
                rows.update(connection.execute(sql, some))
        return rows

    def fields(self, rows: Sequence[int]) -> list[RowFields]:
        """Return (row, id, title, text, metadata as JSON) of rising rows, in their order; none is kept."""
        fields = sorted(self._select("row", rows))
        self._check_complete(rows, fields)
        return fields

    def read(self, rows: Sequence[int]) -> list[Document]:
        """Return the documents of rising rows, in their order; none is kept: for those who read many."""
        return self._documents(self.fields(rows))

    def near(self, identifier: str, count: int) -> list[str]:
        """Return ids around one that is not there, and around its beginnings, in the order of characters."""
        if not _is_unicode(identifier):
            return []
        before = "SELECT id FROM documents WHERE id < ? ORDER BY id DESC LIMIT ?"
        after = "SELECT id FROM documents WHERE id >= ? ORDER BY id LIMIT ?"
        starts = [identifier[: len(identifier) - cut] for cut in range(min(4, len(identifier)) + 1)]
        names = [row for one in starts for sql in (before, after) for row in self.select(sql, (one, count))]
        return sorted({name for (name,) in names if isinstance(name, str)})

    def metadata(self) -> Iterator[list[str]]:
        """Yield the metadata of all documents as JSON, in the order of the rows, some at a time."""
        sql = "SELECT row, metadata FROM documents WHERE row BETWEEN ? AND ? ORDER BY row"
        for start in range(0, len(self), _BLOCK):
            rows = self.select(sql, (start, start + _BLOCK - 1))
            stop = min(start + _BLOCK, len(self))
            if [row for row, _ in rows] != [*range(start, stop)] or not all(
                type(one) is str for _, one in rows
            ):
                raise IndexFolderError(
                    f"{self._path} is damaged: a row from {start:,} is missing, or has no metadata; {_REMEDY}"
                )
            yield [text for _, text in rows]

    def matching(
        self, condition: Condition, count: int, among: NDArray[np.int64] | None = None
    ) -> NDArray[np.bool_]:
        """Return which of the `count` rows fulfil a condition, (count,) bool.

        Args:
            condition: What they must fulfil.
            count: How many rows there are.
            among: Only these are read, all others do not count; None reads all.
        """
        allowed = np.zeros(count, dtype=np.bool_)
        sql, parameters = f"SELECT row FROM documents WHERE {condition.sql}", condition.parameters
        if among is not None:
            parameters = (*parameters, json.dumps(among.tolist()))
            sql += f" AND row IN (SELECT value FROM json_each(?{len(parameters)}))"
        with self._borrow(condition.comparisons) as connection:
            cursor = connection.execute(sql, parameters)
            rows = np.fromiter((row for (row,) in islice(cursor, count + 1)), dtype=np.int64)
        if len(rows) > count or (len(rows) and not (rows.min() >= 0 and rows.max() < count)):
            raise IndexFolderError(
                f"{self._path} is damaged: it has other rows than 0 to {count - 1:,}; {_REMEDY}"
            )
        allowed[rows] = True
        return allowed

    def any(self, condition: Condition) -> bool:
        """Return whether a document fulfils a condition; the first that does ends the search."""
        return bool(
            self.select(f"SELECT 1 FROM documents WHERE {condition.sql} LIMIT 1", condition.parameters)
        )

    def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self._borrow() as connection:
            return connection.execute(sql, parameters).fetchall()

    def problems(self) -> list[str]:
        """Return what SQLite's own integrity check and the order of the rows show, empty when all is well."""
        with self._borrow() as connection:
            problems = [text for (text,) in connection.execute("PRAGMA integrity_check(5)") if text != "ok"]
            sql = f"SELECT count(*), min(row), max(row), sum(NOT ({_IS_TEXT})) FROM documents"
            count, lowest, highest, other = connection.execute(sql).fetchone()
            sql = f"SELECT row FROM documents WHERE {_IS_TEXT} AND NOT ({_IS_OBJECT}) LIMIT 1"
            wrong = connection.execute(sql).fetchone()
        if count and (lowest, highest) != (0, count - 1):
            problems.append(f"{count:,} rows are numbered from {lowest} to {highest}")
        if other:
            problems.append(f"{other:,} documents have fields that are no text")
        if wrong:
            problems.append(f"the metadata of document {wrong[0]:,}, and perhaps of more, are no JSON object")
        return problems

    def close(self) -> None:
        """Close the connections that nobody uses now; the others close when they come back."""
        self._closed = True
        for idle in self._idle.values():
            for connection in list(idle):
                connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()

    def _select(self, key: str, values: Sequence[Any]) -> list[RowFields]:
        """Return the fields of the documents whose `key` is among the values, in any order."""
        fields_of_rows: list[RowFields] = []
        with self._borrow() as connection:
            for some in portions(values):
                sql = f"SELECT {_COLUMNS} FROM documents WHERE {key} IN ({placeholders(some)})"
                fields_of_rows += connection.execute(sql, some).fetchall()
        for fields in fields_of_rows:
            if not all([type(field) is str for field in fields[1:]]):
                raise IndexFolderError(f"{self._path} is damaged: row {fields[0]} holds no text; {_REMEDY}")
        return fields_of_rows

    def _documents(self, rows: Sequence[RowFields]) -> list[Document]:
        """Make documents; all metadata are one call of the JSON parser, which costs half of one for each."""
        try:
            metadata = json.loads(f"[{','.join([fields[4] for fields in rows])}]")
            if len(metadata) != len(rows) or not all([type(content) is dict for content in metadata]):
                raise ValueError("they are no JSON object")
        except (ValueError, RecursionError) as error:
            place = f"{self._path} is damaged: the metadata of document {_first_wrong(rows)!r}"
            raise IndexFolderError(f"{place} are no JSON object; {_REMEDY}") from error
        return [
            Document(identifier, title, text, content)
            for (_, identifier, title, text, _), content in zip(rows, metadata, strict=True)
        ]

    def _check_complete(self, rows: Sequence[int], fields_of_rows: Sequence[RowFields]) -> None:
        if len(fields_of_rows) < len(rows):
            missing = min(set(rows).difference(fields[0] for fields in fields_of_rows))
            raise IndexFolderError(f"{self._path} is damaged: row {missing} is missing; {_REMEDY}")

    def _connect(self) -> Connection:
        try:
            connection = open_database(self._path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise IndexFolderError(
                    f"cannot open {self._path} ({error}); if the index was built again, open it again"
                ) from error
            raise IndexFolderError(f"{self._path} is damaged: {error}; {_REMEDY}") from error
        except (sqlite3.Error, OSError) as error:
            raise IndexFolderError(
                f"cannot open {self._path} ({error}); if the index was built again, open it again"
            ) from error
        if not self._stamp.holds:  # looked at after opening: what was opened is what was there
            connection.close()
            raise IndexFolderError(
                f"{self._path} is another file than the one that was opened; open the index again"
            )
        return connection

    @contextmanager
    def _borrow(self, comparisons: int = 1) -> Iterator[Connection]:
        idle = self._idle.setdefault(os.getpid(), deque())
        connection = self._take(idle)
        connection.allow(comparisons)
        try:
            yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if self._closed:
                raise InputError(f"the index of {self._path} was closed meanwhile; open it again") from error
            problem = "reading it does not end" if connection.gave_up else error
            raise IndexFolderError(f"{self._path} is damaged: {problem}; {_REMEDY}") from error
        finally:
            if self._closed:
                connection.close()
            else:
                idle.append(connection)

    def _take(self, idle: Connections) -> Connection:
        waited = 0.0
        while True:
            try:
                return idle.pop()
            except IndexError:
                pass
            try:
                return self._connect()
            except IndexFolderError:
                if os.getpid() != self._owner or waited >= _PATIENCE_SECONDS:
                    raise
            time.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS


def _first_wrong(rows: Sequence[RowFields]) -> str:
    """Return the id of the first row whose metadata are no JSON object."""
    for _, identifier, _, _, metadata in rows:
        try:
            if type(json.loads(metadata)) is dict:
                continue
        except (ValueError, RecursionError):
            pass
        return identifier
    return rows[0][1]  # they are one only when put together


def _is_unicode(text: str) -> bool:
    """Whether it is without halves of surrogate pairs, which no document has and SQLite does not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
