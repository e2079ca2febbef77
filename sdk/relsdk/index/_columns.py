"""Columns: the values of the fields of a segment's metadata, which answer filters without reading JSON.

For each field: its distinct texts and its distinct numbers, in order, with the rows of each, and bitmaps of
the rows that have it, and where it is null, true or false. A list gives one entry an element. A field of an
object has a column of its own.
Shape letters: N rows, A allowed rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import TypeAlias

import numpy as np

from relsdk.index._columns_file import Arrays, read_directory
from relsdk.index._field_column import FieldColumn, Mask
from relsdk.index._filter_tree import And, Equals, Exists, Field, Filter, Not, Or, Within
from relsdk.index._row_set import RowSet

__all__ = ["Columns", "Facets", "Scan"]

# Which rows fulfil a filter, by reading documents: all, or those of a set.
Scan: TypeAlias = "Callable[[Filter, RowSet | None], RowSet]"
# In how many rows a value is, by its kind and itself: 1, true and "1" are three.
Facets: TypeAlias = "dict[tuple[str, str | int | float | bool], int]"


class Columns:
    """The columns of one segment, open for reading from any thread.

    Raises:
        IndexFolderError: From every method, when the files are damaged.
    """

    def __init__(self, columns: list[FieldColumn], count: int, complete: bool) -> None:
        self._columns = {column.keys: column for column in columns}
        self._count = count
        self._complete = complete

    @classmethod
    def load(cls, folder: Path, count: int) -> Columns:
        """Map the files of a folder.

        Args:
            folder: Of the segment.
            count: N.

        Raises:
            IndexFolderError: One is missing, damaged, or of another number of rows.
        """
        directory, arrays = read_directory(folder, count), Arrays(folder)
        columns = [FieldColumn(arrays, entry, count) for entry in directory.columns]
        return cls(columns, count, directory.complete)

    def matching(self, parsed: Filter, scan: Scan) -> RowSet:
        """Return the rows that fulfil a filter.

        Args:
            parsed: The filter.
            scan: Called with the parts that no column answers, as few as possible.
        """
        if isinstance(parsed, Not):
            return ~self.matching(parsed.part, scan)
        if isinstance(parsed, And | Or):
            return self._combine(parsed, scan)
        found = self._leaf(parsed)
        return scan(parsed, None) if found is None else found

    def answers(self, parsed: Filter) -> bool:
        """Tell whether columns answer the whole filter."""
        if isinstance(parsed, And | Or):
            return all(map(self.answers, parsed.parts))
        return self.answers(parsed.part) if isinstance(parsed, Not) else self._columns_of(parsed) is not None

    def has_field(self, field: Field) -> bool | None:
        """Tell whether a row has a field in its metadata, null or not; None when the columns cannot."""
        columns = self._resolve(field)
        return None if columns is None else bool(columns)

    def has_kind(self, field: Field, kind: str) -> bool | None:
        """Tell whether a field, or an element of its list, is of a kind of `KINDS`; None likewise."""
        columns = self._resolve(field)
        if columns is None:
            return None
        found: bool | None = False
        for column, hidden in columns:
            if kind in column.kinds:
                if hidden is None or (column.of_kind(kind) & ~hidden).any():
                    return True
                found = None if kind in column.left_out else found
        return found

    def kinds(self, field: Field) -> set[str] | None:
        """Return what occurs in a field: "text", "number", "boolean", "null", "object"; None likewise."""
        columns = self._resolve(field)
        if columns is None:
            return None
        return {kind for column, _ in columns for kind in column.kinds}

    def names(self) -> list[str] | None:
        """Return the names of all fields, nested ones with dots, in order; None when some have no column."""
        return sorted(".".join(keys) for keys in self._columns) if self._complete else None

    def facets(self, field: Field, allowed: RowSet | None) -> Facets | None:
        """Count the values of a field: of a list each element once.

        Args:
            field: Of the metadata.
            allowed: The rows that count; None for all.

        Returns:
            How many rows have a value, by (kind, value), for those that some have; sums of segments are
            right. None when the field has values without a column.
        """
        columns = self._resolve(field)
        if columns is None or any(column.left_out for column, _ in columns):
            return None
        facets: Facets = {}
        for column, hidden in columns:
            mask = None if allowed is None else allowed.mask
            if hidden is not None:
                mask = ~hidden if mask is None else mask & ~hidden
            for kind, values in column.values.items():
                counts = values.counts(mask)
                positions = np.flatnonzero(counts)
                for value, number in zip(values.shown(positions), counts[positions].tolist(), strict=True):
                    facets[kind, value] = facets.get((kind, value), 0) + number
            for flag, name in ((True, "true"), (False, "false")):
                if "boolean" in column.kinds:
                    rows = column.flag(name)
                    number = int(np.count_nonzero(rows if mask is None else rows & mask))
                    if number:
                        facets["boolean", flag] = facets.get(("boolean", flag), 0) + number
        return facets

    def _combine(self, parsed: And | Or, scan: Scan) -> RowSet:
        """Put the answers of parts together; those without any answer are scanned for at once."""
        known = [part for part in parsed.parts if self._helps(part)]
        rest = tuple(part for part in parsed.parts if not self._helps(part))
        sets = [self.matching(part, scan) for part in known]
        sets.sort(key=lambda one: one.count)
        unknown = rest[0] if len(rest) == 1 else type(parsed)(rest)
        if not sets:
            # Without any parts it is always true.
            return scan(unknown, None) if rest else RowSet(np.ones(self._count, dtype=np.bool_))
        if isinstance(parsed, And):
            both = reduce(and_, sets)
            return both & scan(unknown, both) if rest and both.count else both
        return reduce(or_, [*sets, scan(unknown, None)] if rest else sets)

    def _helps(self, parsed: Filter) -> bool:
        """Whether columns answer at least a part of a filter."""
        if isinstance(parsed, And | Or):
            return not parsed.parts or any(map(self._helps, parsed.parts))
        return self._helps(parsed.part) if isinstance(parsed, Not) else self._columns_of(parsed) is not None

    def _leaf(self, leaf: Equals | Within | Exists) -> RowSet | None:
        columns = self._columns_of(leaf)
        if columns is None:
            return None
        if isinstance(leaf, Exists):
            return self._union([(column.flag("exists"), hidden) for column, hidden in columns])
        found = []
        for column, hidden in columns:
            one = column.equal(leaf.values) if isinstance(leaf, Equals) else column.within(leaf.bounds)
            found.append(one if hidden is None else RowSet(one.mask & ~hidden))
        if isinstance(leaf, Equals) and None in leaf.values:
            found.append(~self._union([(column.flag("exists"), hidden) for column, hidden in columns]))
        return reduce(or_, found, self._none())

    def _none(self) -> RowSet:
        return RowSet.of_rows(np.empty(0, dtype=np.int64), self._count)

    def _union(self, masks: list[tuple[Mask, Mask | None]]) -> RowSet:
        """Return the rows of masks, each without those where another column counts."""
        sets = (RowSet(mask if hidden is None else mask & ~hidden) for mask, hidden in masks)
        return reduce(or_, sets, self._none())

    def _columns_of(self, leaf: Equals | Within | Exists) -> list[tuple[FieldColumn, Mask | None]] | None:
        """Return the columns that answer a comparison, None when they cannot."""
        columns = self._resolve(leaf.field)
        if columns is None or isinstance(leaf, Exists):
            return columns
        values = leaf.values if isinstance(leaf, Equals) else [value for _, value in leaf.bounds]
        return columns if all(column.answers(values) for column, _ in columns) else None

    def _resolve(self, field: Field) -> list[tuple[FieldColumn, Mask | None]] | None:
        """Return the columns of a field, each with the rows where an earlier one counts; None if unknown.

        A name with dots may be two columns: of the key of that name, and of the field of an object.
        """
        if field.column is not None or not all(
            self._complete or keys in self._columns for keys in field.paths
        ):
            return None
        columns: list[tuple[FieldColumn, Mask | None]] = []
        hidden: Mask | None = None
        for keys in field.paths:
            column = self._columns.get(keys)
            if column is not None:
                columns.append((column, hidden))
                if keys != field.paths[-1]:
                    hidden = column.present() if hidden is None else hidden | column.present()
        return columns
