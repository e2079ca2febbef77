"""Write text files whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from relsdk.errors import InputError
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
        with _replacing(Path(os.path.realpath(path))) as stream:
            if not is_gzip(path):
                return _write(stream, lines)
            # No time and no name inside: the same lines give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                return _write(cast(IO[bytes], packed), lines)
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


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yield a stream whose file takes the place of `target` when the block ends without an error."""
    if target.exists() and not target.is_file():
        with open(target, "wb") as stream:  # a pipe or a device; a folder fails here
            yield stream
        return
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
