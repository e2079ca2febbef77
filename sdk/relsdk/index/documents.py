"""The documents of one generation, in SQLite: written once, then only read."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError, InputError, RelsdkError
from relsdk.files.folders import FileStamp
from relsdk.index.database import SCHEMA, Connection, open_database
from relsdk.index.filter_sql import Condition
from relsdk.index.storage import writing
from relsdk.records import Document

__all__ = ["DOCUMENTS_FILE", "DocumentReader", "DocumentWriter"]

DOCUMENTS_FILE = "documents.sqlite"
_IS_TEXT = " AND ".join(f"typeof({name}) = 'text'" for name in ("id", "metadata", "title", "text"))
_IS_OBJECT = "CASE WHEN json_valid(metadata) THEN json_type(metadata) = 'object' ELSE 0 END"
_COLUMNS = "row, id, title, text, metadata"
# Rows and ids are parameters of their own, twice as fast as a JSON list of them, in which SQLite would cut an
# id at a NUL; every SQLite allows 999 in one statement.
_MAX_PARAMETERS = 500
# How long a thread waits for a connection when no new one can be opened, and how often it looks.
_PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.001

# Of documents read lately, twice so many characters are kept at most: 32 MB of Chinese, 16 MB of Latin.
_KEPT_CHARACTERS = 8_000_000
_ROW_CHARACTERS = 400  # what a row's objects take beside their characters

# A deque's append and pop need no lock, which a fork could copy while it is held.
Connections = deque[Connection]
_Fields = tuple[int, str, str, str, str]  # of _COLUMNS
_REMEDY = "check it with: relsdk index verify, or build it again"


class DocumentWriter:
    """Writes a new database; nothing is durable before the caller flushes the closed file.

    Raises:
        RelsdkError: From every method, when the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._connection = sqlite3.connect(path)
            try:
                # A crash loses the whole generation anyway: no journal is needed.
                self._connection.execute("PRAGMA journal_mode = OFF")
                self._connection.execute("PRAGMA synchronous = OFF")
                self._connection.execute(SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._connection.close()

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the rows of those ids that are there."""
        found: dict[str, int] = {}
        with writing(self._path):
            for some in _portions(ids):
                sql = f"SELECT id, row FROM documents WHERE id IN ({_marks(some)})"
                found.update(self._connection.execute(sql, some))
        return found

    def put(self, rows: Sequence[int], documents: Sequence[Document], metadata: Sequence[str]) -> None:
        """Write documents to rows, replacing what is there.

        Args:
            rows: Where.
            documents: What.
            metadata: Their metadata as JSON (`metadata_json`).

        Raises:
            InputError: SQLite cannot read some metadata.
        """
        values = [
            (row, one.id, text, one.title, one.text)
            for row, one, text in zip(rows, documents, metadata, strict=True)
        ]
        sql = "INSERT OR REPLACE INTO documents (row, id, metadata, title, text) VALUES (?, ?, ?, ?, ?)"
        try:
            with writing(self._path), self._connection:
                self._connection.executemany(sql, values)
        except RelsdkError as error:
            if not isinstance(error.__cause__, sqlite3.IntegrityError):
                raise
            raise InputError(
                f"the metadata of a document from {documents[0].id!r} to {documents[-1].id!r} are nested too "
                f"deeply; flatten them"
            ) from error


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Return metadata as JSON text.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        if not all(isinstance(name, str) for name in metadata):
            raise TypeError("a name is not text")
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        text.encode()
        return text
    except RecursionError:
        raise InputError("its metadata are nested too deeply; flatten them") from None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"its metadata cannot be written as JSON ({error}); allowed are text, finite numbers, true, "
            f"false, null, lists and dictionaries with text as keys"
        ) from None


class DocumentReader:
    """Reads a database that nobody changes, from any thread and after a fork.

    Every call borrows a connection of its own process. When the file has been deleted meanwhile (the index
    was built again), the connections of the process that opened it still work and are shared.

    The fields of rows read lately are kept in bounded memory (`Recent`): popular documents cost no statement.

    Raises:
        IndexFolderError: From every method, when the database is missing, damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        self._stamp = FileStamp.of(path)
        self._path = self._stamp.path
        self._owner = os.getpid()
        self._closed = False
        self._recent = Recent(_KEPT_CHARACTERS)
        self._idle: dict[int, Connections] = {self._owner: deque([self._connect()])}

    def __len__(self) -> int:
        """Return one more than the highest row: rows are dense, which `verify` checks."""
        with self._borrow() as connection:
            (highest,) = connection.execute("SELECT max(row) FROM documents").fetchone()
        return 0 if highest is None else int(highest) + 1

    def fetch(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return the documents of rows, by row, with one statement for 500 that were not read lately."""
        found = [fields for fields in map(self._recent.get, rows) if fields is not None]
        if len(found) < len(rows):
            known = {fields[0] for fields in found}
            read = self._select("row", [row for row in rows if row not in known])
            self._recent.keep(read)
            found += read
            self._check_complete(rows, found)
        documents = self._documents(found)
        return {fields[0]: document for fields, document in zip(found, documents, strict=True)}

    def read(self, rows: Sequence[int]) -> list[Document]:
        """Return the documents of rising rows, in their order; none is kept: for those who read many."""
        found = sorted(self._select("row", rows))
        self._check_complete(rows, found)
        return self._documents(found)

    def near(self, identifier: str, count: int) -> list[str]:
        """Return ids around one that is not there, and around its beginnings, in the order of characters."""
        if not _is_unicode(identifier):
            return []
        before = "SELECT id FROM documents WHERE id < ? ORDER BY id DESC LIMIT ?"
        after = "SELECT id FROM documents WHERE id >= ? ORDER BY id LIMIT ?"
        starts = [identifier[: len(identifier) - cut] for cut in range(min(4, len(identifier)) + 1)]
        found = [row for one in starts for sql in (before, after) for row in self.select(sql, (one, count))]
        return sorted({name for (name,) in found if isinstance(name, str)})

    def by_id(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return those documents that are there, by id, with one statement for 500."""
        possible = [identifier for identifier in ids if _is_unicode(identifier)]
        return {document.id: document for document in self._documents(self._select("id", possible))}

    def matching(self, condition: Condition, count: int) -> NDArray[np.bool_]:
        """Return which of the `count` rows fulfil a condition, (count,) bool."""
        allowed = np.zeros(count, dtype=np.bool_)
        with self._borrow(condition.comparisons) as connection:
            cursor = connection.execute(
                f"SELECT row FROM documents WHERE {condition.sql}", condition.parameters
            )
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
            found = [text for (text,) in connection.execute("PRAGMA integrity_check(5)") if text != "ok"]
            sql = f"SELECT count(*), min(row), max(row), sum(NOT ({_IS_TEXT})) FROM documents"
            count, lowest, highest, other = connection.execute(sql).fetchone()
            sql = f"SELECT row FROM documents WHERE {_IS_TEXT} AND NOT ({_IS_OBJECT}) LIMIT 1"
            wrong = connection.execute(sql).fetchone()
        if count and (lowest, highest) != (0, count - 1):
            found.append(f"{count:,} rows are numbered from {lowest} to {highest}")
        if other:
            found.append(f"{other:,} documents have fields that are no text")
        if wrong:
            found.append(f"the metadata of document {wrong[0]:,}, and perhaps of more, are no JSON object")
        return found

    def close(self) -> None:
        """Close the connections that nobody uses now; the others close when they come back."""
        self._closed = True
        for idle in self._idle.values():
            for connection in list(idle):
                connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()

    def _select(self, key: str, values: Sequence[Any]) -> list[_Fields]:
        """Return the fields of the documents whose `key` is among the values, in any order."""
        found: list[_Fields] = []
        with self._borrow() as connection:
            for some in _portions(values):
                sql = f"SELECT {_COLUMNS} FROM documents WHERE {key} IN ({_marks(some)})"
                found += connection.execute(sql, some).fetchall()
        for fields in found:
            if not all([type(field) is str for field in fields[1:]]):
                raise IndexFolderError(f"{self._path} is damaged: row {fields[0]} holds no text; {_REMEDY}")
        return found

    def _documents(self, rows: Sequence[_Fields]) -> list[Document]:
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

    def _check_complete(self, rows: Sequence[int], found: Sequence[_Fields]) -> None:
        if len(found) < len(rows):
            missing = min(set(rows).difference(fields[0] for fields in found))
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


class Recent:
    """Fields of rows, of which the latest are kept: two dictionaries that take turns.

    Rows go into the young one; when that is full it becomes the old one, and what was the old one is
    forgotten. A row found in the old one goes into the young one again. No step needs a lock, which a fork
    could copy while it is held: threads that meet lose an entry or miscount one at worst.

    Args:
        characters: The young one is full when it holds more than so many.
    """

    def __init__(self, characters: int) -> None:
        self._full = characters
        self._characters = 0
        self._young: dict[int, _Fields] = {}
        self._old: dict[int, _Fields] = {}

    def get(self, row: int) -> _Fields | None:
        """Return the fields of a row, or None when it was not read lately."""
        fields = self._young.get(row)
        if fields is None:
            fields = self._old.get(row)
            if fields is not None:
                self.keep([fields])
        return fields

    def keep(self, rows: Sequence[_Fields]) -> None:
        """Keep the fields of rows."""
        for fields in rows:
            self._young[fields[0]] = fields
            self._characters += _ROW_CHARACTERS + sum(map(len, fields[1:]))
            if self._characters > self._full:
                self._old, self._young, self._characters = self._young, {}, 0


def _first_wrong(rows: Sequence[_Fields]) -> str:
    """Return the id of the first row whose metadata are no JSON object."""
    for _, identifier, _, _, metadata in rows:
        try:
            if type(json.loads(metadata)) is dict:
                continue
        except (ValueError, RecursionError):
            pass
        return identifier
    return rows[0][1]  # they are one only when put together


def _portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _is_unicode(text: str) -> bool:
    """Whether it is without halves of surrogate pairs, which no document has and SQLite does not take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
