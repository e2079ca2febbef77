"""Divide an input file into shards: ranges of rows whose results have names before they are computed.

Shape letters: n rows of an input.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from relsdk.errors import InputError
from relsdk.files.folders import file_sha256, json_sha256
from relsdk.formats import read_documents, read_queries, read_unlabelled_pairs

__all__ = [
    "Job",
    "OnProgress",
    "RowCursor",
    "Shard",
    "Source",
    "open_source",
    "plan_shards",
    "rows_of_a_part",
]

# Stage, rows done, rows in all.
OnProgress = Callable[[str, int, int | None], None]
# Counted up when what a part holds changes: then no part of an earlier version is taken for one of this.
PART_VERSION = 1
_PARTS, _LEAST_ROWS, _MOST_ROWS = 256, 1024, 16384
_DIGITS = 32  # of a part's name
_READERS: dict[str, Callable[..., Iterator[Any]]] = {
    "query": read_queries,
    "document": read_documents,
    "pair": read_unlabelled_pairs,
}
_READING = {"encoding": "utf-8", "delimiter": None, "skip_empty": False}


@dataclass(frozen=True, slots=True)
class Source:
    """An input file that was read once from its beginning to its end.

    Attributes:
        path: The file; workers on other machines see it under the same name.
        kind: What its rows are: "query", "document" or "pair".
        reading: Arguments of the reader in `relsdk.formats`: encoding, delimiter, skip_empty.
        digest: SHA-256 of its bytes.
        rows: n.
        stamp: Bytes and time of change, in ns.
    """

    path: str
    kind: str
    reading: Mapping[str, Any]
    digest: str
    rows: int
    stamp: tuple[int, int]

    @property
    def suffix(self) -> str:
        """What the format goes by."""
        plain = self.path.lower().removesuffix(".gz")
        return os.path.splitext(plain)[1]

    def read(self) -> Iterator[Any]:
        """Read its rows: queries, documents, or pairs (query, document)."""
        # That the ids of queries are unique was seen before; looking again takes memory for all of them.
        known = {"unique_ids": False} if self.kind == "query" else {}
        return _READERS[self.kind](self.path, **self.reading, **known)

    def check_unchanged(self) -> None:
        """Raise `InputError` when the file is not what it was any more: what was read of it has no name."""
        if _stamp(self.path) != self.stamp:
            raise InputError(f"{self.path} changed while it was read; start again when nobody writes to it")


@dataclass(frozen=True, slots=True)
class Job:
    """What is made of the rows: all that the results depend on beside the rows themselves.

    Attributes:
        model: Name of the model, for people.
        fingerprint: Of the model.
        variant: Name of its ONNX file.
        dimension: Of the vectors; 0 for scores.
        kind: "query" or "document", which decides the prompt and the tower; or "pair".
        calibration: SHA-256 of what turns scores into levels; "" for vectors.
    """

    model: str
    fingerprint: str
    variant: str
    dimension: int
    kind: str
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start` to `stop` (from 0, without the last) of an input of n rows.

    Attributes:
        source: Path of the input, for messages.
        start: First row.
        stop: Row after the last.
        total: n.
        hash: Names the result.
    """

    source: str
    start: int
    stop: int
    total: int
    hash: str

    def __str__(self) -> str:
        return f"{self.source}, rows {self.start + 1:,} to {self.stop:,}"

    @property
    def file_name(self) -> str:
        """Name of the part."""
        return f"part-{self.hash}.parquet"


def open_source(
    path: str | os.PathLike[str],
    kind: str,
    reading: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Source:
    """Read an input once: whatever is wrong with one of its rows is said before hours of work.

    Args:
        path: A regular file in any format that `relsdk.formats` reads.
        kind: "query", "document" or "pair".
        reading: See `Source`.
        on_progress: Called with "read", the rows so far, and None.

    Raises:
        InputError: Standard input or a pipe, which cannot be read twice; or a missing file or a bad row.
    """
    name = os.fspath(path)
    options = {**_READING, **(reading or {})}
    opened = _READERS[kind](name, **options)  # says what is wrong with the file
    if name == "-" or not stat.S_ISREG(os.stat(name).st_mode):
        raise InputError(
            f"{'<stdin>' if name == '-' else name}: this is no regular file, and workers read it several "
            "times; save it as one"
        )
    name = os.path.abspath(name)
    stamp, digest, rows = _stamp(name), file_sha256(Path(name)), 0
    for rows, _ in enumerate(opened, 1):
        if on_progress is not None and rows % _LEAST_ROWS == 0:
            on_progress("read", rows, None)
    source = Source(name, kind, options, digest, rows, stamp)
    source.check_unchanged()
    return source


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    return status.st_size, status.st_mtime_ns


def rows_of_a_part(rows: int) -> int:
    """Return how many rows a part of an input has: a power of two from 1,024 to 16,384.

    Inputs of a quarter of a million to four million rows become at most 256 parts.
    """
    share = -(-rows // _PARTS)
    return min(max(1 << (share - 1).bit_length(), _LEAST_ROWS), _MOST_ROWS)


def plan_shards(source: Source, job: Job) -> list[Shard]:
    """Return the shards of an input, in its order; the same input and job always give the same names."""
    size = rows_of_a_part(source.rows)
    shards = []
    for start in range(0, source.rows, size):
        stop = min(start + size, source.rows)
        identity = {
            "version": PART_VERSION,
            "source": source.digest,
            "reading": {"suffix": source.suffix, **source.reading},
            "rows": [start, stop],
            "fingerprint": job.fingerprint,
            "variant": job.variant,
            "dimension": job.dimension,
            "kind": job.kind,
            "calibration": job.calibration,
        }
        shards.append(Shard(source.path, start, stop, source.rows, json_sha256(identity)[:_DIGITS]))
    return shards


@dataclass(slots=True)
class RowCursor:
    """Reads ranges of rows of one input, forwards without beginning anew.

    Works for every format, a compressed one, too. A range before the last one opens the file again.
    """

    source: Source
    _rows: Iterator[Any] | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)

    def rows(self, start: int, stop: int) -> Iterator[Any]:
        """Yield rows `start` to `stop`, from 0, without the last.

        Raises:
            InputError: The file is not what it was, or a row cannot be read.
        """
        if self._rows is None or start < self._next:
            self._rows, self._next = self.source.read(), 0
        for _ in islice(self._rows, start - self._next):
            self._next += 1
        for row in islice(self._rows, stop - start):
            self._next += 1
            yield row
        if self._next != stop:
            self.source.check_unchanged()
            raise InputError(f"{self.source.path} ends after {self._next:,} rows; {stop:,} were there before")
