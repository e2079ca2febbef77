"""The filters of one segment: answered by its columns, and by its documents where no column can.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from relsdk.index._columns import Columns, Facets
from relsdk.index._document_reader import DocumentReader
from relsdk.index._field_column import kind_of
from relsdk.index._filter_sql import KINDS, filter_condition, has_field, has_kind, kinds_query
from relsdk.index._filter_tree import Equals, Field, Filter
from relsdk.index._row_set import RowSet
from relsdk.records import Document

__all__ = ["RowFilter"]

# Answers of recent filters that are kept; each takes N bytes. Answers about fields take few.
_FILTERS_KEPT, _FIELDS_KEPT = 16, 1024
_NAMES_READ = 10_000
# Below this share of the rows, documents are read one by one, not all in a row.
_FEW = 8
_BLOCK = 4096
# Every key of every object that is not inside a list, with the path of that object.
_NAMES = f"""
SELECT DISTINCT node.path, node.key FROM documents, json_tree(documents.metadata) AS node
WHERE typeof(node.key) = 'text' AND instr(node.path, '[') = 0 LIMIT {_NAMES_READ}
"""


class RowFilter:
    """Finds the rows of a segment that a filter allows, and knows which fields they have.

    Latest answers are kept.

    Args:
        documents: Of the segment.
        columns: Of the segment; None where it has none.
        count: N.

    Raises:
        IndexFolderError: From every method, when a file is damaged.
    """

    def __init__(self, documents: DocumentReader, columns: Columns | None, count: int) -> None:
        self._documents = documents
        self._columns = columns
        self._count = count
        # Of the files, not of this object: no reference cycle keeps closed files open.
        self._kept = lru_cache(maxsize=_FILTERS_KEPT)(partial(_matching, documents, columns, count))
        self._has = lru_cache(maxsize=_FIELDS_KEPT)(partial(_has, documents, columns))

    def matching(self, parsed: Filter) -> RowSet:
        """Return the rows that a filter allows; `RowSet.scanned` tells whether documents were read for it."""
        return self._kept(_Question(parsed))

    def has(self, field: Field, kind: str | None = None) -> bool:
        """Tell whether a document has a field in its metadata, of a kind of `KINDS` if one is given."""
        return self._has(field, kind)

    def kinds(self, field: Field) -> set[str]:
        """Return what a field and the elements of its lists are: of `KINDS`, "null" and "object"."""
        kinds = None if self._columns is None else self._columns.kinds(field)
        if kinds is not None:
            return kinds
        query = kinds_query(field)
        types = {name for (name,) in self._documents.select(query.sql, query.parameters)}
        return {kind for kind, names in KINDS.items() if types & set(names)} | types & {"null", "object"}

    def names(self) -> set[str]:
        """Return the names of all fields, nested ones with dots."""
        names = None if self._columns is None else self._columns.names()
        if names is not None:
            return set(names)
        keys = self._documents.select(_NAMES)
        parents = ((path.removeprefix("$").removeprefix(".").replace('"', ""), key) for path, key in keys)
        return {f"{parent}.{key}" if parent else key for parent, key in parents}

    def facets(self, field: Field, allowed: RowSet) -> Facets:
        """Count the values of a field: of a list each element once; no value counts null or objects.

        Args:
            field: Which.
            allowed: The rows that count.

        Returns:
            How many of the rows have a value, by (kind of `KINDS`, value); sums over segments are right.
        """
        facets = None if self._columns is None else self._columns.facets(field, allowed)
        if facets is None:
            facets = {}
            for document in self._read(allowed):
                for key in _items(field.of(document)):
                    facets[key] = facets.get(key, 0) + 1
        return facets

    def _read(self, rows: RowSet) -> Iterator[Document]:
        for start in range(0, rows.count, _BLOCK):
            yield from self._documents.read(rows.rows[start : start + _BLOCK].tolist())


class _Question:
    """A filter as a key: unlike it, true and 1 are two."""

    __slots__ = ("_key", "parsed")

    def __init__(self, parsed: Filter) -> None:
        self.parsed = parsed
        self._key = repr(parsed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _matching(documents: DocumentReader, columns: Columns | None, count: int, question: _Question) -> RowSet:
    def scan(parsed: Filter, among: RowSet | None = None) -> RowSet:
        if isinstance(parsed, Equals) and parsed.field.column == "id":  # the database has an index of ids
            ids = [value for value in parsed.values if isinstance(value, str)]
            rows = np.array(sorted(documents.rows_of(ids).values()), dtype=np.int64)
            return RowSet.of_rows(rows[(rows >= 0) & (rows < count)], count)  # others: a damaged file
        few = among.rows if among is not None and among.count * _FEW <= count else None
        return RowSet(documents.matching(filter_condition(parsed), count, few), scanned=True)

    return scan(question.parsed) if columns is None else columns.matching(question.parsed, scan)


def _has(documents: DocumentReader, columns: Columns | None, field: Field, kind: str | None = None) -> bool:
    known = None
    if columns is not None:
        known = columns.has_field(field) if kind is None else columns.has_kind(field, kind)
    if known is None:
        known = documents.any(has_field(field) if kind is None else has_kind(field, kind))
    return known


def _items(value: Any) -> set[tuple[str, Any]]:
    """Return the texts, numbers and booleans of a field, with their kinds."""
    items = value if isinstance(value, list) else [value]
    return {(kind_of(item), item) for item in items if isinstance(item, str | int | float)}
