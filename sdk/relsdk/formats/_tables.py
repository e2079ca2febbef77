"""Rows out of CSV and TSV files whose first row names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from relsdk.errors import InputError
from relsdk.formats._column_types import CONVERTERS, STAYS_TEXT, check_columns
from relsdk.formats._lines import (
    Reading,
    Row,
    Source,
    error_at,
    first_duplicate,
    listed,
    numbered_lines,
    raw_lines,
)

# The csv module stops at 128 KiB a field, less than a long transcript; this still bounds what a quote that is
# never closed can swallow.
_MAX_FIELD, _MAX_ROW = 1 << 24, 1 << 25


def csv_rows(path: Source, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a CSV file: quotes as in RFC 4180, names in the first row."""
    # A process-wide setting of the csv module, which has no other; it is only ever raised.
    csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
    source = _Lines(path, reading.encoding)
    reader = csv.reader(source, delimiter=reading.delimiter or ",", strict=True)
    return _rows_with_names(path, _csv_cells(path, reader, source), reading, ",")


class _Lines:
    """The lines of a CSV file for its reader, which may take only so many characters for one row."""

    def __init__(self, path: Source, encoding: str) -> None:
        self._path = path
        self._lines = raw_lines(path, encoding)
        self.row_characters = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.row_characters += len(line)
        if self.row_characters > _MAX_ROW:
            raise error_at(self._path, number, f"a row of more than {_MAX_ROW >> 20} MiB; close every quote")
        return line


def _csv_cells(path: Source, reader: Any, source: _Lines) -> Iterator[tuple[int, list[str]]]:
    while True:
        source.row_characters = 0
        line = reader.line_num + 1  # where the row starts; a quoted field may run over several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"not CSV ({error}); close every quote and double the quotes inside a quoted field"
            if "new-line" in str(error):
                reason = "not CSV (a carriage return inside a line); save the file with Unix line ends"
            raise error_at(path, line, reason) from None
        if len(cells) > 1 or "".join(cells).strip():
            yield line, cells


def tsv_rows(path: Source, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a TSV file: no quoting (a quote is a part of the text), names in the first row."""
    # A line of nothing but tabs is a row of empty fields, not a blank line.
    separator = reading.delimiter or "\t"
    lines = numbered_lines(path, reading.encoding)
    cells = ((number, text.split(separator)) for number, text in lines if text.strip(" "))
    return _rows_with_names(path, cells, reading, "\t")


def _rows_with_names(
    path: Source, table: Iterator[tuple[int, list[str]]], reading: Reading, usual: str
) -> Iterator[Row]:
    header = next(table, None)
    if header is None:
        return
    line, names = header[0], [name.strip() for name in header[1]]
    wrong = "" if "" in names else first_duplicate(names)
    if wrong is not None:
        problem = "is there twice" if wrong else "is empty"
        raise error_at(
            path, line, f"column name {wrong[:40]!r} {problem}; the first row must name every column once"
        )
    _check_header(path, line, names, reading.delimiter or usual)
    try:
        check_columns(names, reading.types)
    except InputError as error:
        raise error_at(path, line, error) from None
    columns = [(name, CONVERTERS[reading.types.get(name, "text")]) for name in names]
    for line, cells in table:
        if len(cells) != len(names):
            expected = f"the first row names {len(names)} ({listed(names)})"
            raise error_at(path, line, f"{len(cells)} columns, but {expected}; add or remove separators")
        try:
            yield (
                line,
                {
                    name: convert(name, cell)
                    for (name, convert), cell in zip(columns, cells, strict=True)
                    if name in STAYS_TEXT or cell.strip()
                },
            )
        except InputError as error:
            raise error_at(path, line, error) from None


def _check_header(path: Source, line: int, names: list[str], delimiter: str) -> None:
    """Refuse a first row that is one column because another separator divides it."""
    separator = next((one for one in ",;\t|" if one != delimiter and one in names[0]), None)
    if len(names) == 1 and separator is not None:
        shown = "'\\t'" if separator == "\t" else repr(separator)
        raise error_at(
            path, line, f"the first row is the one column {names[0][:80]!r}; give --delimiter {shown}"
        )
    if any("\r" in name for name in names):
        raise error_at(path, line, "a carriage return inside the first row; save it with Unix line ends")
