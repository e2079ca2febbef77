"""Rows with named fields out of any of the formats, one at a time."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from relsdk.errors import InputError
from relsdk.formats._column_types import check_types, find_types
from relsdk.formats._fields import EmptyRowError
from relsdk.formats._json import json_rows
from relsdk.formats._lines import (
    STDIN,
    Reading,
    Row,
    Source,
    check_readable,
    error_at,
    resolve_format,
    source_name,
)
from relsdk.formats._parquet import parquet_rows
from relsdk.formats._tables import csv_rows, tsv_rows

_LOGGER = logging.getLogger(__name__)
Record = TypeVar("Record")
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_TABLES = {"csv": csv_rows, "tsv": tsv_rows}
_READERS = {"jsonl": json_rows, **_TABLES, "parquet": parquet_rows}


def open_rows(path: Source, format: str | None = None, reading: Reading | None = None) -> Iterator[Row]:
    """Check a source now and return its rows, read as they are asked for.

    Args:
        path: A file (text formats also as `.gz`), or "-" for standard input, JSON lines unless `format` says.
        format: "jsonl" (JSON lines or one JSON array), "csv", "tsv" or "parquet"; None goes by the suffix.
        reading: Encoding and what else a text source needs; None for UTF-8 and the format's own rules.

    Returns:
        (line number from 1, fields) of each row; the row number for Parquet. Blank lines are no rows. A
        source without any row raises at its end.

    Raises:
        InputError: At once for a missing file, a folder or an unknown format; at its row for a bad row.
        MissingExtraError: Parquet without pyarrow.
    """
    check_readable(path)
    reading = reading or Reading()
    name = resolve_format(path, format, SUFFIXES, on_stdin="jsonl")
    if name not in _TABLES:
        for option, given in (("types", reading.types), ("delimiter", reading.delimiter)):
            if given:
                raise InputError(
                    f"{source_name(path)}: no {option} for {name}; leave out what is for CSV and TSV"
                )
    return at_least_one(path, _READERS[name](path, reading))


def open_typed_rows(
    path: Source,
    format: str | None,
    reading: Reading,
    on_types: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[Row]:
    """Do as `open_rows`; columns of CSV and TSV whose type is not given have that of their cells.

    The file is read once more for it when the first row is asked for. A pipe cannot be: there the given types
    are all.

    Args:
        path: See `open_rows`.
        format: See there.
        reading: See there.
        on_types: Called with the columns that are no text and their types, before the first row.

    Raises:
        InputError: As `open_rows`, and for a type that is none.
    """
    check_types(reading.types)
    rows = open_rows(path, format, reading)  # what is wrong with the source is said now
    table = _TABLES.get(resolve_format(path, format, SUFFIXES, on_stdin="jsonl"))
    if table is None or os.fspath(path) == STDIN or not stat.S_ISREG(os.stat(path).st_mode):
        return rows

    def typed() -> Iterator[Row]:
        types = find_types(table(path, replace(reading, types={})), reading.types)
        if on_types is not None:
            on_types(types)
        yield from open_rows(path, format, replace(reading, types=types))

    return typed()


def at_least_one(path: Source, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows, and raise at the end when there was none."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(
            f"{source_name(path)}: there are no rows in this file; check that it is the right one"
        )


def parsed_rows(
    path: Source,
    rows: Iterable[Row],
    parse: Callable[[dict[str, Any]], Record],
    *,
    skip_empty: bool = False,
) -> Iterator[Record]:
    """Yield the record that `parse` makes of each row's fields, adding file and line to the errors it raises.

    Args:
        path: For the messages.
        rows: From `open_rows`.
        parse: May consume the fields it is given.
        skip_empty: Leave out rows without text; how many is logged as a warning at the end.
    """
    skipped = kept = 0
    for number, fields in rows:
        try:
            record = parse(fields)
        except EmptyRowError as error:
            if not skip_empty:
                raise error_at(path, number, error) from None
            skipped += 1
            continue
        except InputError as error:
            raise error_at(path, number, error) from None
        except RecursionError:
            raise error_at(path, number, "metadata are nested too deeply; flatten them") from None
        kept += 1
        yield record
    if skipped:
        if not kept:
            raise InputError(f"{source_name(path)}: no row has a text; check that it is the right file")
        noun = "row" if skipped == 1 else "rows"
        _LOGGER.warning("%s: left out %d %s without text", source_name(path), skipped, noun)
