"""The figures that stand beside a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_cosine(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Mean cosine of the rows of two matrices of unit vectors."""
    return round(float((vectors * reference).sum(axis=1).mean()), 6)


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    """Mean share of the exact neighbours that were found."""
    shares = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True) if b]
    return round(float(np.mean(shares)), 5)
