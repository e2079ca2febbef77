"""Calibration error without the noise of its labels, with an interval, and the reliability curve behind it.

The plain calibration error of a perfect calibration is not 0: in every bin a finite number of labels misses
its mean a little, and the misses add up as absolute values. Pairs of one query share its difficulty, so noise
is measured between queries throughout.

Shape letters: N pairs, Q queries (or blocks of them), B bins, S bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from relsdk.errors import InputError
from relsdk.metrics._checks import Float, Int, as_bins, as_vector, not_empty, same_length

__all__ = ["DebiasedEce", "ReliabilityBin", "debiased_ece", "reliability_curve"]

_INTERVAL = (0.025, 0.975)
# More queries are put together in so many blocks: what a bootstrap costs stays bounded.
_MOST_BLOCKS = 2000
_SQRT_2 = math.sqrt(2.0)
# 97.5 % quantile of the standard normal distribution.
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class DebiasedEce:
    """A calibration error without the noise of the labels, and its 95 % interval.

    Attributes:
        ece: The plain one, of the same bins.
        value: Debiased, at least 0.
        low: Lower end of the interval, at least 0.
        high: Upper end, at least `value`.
    """

    ece: float
    value: float
    low: float
    high: float

    @property
    def is_distinguishable(self) -> bool:
        """Whether it differs from 0 by more than the noise of the labels."""
        return self.low > 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, with `is_distinguishable`."""
        return {**asdict(self), "is_distinguishable": self.is_distinguishable}


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The pairs whose confidence lies in one bin.

    Attributes:
        pairs: How many there are, at least 1.
        confidence: Their mean confidence.
        share: How often the outcome was true.
        low: Lower end of the 95 % interval of `share`, at least 0.
        high: Upper end, at most 1.
    """

    pairs: int
    confidence: float
    share: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def debiased_ece(
    confidences: ArrayLike,
    outcomes: ArrayLike,
    queries: Sequence[Hashable],
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
) -> DebiasedEce:
    """Return the expected calibration error less what the labels' noise adds to it.

    With gap g_b and its standard error s_b in bin b, it is sum_b |b| / N * (2 |g_b| - E|X_b|), X_b normal of
    mean g_b and deviation s_b (Kumar, Liang & Ma 2019, "Verified uncertainty calibration"); E|X| is the mean
    of the folded normal. It removes all of the noise where a gap is large, and two fifths of it
    where the calibration is perfect: read the interval there. s_b is taken between queries (linearised), and
    not below what independent labels have. The interval is of a bootstrap over queries: its lower end is
    pivotal, and its upper end not below that of a normal interval. A bootstrap of a small error is larger
    than the error by more than the error is itself, and the pivotal end would be too low, often 0.

    Args:
        confidences: (N,) probabilities.
        outcomes: (N,) what they were given to: true or false.
        queries: (N,) the query of each pair.
        bins: Number of bins, of equal width as in `expected_calibration_error`.
        resamples: S.
        seed: Of the bootstrap.

    Raises:
        UndefinedMetricError: There are no rows.
        InputError: Lengths differ, or a confidence is no probability.
    """
    sums = _Sums.of(confidences, outcomes, queries, as_bins(bins))
    if resamples < 1:
        raise InputError(f"resamples is {resamples}; it must be at least 1")
    plain, debiased = (float(one[0]) for one in sums.errors(np.ones((1, sums.blocks))))
    _, again = sums.errors(_draws(sums.blocks, resamples, seed))  # (S,)
    low, high = (2.0 * debiased - float(end) for end in np.quantile(again, _INTERVAL[::-1]))
    high = max(high, debiased + _Z * float(again.std()))
    value = max(debiased, 0.0)
    return DebiasedEce(plain, value, min(max(low, 0.0), value), max(high, value))


def reliability_curve(
    confidences: ArrayLike, outcomes: ArrayLike, queries: Sequence[Hashable], *, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """Compare confidence with what happened, bin by bin.

    The interval is Wilson's (1927), of as many pairs as the variance between queries is worth (Korn &
    Graubard 1998).

    Args:
        confidences: See `debiased_ece`.
        outcomes: See `debiased_ece`.
        queries: See `debiased_ece`.
        bins: See `debiased_ece`.

    Returns:
        The bins that hold pairs, by rising confidence.

    Raises:
        UndefinedMetricError: There are no rows.
        InputError: See `debiased_ece`.
    """
    sums = _Sums.of(confidences, outcomes, queries, as_bins(bins))
    pairs = sums.pairs.sum(axis=0)  # (B,)
    (gaps,), (variances,) = sums.gaps(np.ones((1, sums.blocks)))
    inner = sums.inner.sum(axis=0) / np.maximum(pairs, 1) ** 2
    curve = []
    for number in np.flatnonzero(pairs):
        count, confidence = int(pairs[number]), float(sums.confidences[number] / pairs[number])
        share = min(max(confidence + float(gaps[number]), 0.0), 1.0)
        worth = count * min(float(inner[number] / variances[number]) if variances[number] else 1.0, 1.0)
        curve.append(ReliabilityBin(count, confidence, share, *_wilson(share, worth)))
    return tuple(curve)


@dataclass(frozen=True)
class _Sums:
    """Sums over the pairs of each block of queries, in each bin.

    Attributes:
        gaps_of: (Q, B) of outcome - confidence.
        pairs: (Q, B) how many.
        inner: (Q, B) of confidence * (1 - confidence): the variance of independent labels.
        confidences: (B,) of all blocks.
    """

    gaps_of: Float
    pairs: Float
    inner: Float
    confidences: Float

    @property
    def blocks(self) -> int:
        return len(self.pairs)

    @classmethod
    def of(cls, confidences: ArrayLike, outcomes: ArrayLike, queries: Sequence[Hashable], bins: int) -> _Sums:
        given, happened = as_vector(confidences, "confidences"), as_vector(outcomes, "outcomes")
        not_empty(given)
        same_length(len(given), len(happened), "confidences", "outcomes")
        same_length(len(given), len(queries), "confidences", "queries")
        # A sum of probabilities of levels is above 1 by as much as rounding makes it.
        if given.min() < 0.0 or given.max() > 1.0 + 1e-4:
            raise InputError(f"confidences are from {given.min():g} to {given.max():g}; allowed are 0 to 1")
        given = np.minimum(given, 1.0)
        codes, blocks = _blocks(queries)
        place = np.clip(np.ceil(given * bins).astype(np.int64) - 1, 0, bins - 1)  # (N,)

        def total(values: Float) -> Float:
            flat = np.bincount(codes * bins + place, values, blocks * bins)
            return np.asarray(flat.reshape(blocks, bins), dtype=np.float64)

        own = (happened - given, np.ones(len(given)), given * (1.0 - given))
        gaps_of, pairs, inner = map(total, own)
        return cls(gaps_of, pairs, inner, np.bincount(place, given, bins).astype(np.float64))

    def gaps(self, weights: Float) -> tuple[Float, Float]:
        """Return share - confidence of each bin and its variance, where blocks count (S, Q) times: (S, B)."""
        pairs = np.maximum(weights @ self.pairs, 1.0)
        gaps = weights @ self.gaps_of / pairs
        # sum over blocks of (sum of residuals - gap * pairs)^2, multiplied out
        between = weights @ self.gaps_of**2 - 2.0 * gaps * (weights @ (self.gaps_of * self.pairs))
        between += gaps**2 * (weights @ self.pairs**2)
        blocks = weights @ (self.pairs > 0)
        between *= np.where(blocks > 1, blocks / np.maximum(blocks - 1.0, 1.0), 0.0)
        return gaps, np.maximum(between, weights @ self.inner) / pairs**2

    def errors(self, weights: Float) -> tuple[Float, Float]:
        """Return the plain and the debiased error, where blocks count (S, Q) times: (S,) each."""
        gaps, variances = self.gaps(weights)
        shares = weights @ self.pairs
        shares /= shares.sum(axis=1, keepdims=True)
        plain = (shares * np.abs(gaps)).sum(axis=1)
        noisy = (shares * _folded_normal_mean(gaps, np.sqrt(variances))).sum(axis=1)
        return plain, 2.0 * plain - noisy


def _blocks(queries: Sequence[Hashable]) -> tuple[Int, int]:
    """Return the block of each pair (N,), and how many there are: a query each, as long as they are few."""
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(query, len(numbers)) for query in queries], dtype=np.int64)
    blocks = min(len(numbers), _MOST_BLOCKS)
    return codes % blocks, blocks


def _draws(blocks: int, resamples: int, seed: int) -> Float:
    """Return how often each block is drawn in each sample: (S, Q)."""
    drawn = np.random.default_rng(seed).integers(0, blocks, size=(resamples, blocks))
    drawn += blocks * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * blocks)
    return counts.reshape(resamples, blocks).astype(np.float64)


def _folded_normal_mean(means: Float, deviations: Float) -> Float:
    """Return E|X| of normal X (Leone, Nelson & Nottingham 1961), of any shape."""
    z = np.abs(means) / np.maximum(deviations, 1e-300)
    away = np.array([math.erf(one) for one in (np.minimum(z, 40.0) / _SQRT_2).ravel().tolist()])
    near = deviations * math.sqrt(2.0 / math.pi) * np.exp(-0.5 * np.minimum(z, 40.0) ** 2)
    return np.asarray(near + np.abs(means) * away.reshape(z.shape), dtype=np.float64)


def _wilson(share: float, pairs: float) -> tuple[float, float]:
    """Return the 95 % score interval of a share of so many pairs."""
    wide = _Z**2 / max(pairs, 1.0)
    centre = (share + wide / 2.0) / (1.0 + wide)
    half = _Z * math.sqrt(share * (1.0 - share) / max(pairs, 1.0) + (wide / (2.0 * _Z)) ** 2) / (1.0 + wide)
    return max(centre - half, 0.0), min(centre + half, 1.0)
