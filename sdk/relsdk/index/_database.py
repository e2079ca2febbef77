"""A connection to a database that somebody else may have written: only our table is in it, work is bounded.

An SQLite file holds statements: views, triggers, virtual tables and defaults that run when it is read. So
nothing is asked of a file before its schema is ours, letter by letter, and SQLite counts its own steps: a
damaged tree of pages may lead it in circles.
Source: https://www.sqlite.org/security.html
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from relsdk.index.filter_parser import MAX_CHARACTERS, MAX_VALUES

__all__ = ["DOCUMENTS_FILE", "SCHEMA", "Connection", "open_database", "placeholders", "portions"]

DOCUMENTS_FILE = "documents.sqlite"
# Rows and ids are parameters of their own, twice as fast as a JSON list of them, in which SQLite would cut an
# id at a NUL; every SQLite allows 999 in one statement.
_MAX_PARAMETERS = 500

# metadata stands before the text: a filter need not read past a long text to reach it.
SCHEMA = """
CREATE TABLE documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL CHECK (json_valid(metadata)),
    title TEXT NOT NULL,
    text TEXT NOT NULL
)
"""
_ENTRIES = [
    ("index", "sqlite_autoindex_documents_1", "documents", None),  # of UNIQUE
    ("table", "documents", "documents", SCHEMA.strip()),
]
# The file is mapped into memory: a page need not be read again for each connection.
_MAPPED_BYTES = 2**31 - 65536  # the most that SQLite allows; what lies beyond is read
# SQLite's steps between two looks, and how many are allowed: to look at the schema, and for anything else in
# proportion to the file and to the comparisons of a filter, each of which looks at every element of a list.
_STEPS = 1_000_000
_STEPS_AT_ALL = 20_000_000
_STEPS_PER_BYTE, _STEPS_PER_COMPARISON = 200, 40
# The values of a filter in JSON: each at most 32 bytes of a number, or its characters, at most 6 bytes each.
_FILTER_BYTES = 32 * MAX_VALUES + 6 * MAX_CHARACTERS


class Connection(sqlite3.Connection):
    """A connection that gives up work without end; `allow` must be called before each use."""

    _left: list[int]  # not in the callback's `self`: no reference cycle keeps files open
    _size: int

    def bound(self, size: int) -> None:
        """Bound every use by the size of the file, in bytes."""
        self._size = size
        left = self._left = [1]

        def give_up() -> bool:
            left[0] -= 1
            return left[0] < 0

        self.set_progress_handler(give_up, _STEPS)

    def allow(self, comparisons: int) -> None:
        """Allow the work of one use, which compares each document so many times."""
        per_byte = _STEPS_PER_BYTE + _STEPS_PER_COMPARISON * comparisons
        self._left[0] = (_STEPS_AT_ALL + per_byte * self._size) // _STEPS

    @property
    def gave_up(self) -> bool:
        """Whether the work of this use took too long."""
        return self._left[0] < 0


def open_database(path: Path) -> Connection:
    """Open a database of documents for reading; no lock is taken and no file is written.

    Raises:
        sqlite3.Error: SQLite cannot read it, or it holds something else than our table.
        OSError: It is not there.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise sqlite3.DatabaseError("it is not a regular file")
    size = status.st_size
    # immutable: no locks and no side files, so a read-only disk will do.
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, factory=Connection)
    try:
        connection.bound(size)
        if sys.version_info >= (3, 12):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        if sys.version_info >= (3, 11):  # no value is longer than the file, nor than what a filter may hold
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, _FILTER_BYTES))
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", f"mmap_size = {_MAPPED_BYTES}"):
            connection.execute(f"PRAGMA {pragma}")
        entries = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 9").fetchall()
        if sorted(entries, key=str) != _ENTRIES:
            raise sqlite3.DatabaseError(
                f"it holds {', '.join(f'{kind} {name!r}' for kind, name, *_ in entries) or 'nothing'}, not "
                f"the table of documents alone"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the values in portions that fit into one statement."""
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


def placeholders(values: Sequence[Any]) -> str:
    """Return one question mark for each value, for `IN (...)`."""
    return ",".join("?" * len(values))
