"""Builders of one column: the texts and the numbers of a field, collected in any order and written sorted.

Shape letters: V distinct values, E entries (a value in a row).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from relsdk.index._columns_file import FlagEntry, ValuesEntry

__all__ = ["NumbersBuilder", "Put", "TextsBuilder", "put_flag"]

# Texts, or numbers, of a field are left out when they are too much for the folder: a long text, distinct
# texts of so many bytes a document (descriptions, most URLs), or so many elements a document (embeddings).
# Looked at after each block of rows, so that what is left out does not depend on the chunks.
_LONGEST_TEXT = 1024  # characters
_TEXT_BYTES, _ENTRIES, _ANYHOW = 64, 16, 65_536
_MOST = 2**32 - 1  # places in a file are uint32
_INT64 = 2**63
# Writes an array, and returns where it begins.
Put: TypeAlias = "Callable[[NDArray[Any]], int]"


class TextsBuilder:
    """The texts of a field, each by a number that tells when it first occurred."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._bytes = 0
        self._full = False
        self._numbers, self._rows = array("I"), array("I")

    def add(self, text: str, row: int) -> None:
        """Add a text of a row."""
        number = self._known.get(text)
        if number is None:
            if self._full or not self._fits(text):
                return
            number = self._known[text] = len(self._known)
        self._numbers.append(number)
        self._rows.append(row)

    def too_much(self, rows: int) -> bool:
        """Tell whether they are too much for so many rows."""
        if self._bytes > min(rows * _TEXT_BYTES + _ANYHOW, _MOST) or _too_many(len(self._rows), rows):
            self._full = True
        return self._full

    def clear(self) -> None:
        """Forget what was added."""
        self._known, self._numbers, self._rows = {}, array("I"), array("I")

    def entry(self, put: Put) -> ValuesEntry:
        """Write the arrays."""
        order = sorted(self._known)  # by code point, as UTF-8 is ordered
        ranks = np.empty(len(order), dtype=np.uint32)
        ranks[np.fromiter(map(self._known.__getitem__, order), np.int64, len(order))] = np.arange(len(order))
        encoded = [text.encode() for text in order]
        content = b"".join(encoded)
        places = _starts(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        entries = ranks[np.frombuffer(self._numbers, np.uintc)]
        offset = put(places)
        put(np.frombuffer(content, np.uint8))
        _, rows = _put_entries(entries, np.frombuffer(self._rows, np.uintc), put)
        return ValuesEntry("text", len(order), rows, len(content), offset)

    def _fits(self, text: str) -> bool:
        """Count a new text; False gives up all texts of the field."""
        try:
            self._bytes += len(text) if text.isascii() else len(text.encode())
            self._full = len(text) > _LONGEST_TEXT or "\0" in text  # SQLite may cut a text at a NUL
        except UnicodeEncodeError:  # not of ours
            self._full = True
        return not self._full


class NumbersBuilder:
    """The numbers of a field."""

    def __init__(self) -> None:
        self._whole, self._whole_rows = array("q"), array("I")
        self._real, self._real_rows = array("d"), array("I")

    def add(self, number: int | float, row: int) -> None:
        """Add a number of a row; beyond 64 bits it is floating point, as for SQLite."""
        if type(number) is int:
            if -_INT64 <= number < _INT64:
                self._whole.append(number)
                self._whole_rows.append(row)
                return
            try:
                number = float(number)
            except OverflowError:
                number = float("inf") if number > 0 else float("-inf")
        self._real.append(number)
        self._real_rows.append(row)

    def too_much(self, rows: int) -> bool:
        """Tell whether they are too much for so many rows."""
        return _too_many(len(self._whole) + len(self._real), rows)

    def clear(self) -> None:
        """Forget what was added."""
        self.__init__()  # type: ignore[misc]

    def entry(self, put: Put) -> ValuesEntry | None:
        """Write the arrays; None when no type holds all numbers exactly."""
        values: NDArray[Any] = np.frombuffer(self._whole, np.int64)
        rows = np.frombuffer(self._whole_rows, np.uintc)
        if self._real:
            real = values.astype(np.float64)
            inside = real < float(_INT64)  # the largest integers round to one that is beyond
            if not inside.all() or not (real.astype(np.int64) == values).all():
                return None
            values = np.concatenate([real, np.frombuffer(self._real, np.float64)]) + 0.0  # no minus zero
            rows = np.concatenate([rows, np.frombuffer(self._real_rows, np.uintc)])
        distinct, entries = np.unique(values, return_inverse=True)
        offset = put(distinct)
        count, total = _put_entries(entries.astype(np.uint32), rows, put)
        return ValuesEntry("<f8" if self._real else "<i8", count, total, 0, offset)


def _too_many(entries: int, rows: int) -> bool:
    return entries > min(rows * _ENTRIES + _ANYHOW, _MOST)


def put_flag(rows: NDArray[np.uintc], count: int, put: Put) -> FlagEntry:
    if len(rows) == count:
        return FlagEntry("all", count, 0)
    if len(rows) * 32 <= count:
        return FlagEntry("rows", len(rows), put(rows.astype("<u4")))
    mask = np.zeros(count, dtype=np.bool_)
    mask[rows] = True
    return FlagEntry("bits", len(rows), put(np.packbits(mask, bitorder="little")))


def _put_entries(positions: NDArray[np.uint32], rows: NDArray[np.uintc], put: Put) -> tuple[int, int]:
    """Write starts and rows of entries, each a value's position and a row; return V and E."""
    keys = np.sort(positions.astype(np.uint64) << np.uint64(32) | rows)
    keys = keys[np.diff(keys, prepend=keys[:1] ^ np.uint64(1)) != 0]  # an element twice in a list counts once
    lengths = np.bincount((keys >> np.uint64(32)).astype(np.int64))
    put(_starts(lengths))
    put((keys & np.uint64(0xFFFFFFFF)).astype("<u4"))
    return len(lengths), len(keys)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return where each of adjoining parts begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<u4")
