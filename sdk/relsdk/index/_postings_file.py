"""The file of a segment's postings: which rows hold a term, and how often.

Little-endian, each section at a multiple of 64 bytes, in this order:

    header     magic, then 7 uint64: version, R, T, P, B, F, G
    lengths    (R,) uint32: tokens of each row
    sizes      (G,) uint32: the distinct lengths, rising
    starts     (T + 1,) uint64: where the postings of each term begin
    ends       (T + 1,) uint64: where the text of each term begins
    keys       (T,) uint64: the first 8 bytes of each term, as a big-endian number
    rows       (P,) uint32: for each term the rows that hold it, rising
    codes      (P,) uint16 or uint32: (count - 1) * G + place of the row's length among the sizes
    text       (B,) uint8: the terms in UTF-8, one behind the other, rising

A code says all that BM25 needs of a posting, so that one look into a table of F x G weights gives its weight.

Shape letters: R rows, T terms, P postings, B bytes of text, F the highest count, G distinct lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError

__all__ = ["HEADER_BYTES", "MOST_COUNT", "POSTINGS_FILE", "Sizes", "map_sections"]

POSTINGS_FILE = "postings.bin"
# A term that a row holds more often counts as if it held it so often: BM25 hardly tells the difference.
MOST_COUNT = 255

_MAGIC = b"relsdk postings\n"
_HEADER = struct.Struct("<16s7Q")
HEADER_BYTES = 128
_VERSION = 1
_ALIGNMENT = 64


class Sizes(NamedTuple):
    """The numbers of the header.

    Attributes:
        rows: R.
        terms: T.
        postings: P.
        text: B.
        highest: F.
        lengths: G.
    """

    rows: int
    terms: int
    postings: int
    text: int
    highest: int
    lengths: int

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every code."""
        return np.dtype("<u2" if self.highest * self.lengths <= 65_536 else "<u4")

    def header(self) -> bytes:
        """Return the beginning of the file."""
        return _HEADER.pack(_MAGIC, _VERSION, *self).ljust(HEADER_BYTES, b"\0")

    def sections(self) -> Iterator[tuple[str, int, int, np.dtype[Any]]]:
        """Yield name, offset, items and type of each section."""
        offset = HEADER_BYTES
        for name, count, dtype in (
            ("lengths", self.rows, np.dtype("<u4")),
            ("sizes", self.lengths, np.dtype("<u4")),
            ("starts", self.terms + 1, np.dtype("<u8")),
            ("ends", self.terms + 1, np.dtype("<u8")),
            ("keys", self.terms, np.dtype("<u8")),
            ("rows", self.postings, np.dtype("<u4")),
            ("codes", self.postings, self.code_dtype),
            ("text", self.text, np.dtype("u1")),
        ):
            yield name, offset, count, dtype
            offset += -(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT

    def total(self) -> int:
        """Return the bytes of the whole file."""
        *_, (_, offset, count, _) = self.sections()
        return offset + -(-count // _ALIGNMENT) * _ALIGNMENT


def map_sections(path: Path, rows: int) -> tuple[Sizes, dict[str, NDArray[Any]]]:
    """Map the sections into memory, read-only, and check all but the postings themselves.

    Args:
        path: The file.
        rows: R.

    Raises:
        IndexFolderError: It is missing, no file of postings, or of other rows; or terms and places are not
            in order.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
        sizes = _read_header(path, start.ljust(HEADER_BYTES, b"\0"), rows)
        found = path.stat().st_size
        if found != sizes.total():
            raise IndexFolderError(
                f"{path} has {found:,} bytes, {sizes.total():,} are needed for {sizes.postings:,} postings; "
                f"build the index again"
            )
        content = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: it shrank meanwhile
        raise IndexFolderError(f"cannot read {path} ({error}); build the index again") from error
    sections = {
        name: np.asarray(content[offset : offset + count * dtype.itemsize].view(dtype))
        for name, offset, count, dtype in sizes.sections()
    }
    fault = _find_fault(sizes, sections)
    if fault:
        raise IndexFolderError(f"{path} is damaged: {fault}; build the index again")
    return sizes, sections


def _read_header(path: Path, start: bytes, rows: int) -> Sizes:
    """Return the numbers of a header that may be believed, whatever the file then holds."""
    magic, version, *numbers = _HEADER.unpack_from(start)
    if magic != _MAGIC or start[_HEADER.size :].strip(b"\0"):
        raise IndexFolderError(f"{path} is no file of postings; build the index again")
    if version != _VERSION:
        raise IndexFolderError(
            f"{path} has version {version}, this relsdk reads {_VERSION}; use a newer relsdk or build the "
            f"index again"
        )
    sizes = Sizes(*numbers)
    if sizes.rows != rows:
        raise IndexFolderError(f"{path} is of {sizes.rows:,} rows, not of {rows:,}; build the index again")
    if max(numbers) >= 2**40 or sizes.highest > MOST_COUNT or sizes.lengths > rows:
        raise IndexFolderError(f"{path} is damaged: its header says {sizes}; build the index again")
    return sizes


def _find_fault(sizes: Sizes, sections: dict[str, NDArray[Any]]) -> str | None:
    """Say what is out of order in the lists of terms and lengths, or None: numbers that serve as places."""
    starts, ends, keys = sections["starts"], sections["ends"], sections["keys"]
    if starts[0] != 0 or starts[-1] != sizes.postings or not (starts[1:] > starts[:-1]).all():
        return "the places of its postings do not rise"
    if ends[0] != 0 or ends[-1] != sizes.text or not (ends[1:] >= ends[:-1]).all():
        return "the places of its terms do not rise"
    if not (keys[1:] >= keys[:-1]).all():
        return "its terms do not rise"
    if not (sections["sizes"][1:] > sections["sizes"][:-1]).all():
        return "its lengths do not rise"
    return None
