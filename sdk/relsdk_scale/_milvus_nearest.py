"""The nearest of documents that are read page by page.

Shape letters: n documents of one page, Q queries, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["NearestIds"]


class NearestIds:
    """Keeps the k documents nearest to each query; of equal scores those that came first.

    Args:
        queries: (Q, D) unit rows.
        k: How many.

    Attributes:
        ids: Of each query, best first.
    """

    def __init__(self, queries: NDArray[np.float32], k: int) -> None:
        self._queries, self._k = queries, k
        self._scores = [np.zeros(0, np.float32) for _ in queries]
        self.ids: list[list[str]] = [[] for _ in queries]

    def add(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Look at a page of documents and their vectors (n, D)."""
        for number, cosines in enumerate(self._queries @ vectors.T):  # (Q, n)
            scores = np.concatenate([self._scores[number], cosines])
            names = [*self.ids[number], *ids]
            best = np.argsort(-scores, kind="stable")[: self._k]
            self._scores[number] = scores[best]
            self.ids[number] = [names[at] for at in best]
