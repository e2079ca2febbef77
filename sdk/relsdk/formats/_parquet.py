"""Rows out of a Parquet file, a batch in memory at a time."""

from __future__ import annotations

import datetime
import decimal
import math
import os
from collections.abc import Iterator
from typing import Any

from relsdk.errors import InputError, MissingExtraError
from relsdk.formats._lines import STDIN, Reading, Row, Source, error_at, first_duplicate, is_gzip, source_name

_BATCH_ROWS = 1024


def parquet_rows(path: Source, reading: Reading) -> Iterator[Row]:
    """Return the rows of a Parquet file, numbered from 1. Missing numbers (NaN) become None.

    Nothing of `reading`, which is for text, matters here.

    Raises:
        InputError: At once for standard input or a compressed file; at its row for a value JSON does not
        have. MissingExtraError: At once without pyarrow.
    """
    if os.fspath(path) == STDIN or is_gzip(path):
        raise InputError(f"{source_name(path)}: Parquet is read from a plain file; save it as one")
    return _batched_rows(path, _import_parquet())


def _import_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    return pyarrow.parquet


def _open(path: Source) -> Any:
    """Open a file for pyarrow, which takes a path `a:b` for a URI, and refuses names that are not UTF-8."""
    import pyarrow

    return pyarrow.OSFile(os.fsencode(path))


def _batched_rows(path: Source, parquet: Any) -> Iterator[Row]:
    number = 0
    try:
        with _open(path) as stream, parquet.ParquetFile(stream) as file:
            twice = first_duplicate(file.schema_arrow.names)
            if twice is not None:
                raise error_at(path, 1, f"column name {twice!r} is there twice; name every column once")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield number, _plain(path, number, fields)
    except InputError:  # is a ValueError, as pyarrow's errors are
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise error_at(
            path, number + 1, f"not readable as Parquet ({reason}); write the file again"
        ) from None


def _plain(path: Source, number: int, value: Any) -> Any:
    """Return a Parquet value as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(path, number, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(path, number, item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        raise error_at(path, number, "a field is infinite; replace it by a finite number or by null")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise error_at(path, number, f"a field of type {type(value).__name__} has no JSON form; drop its column")
