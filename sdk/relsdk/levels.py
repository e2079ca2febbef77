"""Relevance levels and the arithmetic between cumulative and level probabilities.

Shape letters: N pairs, L = 4 levels.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import InputError

__all__ = [
    "RelevanceLevel",
    "cumulative_to_probabilities",
    "expected_level",
    "most_probable_level",
    "parse_level",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class RelevanceLevel(IntEnum):
    """The degree to which a document answers a query.

    3 fully satisfies the intent, 2 misses something non-critical, 1 shares the key entity or topic but misses
    the intent, 0 does not satisfy it.
    """

    IRRELEVANT = 0
    PARTIAL = 1
    MOSTLY = 2
    FULL = 3


NUM_LEVELS = len(RelevanceLevel)


def parse_level(value: object) -> RelevanceLevel:
    """Turn a label from a file into a level.

    Args:
        value: An integer 0-3, or a string or float that is one ("2", 2.0).

    Returns:
        The level.

    Raises:
        InputError: The value is none of 0, 1, 2, 3.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
        if isinstance(value, bool) or number != int(number):
            raise ValueError
        return RelevanceLevel(int(number))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"label {value!r} is not a relevance level; allowed are 0, 1, 2 and 3") from None


def cumulative_to_probabilities(cumulative: ArrayLike) -> FloatArray:
    """Turn P(level >= k), k = 1..3, into the probability of each level.

    Args:
        cumulative: (N, L-1) probabilities, non-increasing along the last axis.

    Returns:
        (N, L) float64; rows sum to 1.
    """
    at_least = np.asarray(cumulative, dtype=np.float64)  # (N, L-1)
    edge = np.ones((len(at_least), 1))
    bounded = np.hstack([edge, at_least, edge * 0.0])  # (N, L+1)
    return np.asarray(np.clip(bounded[:, :-1] - bounded[:, 1:], 0.0, 1.0), dtype=np.float64)  # (N, L)


def most_probable_level(probabilities: ArrayLike) -> IntArray:
    """Return the level of the highest probability, (N,) int64; a tie goes to the lower level."""
    return np.asarray(np.asarray(probabilities).argmax(axis=1), dtype=np.int64)


def expected_level(probabilities: ArrayLike) -> FloatArray:
    """Return the mean level under the probabilities (N, L): (N,) float64 in [0, 3]."""
    levels = np.arange(NUM_LEVELS, dtype=np.float64)
    # Not a product of matrices: BLAS rounds one row otherwise than the same row among others.
    mean: FloatArray = (np.asarray(probabilities, dtype=np.float64) * levels).sum(axis=1)
    return mean  # (N,)
