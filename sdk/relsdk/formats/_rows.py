"""Rows with named fields out of any of the formats, one at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from relsdk.errors import InputError
from relsdk.formats._fields import EmptyDocumentError
from relsdk.formats._json import json_rows
from relsdk.formats._lines import Row, Source, check_readable, error_at, resolve_format, source_name
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
_READERS = {"jsonl": json_rows, "csv": csv_rows, "tsv": tsv_rows, "parquet": parquet_rows}


def open_rows(path: Source, format: str | None = None) -> Iterator[Row]:
    """Check a source now and return its rows, read as they are asked for.

    Args:
        path: A file (text formats also as `.gz`), or "-" for standard input, JSON lines unless `format` says.
        format: "jsonl" (JSON lines or one JSON array), "csv", "tsv" or "parquet"; None goes by the suffix.

    Returns:
        (line number from 1, fields) of each row; the row number for Parquet. Blank lines are no rows. A
        source without any row raises at its end.

    Raises:
        InputError: At once for a missing file, a folder or an unknown format; at its row for a bad row.
        MissingExtraError: Parquet without pyarrow.
    """
    check_readable(path)
    reader = _READERS[resolve_format(path, format, SUFFIXES, on_stdin="jsonl")]
    return at_least_one(path, reader(path))


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
        skip_empty: Leave out rows without title and text; how many is logged as a warning at the end.
    """
    skipped = kept = 0
    for number, fields in rows:
        try:
            record = parse(fields)
        except EmptyDocumentError as error:
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
            raise InputError(
                f"{source_name(path)}: no row has a title or a text; check that it is the right file"
            )
        _LOGGER.warning("%s: left out %d rows without title and text", source_name(path), skipped)
