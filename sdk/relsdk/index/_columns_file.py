"""The files of the columns: a directory in JSON, and one file of arrays that it points into.

    columns.json    the fields, and where their arrays begin
    columns.bin     8 bytes of magic, then arrays, each at a multiple of 8 bytes

Nothing in them is believed: every array is cut out of the file by a checked place and size.
Shape letters: N rows, V distinct values, E entries (a value in a row).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.typed_json import read_json

__all__ = [
    "ARRAYS_FILE",
    "COLUMN_FILES",
    "DIRECTORY_FILE",
    "FLAGS",
    "MAGIC",
    "Arrays",
    "ColumnEntry",
    "Directory",
    "FlagEntry",
    "ValuesEntry",
    "padding",
    "read_directory",
]

DIRECTORY_FILE, ARRAYS_FILE = "columns.json", "columns.bin"
COLUMN_FILES = (DIRECTORY_FILE, ARRAYS_FILE)
MAGIC = b"RELCOLS1"
REMEDY = "check it with: relsdk index verify, or build it again"
# Of a field of a row: it is there and not null; it is null; it, or an element of its list, is null, true or
# false.
FLAGS = ("exists", "null", "null_item", "true", "false")

Whole = Annotated[int, Meta(ge=0, lt=2**53)]


@dataclass(frozen=True)
class FlagEntry:
    """The rows that have a flag.

    Attributes:
        form: "all" rows; "bits", a bitmap; "rows", their numbers.
        count: How many.
        offset: Where the array begins.
    """

    form: Literal["all", "bits", "rows"]
    count: Whole
    offset: Whole


@dataclass(frozen=True)
class ValuesEntry:
    """Distinct values and the rows of each: values, (V + 1,) starts, (E,) rows, one after another.

    Attributes:
        type: "text": (V + 1,) uint32 places in the UTF-8 that follows; else V numbers of that type.
        distinct: V.
        entries: E.
        text_bytes: Of the UTF-8; 0 for numbers.
        offset: Where the arrays begin.
    """

    type: Literal["text", "<i8", "<f8"]
    distinct: Whole
    entries: Whole
    text_bytes: Whole
    offset: Whole


@dataclass(frozen=True)
class ColumnEntry:
    """A field.

    Attributes:
        keys: From the top of the metadata downwards.
        kinds: What occurs in it: "text", "number", "boolean", "null", "object".
        flags: By name, those that a row has.
        text: Its texts; None without any, or when they were left out.
        number: Its numbers; likewise.
        left_out: Of "text" and "number", what occurs but is too much for a column.
    """

    keys: list[str]
    kinds: list[Literal["text", "number", "boolean", "null", "object"]]
    flags: dict[Literal["exists", "null", "null_item", "true", "false"], FlagEntry]
    text: ValuesEntry | None
    number: ValuesEntry | None
    left_out: list[Literal["text", "number"]]


@dataclass(frozen=True)
class Directory:
    """All fields.

    Attributes:
        format: Of the files.
        rows: N.
        complete: Whether there are no other fields than these.
        columns: In the order in which they first occurred.
    """

    format: Literal[1]
    rows: Whole
    complete: bool
    columns: list[ColumnEntry]


def read_directory(folder: Path, count: int) -> Directory:
    """Read the directory.

    Raises:
        IndexFolderError: It is damaged, or not of `count` rows.
    """
    path = folder / DIRECTORY_FILE
    directory = read_json(path, Directory, error=IndexFolderError, remedy=REMEDY)
    if directory.rows != count:
        raise IndexFolderError(
            f"{path} is of {directory.rows:,} documents, the segment has {count:,}; {REMEDY}"
        )
    return directory


class Arrays:
    """The mapped file of arrays.

    Args:
        folder: Where it is.

    Raises:
        IndexFolderError: It is missing, or does not begin as such a file does.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ARRAYS_FILE
        try:
            if not self.path.is_file():  # a pipe would be waited for
                raise IndexFolderError(f"{self.path} is missing, or no regular file; {REMEDY}")
            if self.path.stat().st_size < len(MAGIC):
                raise self.damage("it is too short")
            self._bytes = np.asarray(np.memmap(self.path, np.uint8, mode="r"))
        except (OSError, ValueError) as error:
            raise IndexFolderError(f"cannot read {self.path} ({error}); {REMEDY}") from error
        if self._bytes[: len(MAGIC)].tobytes() != MAGIC:
            raise self.damage(f"it does not begin with {MAGIC.decode()}")

    def get(self, offset: int, count: int, dtype: str) -> NDArray[Any]:
        """Return an array of the file.

        Raises:
            IndexFolderError: It is not inside.
        """
        stop = offset + count * np.dtype(dtype).itemsize
        if offset % 8 or stop > len(self._bytes):
            raise self.damage(f"bytes {offset:,} to {stop:,} are no array of it")
        return self._bytes[offset:stop].view(dtype)

    def damage(self, problem: str) -> IndexFolderError:
        """Return the error that says what is wrong with the file."""
        return IndexFolderError(f"{self.path} is damaged: {problem}; {REMEDY}")


def padding(size: int) -> int:
    """Return how many bytes lead from a size to the next multiple of 8."""
    return -size % 8
