"""A set of rows, as a mask or as numbers, each made of the other when it is first asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowSet"]


class RowSet:
    """Which of N rows are in; never written to.

    Args:
        mask: (N,) bool.
        count: How many are in; None counts.
    """

    __slots__ = ("_rows", "count", "mask")

    def __init__(self, mask: NDArray[np.bool_], count: int | None = None) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask)) if count is None else count
        self._rows: NDArray[np.int64] | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that are in, rising, int64."""
        if self._rows is None:
            self._rows = np.flatnonzero(self.mask)
        return self._rows

    @property
    def is_full(self) -> bool:
        """Whether every row is in."""
        return self.count == len(self.mask)

    def __and__(self, other: RowSet) -> RowSet:
        """Return the rows that are in both."""
        if self.is_full:
            return other
        if other.is_full:
            return self
        return RowSet(self.mask & other.mask)
