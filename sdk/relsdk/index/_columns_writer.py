"""The writer of columns: it collects the fields of the metadata, block by block, and writes them sorted.

Shape letters: N rows, V distinct values, E entries (a value in a row).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._column_builders import NumbersBuilder, TextsBuilder, put_flag
from relsdk.index._columns_file import (
    ARRAYS_FILE,
    DIRECTORY_FILE,
    FLAGS,
    MAGIC,
    ColumnEntry,
    Directory,
    padding,
)

__all__ = ["ColumnsWriter"]

# More fields, deeper ones, and those with names that no filter can have, get no column.
_MAX_COLUMNS, _MAX_DEPTH, _MAX_NAME = 256, 8, 1000
_BLOCK = 8192  # rows after which it is looked at what is too much


class ColumnsWriter:
    """Collects the metadata of all documents of a segment and writes its columns.

    In memory it holds 8 to 12 bytes for each value of a document, and the distinct texts of each field.
    """

    def __init__(self) -> None:
        self._columns: list[_Column] = []
        self._top: dict[str, _Column | None] = {}
        self._rows = 0
        self._complete = True

    @classmethod
    def of(cls, metadata: Iterable[Sequence[str]]) -> ColumnsWriter:
        """Collect the metadata of all documents; see `add`."""
        writer = cls()
        for texts in metadata:
            writer.add(texts)
        return writer

    def add(self, metadata: Sequence[str]) -> None:
        """Take the metadata of the next documents, each as the text of a JSON object.

        Raises:
            IndexFolderError: One is something else.
        """
        for text in metadata:
            self._add_object(_parse(text, self._rows), (), self._top)
            self._rows += 1
            if not self._rows % _BLOCK:
                self._end_block()

    def save(self, folder: Path) -> None:
        """Write the files into a folder.

        Raises:
            OSError: The file system refused.
        """
        with (folder / ARRAYS_FILE).open("xb") as stream:
            directory = self._write(stream.write)
        (folder / DIRECTORY_FILE).write_bytes(directory)

    def is_saved(self, folder: Path) -> bool:
        """Tell whether the files in a folder are those that `save` would write.

        Raises:
            OSError: One cannot be read.
        """
        same = True

        def compare(content: bytes) -> None:
            nonlocal same
            same = same and stream.read(len(content)) == content

        with (folder / ARRAYS_FILE).open("rb") as stream:
            directory = self._write(compare)
            same = same and not stream.read(1)
        return same and (folder / DIRECTORY_FILE).read_bytes() == directory

    def _write(self, write: Callable[[bytes], object]) -> bytes:
        """Write the arrays, those of one column at a time, and return the directory."""
        self._end_block()
        entries: list[ColumnEntry] = []
        write(MAGIC)
        offset = len(MAGIC)
        for column in self._columns:
            arrays: list[bytes] = []
            entries.append(column.entry(offset, arrays, self._rows))
            for content in arrays:
                write(content)
                offset += len(content)
        directory = asdict(Directory(1, self._rows, self._complete, entries))
        return json.dumps(directory, ensure_ascii=False).encode()

    def _end_block(self) -> None:
        for column in self._columns:
            column.leave_out(self._rows)

    def _add_object(
        self, content: dict[str, Any], above: tuple[str, ...], known: dict[str, _Column | None]
    ) -> None:
        row = self._rows
        for key, value in content.items():
            try:
                column = known[key]
            except KeyError:
                column = known[key] = self._new_column((*above, key))
            if column is None:
                continue
            if type(value) is dict:
                column.add_flag("exists", row)
                if value:
                    column.kinds.add("object")
                    self._add_object(value, column.keys, column.fields)
            else:
                column.add(value, row)

    def _new_column(self, keys: tuple[str, ...]) -> _Column | None:
        name = ".".join(keys)
        if not all(map(_can_be_asked, keys)) or len(name) > _MAX_NAME:
            return None
        if len(self._columns) == _MAX_COLUMNS or len(keys) > _MAX_DEPTH:
            self._complete = False
            return None
        column = _Column(keys)
        self._columns.append(column)
        return column


class _Column:
    """What was collected of one field."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.fields: dict[str, _Column | None] = {}
        self.kinds: set[str] = set()
        self.flags: dict[str, array[int]] = {name: array("I") for name in FLAGS}
        self.texts: TextsBuilder | None = None
        self.numbers: NumbersBuilder | None = None
        self.left_out: set[str] = set()

    def add(self, value: Any, row: int) -> None:
        """Add the value of a row, which is no object."""
        if value is None:
            self.add_flag("null", row)
            self.add_item(value, row)
            return
        self.flags["exists"].append(row)
        if type(value) is list:
            for item in value:
                self.add_item(item, row)
        else:
            self.add_item(value, row)

    def add_item(self, item: Any, row: int) -> None:
        """Add a value, or an element of a list."""
        kind = type(item)
        if kind is str:
            if self.texts is None:
                self.texts = TextsBuilder()
                self.kinds.add("text")
            self.texts.add(item, row)
        elif kind is int or kind is float:
            if self.numbers is None:
                self.numbers = NumbersBuilder()
                self.kinds.add("number")
            self.numbers.add(item, row)
        elif kind is bool:
            self.kinds.add("boolean")
            self.add_flag("true" if item else "false", row)
        elif item is None:
            self.kinds.add("null")
            self.add_flag("null_item", row)
        elif kind is dict:
            self.kinds.add("object")

    def add_flag(self, name: str, row: int) -> None:
        """Set a flag of a row; once for equal elements of a list."""
        rows = self.flags[name]
        if not rows or rows[-1] != row:
            rows.append(row)

    def leave_out(self, rows: int) -> None:
        """Give up what is too much for so many rows."""
        for kind, values in (("text", self.texts), ("number", self.numbers)):
            if values is not None and values.too_much(rows):
                self.left_out.add(kind)
                values.clear()

    def entry(self, offset: int, arrays: list[bytes], count: int) -> ColumnEntry:
        """Append the arrays to a list, and return the entry of the directory."""

        def put(content: NDArray[Any]) -> int:
            nonlocal offset
            start = offset
            arrays.append(content.tobytes() + bytes(padding(content.nbytes)))
            offset += len(arrays[-1])
            return start

        flags = {
            name: put_flag(np.frombuffer(rows, np.uintc), count, put)
            for name, rows in self.flags.items()
            if rows
        }
        text = number = None
        if self.texts is not None and "text" not in self.left_out:
            text = self.texts.entry(put)
        if self.numbers is not None and "number" not in self.left_out:
            number = self.numbers.entry(put)
            if number is None:
                self.left_out.add("number")
        kinds: Any = sorted(self.kinds)
        left_out: Any = sorted(self.left_out)
        return ColumnEntry(list(self.keys), kinds, flags, text, number, left_out)  # type: ignore[arg-type]


def _parse(text: str, row: int) -> dict[str, Any]:
    try:
        try:
            content = msgspec.json.decode(text)
        except msgspec.DecodeError:  # it refuses numbers beyond floating point, which SQLite reads
            content = json.loads(text)
        if type(content) is dict:
            return content
        problem = "they are none"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise IndexFolderError(
        f"the metadata of row {row:,} are no JSON object: {problem}; build the index again"
    )


def _can_be_asked(key: str) -> bool:
    """Whether a filter can have the name: see `parse_filter`."""
    return bool(key) and not any(character in '"\\' or character < " " for character in key)
