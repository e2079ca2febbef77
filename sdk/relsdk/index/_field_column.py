"""The column of one field: which rows have a value, from bitmaps and sorted values.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.index._column_values import ColumnValues
from relsdk.index._columns_file import Arrays, ColumnEntry
from relsdk.index._filter_tree import Value
from relsdk.index._row_set import RowSet

__all__ = ["FieldColumn", "Mask", "kind_of"]

Mask = NDArray[np.bool_]


class FieldColumn:
    """A field of the metadata.

    Args:
        arrays: The file.
        entry: The field in the directory.
        count: N.

    Attributes:
        keys: From the top of the metadata downwards.
        kinds: What occurs in it, in lists too: "text", "number", "boolean", "null", "object".
        left_out: Of "text" and "number", what occurs but has no column.
        values: "text" and "number", those that it has.

    Raises:
        IndexFolderError: From every method, when the file is damaged.
    """

    def __init__(self, arrays: Arrays, entry: ColumnEntry, count: int) -> None:
        self._file = arrays
        self._flags = entry.flags
        self._count = count
        self.keys = tuple(entry.keys)
        self.kinds: frozenset[str] = frozenset(entry.kinds)
        self.left_out: frozenset[str] = frozenset(entry.left_out)
        self.values = {
            kind: ColumnValues(arrays, values, count)
            for kind, values in (("text", entry.text), ("number", entry.number))
            if values is not None
        }
        for name in self._flags:
            self._flag_array(name)  # it is inside the file

    def flag(self, name: str) -> Mask:
        """Return which rows have a flag of `FLAGS`, (N,)."""
        entry = self._flags.get(name)  # type: ignore[call-overload]
        if entry is None or entry.form == "all":
            return np.full(self._count, entry is not None)
        content = self._flag_array(name)
        if entry.form == "bits":
            return np.unpackbits(content, count=self._count, bitorder="little").view(np.bool_)
        mask = np.zeros(self._count, dtype=np.bool_)
        try:
            mask[content] = True
        except IndexError as error:
            raise self._file.damage(f"a row is beyond {self._count:,}") from error
        return mask

    def present(self) -> Mask:
        """Return which rows have the field, null or not, (N,)."""
        mask = self.flag("exists")
        return mask | self.flag("null") if "null" in self._flags else mask

    def equal(self, wanted: Sequence[Value]) -> RowSet:
        """Return the rows where the field, or an element of its list, is one of the values."""
        flags = [_FLAG_OF[value] for value in wanted if value is None or isinstance(value, bool)]
        positions = [
            (values, position)
            for kind, values in self.values.items()
            for position in values.find(value for value in wanted if kind_of(value) == kind)
        ]
        if not flags and len(positions) < 2:
            for values, position in positions:
                return RowSet.of_rows(values.rows_of_one(position), self._count)
            return RowSet.of_rows(np.empty(0, dtype=np.int64), self._count)
        # A page of new memory costs more than what is written to it: the first flag serves as the mask.
        mask = self.flag(flags[0]) if flags else np.zeros(self._count, dtype=np.bool_)
        for name in flags[1:]:
            mask |= self.flag(name)
        for values, position in positions:
            values.mark(mask, position, position + 1)
        return RowSet(mask)

    def within(self, bounds: Sequence[tuple[str, Any]]) -> RowSet:
        """Return the rows where the field, or one element of its list, is within all bounds."""
        values = self.values.get(kind_of(bounds[0][1]))
        first, last = (0, 0) if values is None else values.within(bounds)
        if values is None or first == last:
            return RowSet.of_rows(np.empty(0, dtype=np.int64), self._count)
        if last - first == 1:
            return RowSet.of_rows(values.rows_of_one(first), self._count)
        mask = np.zeros(self._count, dtype=np.bool_)
        values.mark(mask, first, last)
        return RowSet(mask)

    def of_kind(self, kind: str) -> Mask:
        """Return which rows hold a text, number or boolean, (N,); what is left out, none."""
        if kind == "boolean":
            return self.flag("true") | self.flag("false")
        mask = np.zeros(self._count, dtype=np.bool_)
        if kind in self.values:
            self.values[kind].mark(mask, 0, len(self.values[kind]))
        return mask

    def answers(self, wanted: Iterable[Value]) -> bool:
        """Tell whether what the field is compared with is in the column."""
        return not self.left_out or not any(kind_of(value) in self.left_out for value in wanted)

    def _flag_array(self, name: str) -> NDArray[Any]:
        entry = self._flags[name]  # type: ignore[index]
        if entry.form == "bits":
            return self._file.get(entry.offset, -(-self._count // 8), "|u1")
        return self._file.get(entry.offset, entry.count if entry.form == "rows" else 0, "<u4")


_FLAG_OF = {None: "null_item", True: "true", False: "false"}


def kind_of(value: object) -> str:
    """Return the kind of a value of a filter: "text", "number", "boolean" or "null"."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    return "null" if value is None else "number"
