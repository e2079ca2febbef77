"""Open an input, read it line by line, and name the place of every error: `path:line: reason; what to do`."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from relsdk.errors import InputError

Source = str | os.PathLike[str]
Row = tuple[int, dict[str, Any]]  # line number from 1 (row number for Parquet), fields
STDIN = "-"
_BOM = "\ufeff"


def source_name(path: Source) -> str:
    """Return what error messages call a source."""
    return "<stdin>" if os.fspath(path) == STDIN else os.fspath(path)


def error_at(path: Source, line: int, reason: object) -> InputError:
    """Return the error for one line (from 1; for Parquet the row)."""
    return InputError(f"{source_name(path)}:{line}: {reason}")


def check_readable(path: Source) -> None:
    """Raise unless the source is standard input or something that can be opened as a file."""
    if os.fspath(path) == STDIN:
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{source_name(path)}: there is no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{source_name(path)}: this is a folder; name a file")


def resolve_format(
    path: Source, format: str | None, suffixes: Mapping[str, str], on_stdin: str | None = None
) -> str:
    """Return the format of a source: as given, else by the suffix (without `.gz`).

    Args:
        path: A file, or "-" for standard input.
        format: The format's name, or None to go by the suffix.
        suffixes: Lower-case suffix to format; the values are the formats allowed.
        on_stdin: The format of standard input when none is given.

    Returns:
        One of the values of `suffixes`.
    """
    formats = list(dict.fromkeys(suffixes.values()))
    if format is not None:
        if format not in formats:
            raise InputError(f"format is {format!r}; allowed are {', '.join(formats)}")
        return format
    if os.fspath(path) == STDIN and on_stdin is not None:
        return on_stdin
    plain = Path(path).with_suffix("") if is_gzip(path) else Path(path)
    found = suffixes.get(plain.suffix.lower())
    if found is None:
        allowed = ", ".join(suffix for suffix in suffixes if suffix)
        raise InputError(
            f"{source_name(path)}: the suffix {plain.suffix!r} names no known format; allowed are {allowed}, "
            f"or say which it is: {', '.join(formats)}"
        )
    return found


def is_gzip(path: Source) -> bool:
    """Tell whether a file is compressed, by its name."""
    return os.fspath(path).lower().endswith(".gz")


def numbered_lines(path: Source) -> Iterator[tuple[int, str]]:
    r"""Yield each line of a UTF-8 text source with its number from 1, without its end (\n or \r\n).

    Lines end at \n only, so a U+2028 inside a text is part of it. A byte order mark is dropped. `.gz` files
    are decompressed. Nothing but the current line is held.

    Raises:
        InputError: The source cannot be read, or a line is not UTF-8 or holds a NUL.
    """
    for number, line in raw_lines(path):
        yield number, line.removesuffix("\n").removesuffix("\r")


def raw_lines(path: Source) -> Iterator[tuple[int, str]]:
    """Yield the same lines as `numbered_lines` with their ends, which a quoted CSV field may hold."""
    number = 0
    try:
        with _open_bytes(path) as stream:
            for number, raw in enumerate(stream, 1):
                yield number, _decode(path, number, raw)
    except EOFError:
        raise error_at(path, number + 1, "the gzip file ends too early; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise error_at(path, number + 1, f"not a sound gzip file ({error}); copy it again") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _decode(path: Source, number: int, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
        raise error_at(path, number, f"not UTF-8: {at}; save the file as UTF-8") from None
    if "\0" in text:
        reason = f"character {text.index(chr(0)) + 1} is a NUL; remove it, or save the file as UTF-8"
        raise error_at(path, number, reason)
    return text.removeprefix(_BOM) if number == 1 else text


@contextmanager
def _open_bytes(path: Source) -> Iterator[IO[bytes]]:
    if os.fspath(path) == STDIN:
        yield sys.stdin.buffer  # the caller's: not closed here
        return
    check_readable(path)
    with open(path, "rb") as stream:
        if is_gzip(path):
            with gzip.open(stream, "rb") as plain:
                yield cast(IO[bytes], plain)
        else:
            yield stream


def _unreadable(path: Source, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return InputError(f"{source_name(path)}: cannot be read ({reason}); check the path and its permissions")
