"""Open an input, read it line by line, and name the place of every error: `path:line: reason; what to do`."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from relsdk.errors import InputError

Source = str | os.PathLike[str]
Row = tuple[int, dict[str, Any]]  # line number from 1 (row number for Parquet), fields
STDIN = "-"
_BOM = "\ufeff"
# The longest line that is read: far beyond any document, far below the memory of a machine. A device without
# end, a binary file or a small gzip file of gigabytes is one such line.
MAX_LINE = 1 << 26
_UTF_16_MARKS, _GZIP_MARK = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Reading:
    """Options for reading the rows of a text source.

    Attributes:
        encoding: A text encoding that Python knows; a byte order mark is dropped.
        delimiter: What separates the cells of CSV and TSV; None is the format's own.
        types: Column of CSV or TSV to "text", "number" or "boolean"; other columns are text.
        row_is_line: Raise for a blank line among JSON lines or lines of text, so that row n is line n.
    """

    encoding: str = "utf-8"
    delimiter: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    row_is_line: bool = False

    def __post_init__(self) -> None:
        if not _splits_at_newlines(self.encoding) and not _is_wide(self.encoding):
            raise InputError(
                f"encoding {self.encoding!r} is none that texts are read in; utf-8, gb18030 and utf-16 are"
            )
        wrong = self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"\0')
        if wrong:
            raise InputError(f"delimiter {self.delimiter!r}: one character is needed, as in ';'")


def _splits_at_newlines(encoding: str) -> bool:
    """Tell whether the byte of a newline is a newline and nothing else, as in UTF-8, GB 18030 and Latin-1."""
    try:
        return "a\n".encode(encoding).removeprefix(codecs.BOM_UTF8) == b"a\n"
    except (LookupError, ValueError):  # UnicodeError is a ValueError
        return False


def _is_wide(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    except (LookupError, ValueError):
        return False


def source_name(path: Source) -> str:
    """Return what error messages call a source."""
    return "<stdin>" if os.fspath(path) == STDIN else os.fspath(path)


def error_at(path: Source, line: int, reason: object) -> InputError:
    """Return the error for one line (from 1; for Parquet the row)."""
    return InputError(f"{source_name(path)}:{line}: {reason}")


def first_duplicate(names: Iterable[str]) -> str | None:
    """Return the first name that occurred before; None when all are different."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def listed(names: Iterable[object]) -> str:
    """Return names for a message: the first twenty, cut where they are long."""
    every = [str(name) for name in names]
    more = f" and {len(every) - 20:,} more" if len(every) > 20 else ""
    return (", ".join(name[:40] for name in every[:20]) or "none") + more


def check_readable(path: Source) -> None:
    """Raise unless the source is standard input or something that can be opened as a file."""
    if os.fspath(path) == STDIN:
        _standard_input()
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
    format_ = suffixes.get(plain.suffix.lower())
    if format_ is None:
        allowed = ", ".join(suffix for suffix in suffixes if suffix)
        raise InputError(
            f"{source_name(path)}: the suffix {plain.suffix!r} names no known format; allowed are {allowed}, "
            f"or say which it is: {', '.join(formats)}"
        )
    return format_


def is_gzip(path: Source) -> bool:
    """Tell whether a file is compressed, by its name."""
    return os.fspath(path).lower().endswith(".gz")


def numbered_lines(path: Source, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Yield each line of a text source with its number from 1, without its end (\n or \r\n).

    Lines end at \n only, so a U+2028 inside a text is part of it. A byte order mark is dropped. `.gz` files
    are decompressed. Nothing but the current line is held.

    Raises:
        InputError: The source cannot be read, or a line is not in the encoding, holds a NUL or is longer
            than `MAX_LINE`.
    """
    for number, line in raw_lines(path, encoding):
        yield number, line.removesuffix("\n").removesuffix("\r")


def plain_lines(path: Source, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Yield the same lines as `numbered_lines`, and raise where one holds a \r, which no plain text has."""
    for number, line in numbered_lines(path, encoding):
        if "\r" in line:
            at = line.index("\r") + 1
            raise error_at(
                path, number, f"character {at} is a carriage return; save the file with Unix line ends"
            )
        yield number, line


def raw_lines(path: Source, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield the same lines as `numbered_lines` with their ends, which a quoted CSV field may hold."""
    number = 0
    try:
        with _open_bytes(path) as stream, _split_at_lines(stream, encoding) as source:
            while raw := source.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    raise error_at(
                        path, number, f"the line is longer than {MAX_LINE >> 20} MiB; is this a text file?"
                    )
                yield number, _check_line(path, number, raw, encoding)
    except UnicodeError as error:  # of a wide encoding, which is decoded in blocks
        reason = getattr(error, "reason", error)
        raise error_at(path, number + 1, f"not {encoding} ({reason}); save the file as UTF-8") from None
    except EOFError:
        raise error_at(path, number + 1, "the gzip file ends too early; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise error_at(path, number + 1, f"not a sound gzip file ({error}); copy it again") from None
    except OSError as error:
        raise _unreadable(path, error) from None


@contextmanager
def _split_at_lines(stream: IO[bytes], encoding: str) -> Iterator[IO[bytes] | IO[str]]:
    """Yield what has a `readline`: the stream, or its text when a newline is more than a byte."""
    if not _is_wide(encoding):
        yield stream
        return
    text = io.TextIOWrapper(cast(io.BufferedReader, stream), encoding, newline="\n")
    try:
        yield text
    finally:
        text.detach()  # the stream is closed by who opened it


def _check_line(path: Source, number: int, raw: bytes | str, encoding: str) -> str:
    text = raw if isinstance(raw, str) else _decode(path, number, raw, encoding)
    if "\0" in text:
        reason = f"character {text.index(chr(0)) + 1} is a NUL; remove it (UTF-16 needs --encoding utf-16)"
        raise error_at(path, number, reason)
    return text.removeprefix(_BOM) if number == 1 else text


def _decode(path: Source, number: int, raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        utf_8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        at = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
        remedy = "save the file as UTF-8, or give its encoding, as in --encoding gb18030"
        if number == 1 and raw.startswith(_UTF_16_MARKS):
            remedy = "save the file as UTF-8, or give its encoding: --encoding utf-16"
        elif number == 1 and raw.startswith(_GZIP_MARK):
            remedy = "it is compressed: give it a name that ends in .gz"
        raise error_at(path, number, f"not {'UTF-8' if utf_8 else encoding}: {at}; {remedy}") from None


def _standard_input() -> IO[bytes]:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise InputError("<stdin>: standard input is closed; name a file, or send the text through a pipe")
    return cast(IO[bytes], stream)


@contextmanager
def _open_bytes(path: Source) -> Iterator[IO[bytes]]:
    if os.fspath(path) == STDIN:
        yield _standard_input()  # the caller's: not closed here
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
