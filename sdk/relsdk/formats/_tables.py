"""Rows out of CSV and TSV files whose first row names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from relsdk.formats._lines import Row, Source, error_at, numbered_lines, raw_lines

# The csv module stops at 128 KiB a field, less than a long transcript; this still bounds what a quote that is
# never closed can swallow.
_MAX_FIELD = 1 << 24


def csv_rows(path: Source) -> Iterator[Row]:
    """Yield the rows of a CSV file: quotes as in RFC 4180, names in the first row."""
    # A process-wide setting of the csv module, which has no other; it is only ever raised.
    csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
    reader = csv.reader((line for _, line in raw_lines(path)), strict=True)
    return _named(path, _csv_cells(path, reader))


def _csv_cells(path: Source, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1  # where the row starts; a quoted field may run over several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"not CSV ({error}); close every quote and double the quotes inside a quoted field"
            raise error_at(path, line, reason) from None
        if len(cells) > 1 or "".join(cells).strip():
            yield line, cells


def tsv_rows(path: Source) -> Iterator[Row]:
    """Yield the rows of a TSV file: no quoting (a quote is a part of the text), names in the first row."""
    # A line of nothing but tabs is a row of empty fields, not a blank line.
    cells = ((number, text.split("\t")) for number, text in numbered_lines(path) if text.strip(" "))
    return _named(path, cells)


def _named(path: Source, table: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    header = next(table, None)
    if header is None:
        return
    line, names = header[0], [name.strip() for name in header[1]]
    for name in names:
        if not name or names.count(name) > 1:
            problem = "is there twice" if name else "is empty"
            raise error_at(
                path, line, f"column name {name!r} {problem}; the first row must name every column once"
            )
    for line, cells in table:
        if len(cells) != len(names):
            expected = f"the first row names {len(names)} ({', '.join(names)})"
            raise error_at(path, line, f"{len(cells)} columns, but {expected}; add or remove separators")
        yield line, dict(zip(names, cells, strict=True))
