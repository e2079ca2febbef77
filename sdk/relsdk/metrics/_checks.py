"""Checks of what metrics take, and the error for a metric that has no value.

Shape letters: N pairs or documents, L levels.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Gain = Literal["exponential", "linear"]


class UndefinedMetricError(InputError):
    """The metric has no value on this correct input: no positive, a single level, no rows."""


def as_vector(values: ArrayLike, name: str) -> Float:
    """Return finite numbers as (N,) float64."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not all numbers ({error})") from None
    if vector.ndim != 1:
        raise InputError(f"{name} have shape {vector.shape}; pass one number for each row, shape (N,)")
    if not np.isfinite(vector).all():
        raise InputError(f"{name} hold NaN or infinity; every one must be a finite number")
    return vector


def as_scores(values: ArrayLike, rows: int) -> Float:
    """Return scores as (N,) float64; -inf is let through and means "not retrieved"."""
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"scores are not all numbers ({error})") from None
    as_vector(np.where(np.isneginf(scores), 0.0, scores), "scores")
    same_length(rows, len(scores), "labels", "scores")
    return scores


def as_relevances(values: ArrayLike) -> Float:
    """Return graded relevances as (N,) float64 >= 0."""
    relevances = as_vector(values, "labels")
    if (relevances < 0).any():
        raise InputError(f"labels go down to {relevances.min():g}; they must be 0 or more")
    return relevances


def as_levels(values: ArrayLike, levels: int = NUM_LEVELS) -> Int:
    """Return levels as (N,) int64 in 0..levels-1, at least one."""
    vector = as_vector(values, "labels")
    not_empty(vector)
    wrong = vector[(vector != np.floor(vector)) | (vector < 0) | (vector >= levels)]
    if len(wrong):
        raise InputError(f"label {wrong[0]:g} is not a level; allowed are the integers 0 to {levels - 1}")
    return vector.astype(np.int64)


def as_probabilities(values: ArrayLike, rows: int) -> Float:
    """Return level probabilities as (N, L) float64 whose rows sum to 1."""
    try:
        probabilities = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"probabilities are not a matrix of numbers ({error})") from None
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise InputError(f"probabilities have shape {probabilities.shape}; expected (N, levels)")
    same_length(rows, len(probabilities), "labels", "rows of probabilities")
    sums = probabilities.sum(axis=1)  # (N,)
    # Written so that NaN fails too. Single-precision softmax is well inside the tolerance.
    good = (probabilities >= 0).all(axis=1) & (np.abs(sums - 1.0) <= 1e-4)  # (N,)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"probabilities of row {row} are {probabilities[row]}; they must be >= 0 and sum to 1"
        )
    return probabilities


def as_bins(bins: int) -> int:
    """Return the number of bins when it is a positive integer."""
    if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
        raise InputError(f"bins is {bins!r}; it must be an integer of at least 1")
    return int(bins)


def as_cutoff(k: int | None, rows: int) -> int:
    """Return how many of `rows` ranks count: `k`, or all of them for None."""
    if k is None:
        return rows
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k is {k!r}; it must be an integer of at least 1, or None for the whole list")
    return min(int(k), rows)


def same_length(left: int, right: int, left_name: str, right_name: str) -> None:
    """Raise when two inputs do not have the same number of rows."""
    if left != right:
        raise InputError(
            f"there are {left} {left_name} but {right} {right_name}; pass one of each for each row"
        )


def not_empty(values: Sized) -> None:
    """Raise when there is nothing to measure."""
    if len(values) == 0:
        raise UndefinedMetricError("there are no rows to measure; pass at least one")
