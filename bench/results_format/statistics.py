"""Statistics of times, with their confidence. Pure functions of samples.

Shape letters: N samples, R rounds of an interleaved run, S bootstrap samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relsdk.errors import InputError

__all__ = ["QUANTILES", "Estimate", "Noise", "median_estimate", "median_ratio", "noise_of", "percentiles"]

# The percentiles that describe a distribution in a result file.
QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
_RESAMPLES = 4000
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and its bootstrap interval.

    Attributes:
        median: The median of the samples (or the ratio of two medians).
        low: Lower end of the interval.
        high: Upper end.
    """

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers as JSON values."""
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Noise:
    """What two identical contenders of one interleaved run differ by (A/A).

    Attributes:
        low: 5th percentile of the ratios of a round's two medians.
        high: 95th percentile of them.
        floor: How far from 1 the median of the ratios may be, by its bootstrap interval: a difference of
            medians that is smaller cannot be told from none.
    """

    low: float
    high: float
    floor: float

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers as JSON values."""
        return {"low": self.low, "high": self.high, "floor": self.floor}

    def drowns(self, ratio: Estimate) -> bool:
        """Whether a ratio's interval reaches into what identical contenders differ by."""
        return ratio.low <= 1.0 + self.floor and ratio.high >= 1.0 / (1.0 + self.floor)


def percentiles(values: ArrayLike) -> dict[str, float]:
    """Return the 50th, 90th, 95th and 99th percentile, in the unit of the values (linear interpolation).

    Args:
        values: (N,) samples, N >= 1.

    Raises:
        InputError: There is no sample, or one is not finite.
    """
    samples = _samples(values, "values")
    return {f"p{q}": float(np.percentile(samples, q)) for q in (50, 90, 95, 99)}


def median_estimate(values: ArrayLike, *, seed: int = 0, level: float = 0.95) -> Estimate:
    """Return the median with its percentile bootstrap interval (Efron 1979).

    Args:
        values: (R,) samples.
        seed: Of the resampling.
        level: Share of the bootstrap distribution inside the interval.

    Raises:
        InputError: There is no sample, or one is not finite.
    """
    samples = _samples(values, "values")
    medians = _resampled_medians(samples, np.random.default_rng(seed))  # (S,)
    return _estimate(float(np.median(samples)), medians, level)


def median_ratio(
    numerator: ArrayLike, denominator: ArrayLike, *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Return the ratio of two medians of independent samples with its percentile bootstrap interval.

    Both sides are resampled on their own: rounds of two runs are not paired.

    Args:
        numerator: (R1,) samples.
        denominator: (R2,) positive samples in the same unit.
        seed: Of the resampling.
        level: Share of the bootstrap distribution inside the interval.

    Raises:
        InputError: A side has no sample, or one that is not finite, or the denominator one not above 0.
    """
    above, below = _samples(numerator, "numerator"), _samples(denominator, "denominator")
    if below.min() <= 0:
        raise InputError(f"a sample of the denominator is {below.min()}; all must be above 0")
    rng = np.random.default_rng(seed)
    ratios = _resampled_medians(above, rng) / _resampled_medians(below, rng)  # (S,)
    return _estimate(float(np.median(above) / np.median(below)), ratios, level)


def noise_of(first: ArrayLike, copy: ArrayLike, *, seed: int = 0) -> Noise:
    """Estimate the noise of an interleaved run from two identical contenders.

    Args:
        first: (R,) positive medians of the first one's blocks.
        copy: (R,) medians of the second one's blocks, of the same rounds.
        seed: Of the resampling.

    Raises:
        InputError: The two do not have the same number of rounds, or a sample is not usable.
    """
    a, b = _samples(first, "first"), _samples(copy, "copy")
    if len(a) != len(b):
        raise InputError(f"{len(a)} rounds of one and {len(b)} of its copy; both must have run in each round")
    if a.min() <= 0:
        raise InputError(f"a sample is {a.min()}; all must be above 0")
    ratios = b / a  # (R,)
    found = median_estimate(ratios, seed=seed)
    floor = max(found.high, 1.0 / max(found.low, 1e-12)) - 1.0
    low, high = np.percentile(ratios, (5, 95))
    return Noise(float(low), float(high), max(0.0, float(floor)))


def _resampled_medians(samples: Float, rng: np.random.Generator) -> Float:
    rows = rng.integers(len(samples), size=(_RESAMPLES, len(samples)))  # (S, R)
    return np.asarray(np.median(samples[rows], axis=1), dtype=np.float64)


def _estimate(median: float, resampled: Float, level: float) -> Estimate:
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(resampled, (tail, 1.0 - tail))
    return Estimate(median, float(low), float(high))


def _samples(values: ArrayLike, name: str) -> Float:
    samples = np.asarray(values, dtype=np.float64).ravel()
    if not len(samples):
        raise InputError(f"{name} holds no sample; at least one is needed")
    if not np.isfinite(samples).all():
        raise InputError(f"{name} holds NaN or infinity; only measured numbers can be summarised")
    return samples
