"""A set of rows, as a mask or as numbers, each made of the other when it is first asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowSet"]

# Below this share of the rows, numbers are looked up in a mask; above it masks are combined.
_FEW = 8


class RowSet:
    """Which of N rows are in; never written to.

    Args:
        mask: (N,) bool.
        count: How many are in; None counts.
        scanned: Whether documents were read to find them.
    """

    __slots__ = ("_mask", "_rows", "count", "scanned", "total")

    def __init__(self, mask: NDArray[np.bool_], count: int | None = None, *, scanned: bool = False) -> None:
        self._mask: NDArray[np.bool_] | None = mask
        self._rows: NDArray[np.int64] | None = None
        self.count = int(np.count_nonzero(mask)) if count is None else count
        self.scanned = scanned
        self.total = len(mask)

    @classmethod
    def of_rows(cls, rows: NDArray[np.int64], total: int, *, scanned: bool = False) -> RowSet:
        """Make a set of rising rows, int64, of `total`."""
        made = cls.__new__(cls)
        made._mask, made._rows = None, rows
        made.count, made.total, made.scanned = len(rows), total, scanned
        return made

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which rows are in, (N,) bool."""
        if self._mask is None:
            mask = np.zeros(self.total, dtype=np.bool_)
            mask[self._rows] = True
            self._mask = mask  # once it is whole: another thread may look
        return self._mask

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that are in, rising, int64."""
        if self._rows is None:
            self._rows = np.flatnonzero(self.mask)
        return self._rows

    @property
    def is_full(self) -> bool:
        """Whether every row is in."""
        return self.count == self.total

    def __and__(self, other: RowSet) -> RowSet:
        """Return the rows that are in both."""
        scanned = self.scanned or other.scanned
        few, many = (self, other) if self.count <= other.count else (other, self)
        if many.is_full:
            return few if few.scanned == scanned else few._marked(scanned)
        if few.count * _FEW <= self.total:
            return RowSet.of_rows(few.rows[many.mask[few.rows]], self.total, scanned=scanned)
        return RowSet(few.mask & many.mask, scanned=scanned)

    def __or__(self, other: RowSet) -> RowSet:
        """Return the rows that are in one of them."""
        scanned = self.scanned or other.scanned
        few, many = (self, other) if self.count <= other.count else (other, self)
        if not few.count:
            return many if many.scanned == scanned else many._marked(scanned)
        return RowSet(few.mask | many.mask, scanned=scanned)

    def __invert__(self) -> RowSet:
        """Return the rows that are not in."""
        return RowSet(~self.mask, self.total - self.count, scanned=self.scanned)

    def _marked(self, scanned: bool) -> RowSet:
        made = RowSet.__new__(RowSet)
        made._mask, made._rows, made.count, made.total = self._mask, self._rows, self.count, self.total
        made.scanned = scanned
        return made
