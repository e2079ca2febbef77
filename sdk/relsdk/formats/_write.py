"""Write text files whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from typing import IO, Any, cast

from relsdk.errors import InputError
from relsdk.files.atomic import output_file
from relsdk.formats._lines import STDIN, Source, is_gzip


def write_jsonl(path: Source, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write objects as JSON lines in UTF-8, one at a time; see `write_lines`.

    Returns:
        The number of rows.

    Raises:
        InputError: A row holds what JSON does not have (NaN, a set), or the file cannot be written.
    """
    return write_lines(path, (_as_json(number, row) for number, row in enumerate(rows, 1)))


def _as_json(number: int, row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"row {number} to write: {error}; keep to what JSON has") from None


def write_lines(path: Source, lines: Iterable[str]) -> int:
    r"""Write lines, each ended by \n, as UTF-8; a path that ends in `.gz` is compressed.

    A regular file appears, or replaces the old one, only when all lines are written. Pipes and devices are
    written as they are.

    Args:
        path: The file to write.
        lines: Consumed one at a time; an error they raise leaves the old file in place.

    Returns:
        The number of lines.

    Raises:
        InputError: The file cannot be written, or a line holds half of a surrogate pair.
    """
    if os.fspath(path) == STDIN:
        raise InputError("'-' is for reading only; name a file to write, for instance /dev/stdout")
    try:
        with output_file(path) as stream:
            if not is_gzip(path):
                return _write(stream, lines)
            # No time and no name inside: the same lines give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                return _write(cast(IO[bytes], packed), lines)
    except BrokenPipeError:  # the reader has what it wanted
        raise
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{os.fspath(path)}: cannot be written ({reason}); name another file") from None


def _write(stream: IO[bytes], lines: Iterable[str]) -> int:
    count = 0
    for count, line in enumerate(lines, 1):
        try:
            stream.write(f"{line}\n".encode())
        except UnicodeEncodeError as error:
            reason = f"character {error.start + 1} is half of a surrogate pair; remove it"
            raise InputError(f"line {count} to write: {reason}") from None
    return count
