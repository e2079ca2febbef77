"""How frequent each level is where nothing is labelled, and the calibration for there.

Shape letters: N pairs, Q queries, L = 4 levels, G groups of levels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from relsdk.calibration._models import Calibration, Float, Int, PriorShift
from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS

__all__ = ["LevelShares", "estimate_level_shares", "shift_prior"]

Shares = tuple[float, float, float, float]
# A share is held above this: a level that nothing was found of may still come.
_LEAST_SHARE = 1e-3
_ENOUGH, _MOST_STEPS = 1e-7, 20_000
# From here on an estimate is told to be unreliable.
_FEW_PAIRS, _LARGE_ERROR, _RARE = 200, 0.05, 0.01
# With a larger error of the share of level 0 nothing is corrected. No share has a larger one than a half.
_NO_ESTIMATE, _LARGEST_ERROR = 0.2, 0.5


@dataclass(frozen=True, slots=True)
class LevelShares:
    """The share of each level among pairs without labels.

    Attributes:
        pairs: N.
        queries: Q.
        labelled: Shares that the calibration was fitted for.
        before: Mean probabilities by the calibration as it was fitted.
        after: The estimate.
        errors: Standard errors of `after`, between queries.
        each: Whether the share of each level was estimated; else that of level 0 alone, and levels 1 to 3
            keep the proportions of the labelled pairs.
    """

    pairs: int
    queries: int
    labelled: Shares
    before: Shares
    after: Shares
    errors: Shares
    each: bool = True

    def warnings(self) -> tuple[str, ...]:
        """Say why the estimate should not be relied on, a sentence each; nothing where it can be."""
        told = []
        if self.pairs < _FEW_PAIRS:
            told.append(f"{self.pairs:,} pairs without labels are few; take {_FEW_PAIRS} or more")
        if self.errors[0] > _NO_ESTIMATE and not self.each:
            told.append("these pairs do not tell how frequent level 0 is: nothing is corrected")
        elif not self.each:
            told.append(
                "these pairs do not tell levels 1 to 3 apart well enough: only the share of level 0 was "
                "estimated, and the others keep their proportions"
            )
        worst = int(np.argmax(self.errors))
        if self.errors[worst] > _LARGE_ERROR:
            told.append(
                f"the share of level {worst} is {self.after[worst]:.1%} with a standard error of "
                f"{self.errors[worst]:.1%}; take pairs of more queries"
            )
        for level, share in enumerate(self.after):
            if share < _RARE:
                told.append(
                    f"the share of level {level} is {share:.1%}: hardly a pair will be graded {level}; check "
                    "a few dozen by hand"
                )
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, with the warnings."""
        return {**asdict(self), "warnings": list(self.warnings())}


def estimate_level_shares(
    probabilities: ArrayLike, queries: Sequence[Hashable], labelled: ArrayLike
) -> LevelShares:
    """Estimate the share of each level among pairs without labels by expectation maximisation.

    The steps of Saerens, Latinne & Decaestecker (2002, "Adjusting the outputs of a classifier to new a priori
    probabilities"): with shares s and those of the calibration t, P'(k) is proportional to P(k) s_k / t_k,
    then s is the mean of P'. It finds the shares of maximum likelihood (which has one maximum), if pairs of a
    level look alike in both sets and only how many there are differs. Errors are of the sandwich form
    H^-1 M H^-1, with M between queries (White 1982).

    One score hardly tells neighbouring levels apart, and then the four shares run away together. Where an
    error is above 5 %, only the share of level 0 is estimated, and the others keep their proportions; where
    its error is above 20 %, the shares stay those of the calibration.

    Args:
        probabilities: (N, L) by the calibration, of pairs without labels.
        queries: (N,) the query of each.
        labelled: (L,) shares that the calibration was fitted for: its mean probabilities on labelled pairs.

    Raises:
        InputError: There are no pairs, or lengths differ.
    """
    given, prior = np.asarray(probabilities, dtype=np.float64), np.asarray(labelled, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != NUM_LEVELS or not len(given) or prior.shape != (NUM_LEVELS,):
        raise InputError(
            f"probabilities of shape {given.shape}; (N, {NUM_LEVELS}) of at least one pair needed"
        )
    if len(queries) != len(given):
        raise InputError(f"{len(given)} pairs and {len(queries)} queries; one each is needed")
    prior = np.maximum(prior, _LEAST_SHARE)
    prior = prior / prior.sum()
    numbers = {query: number for number, query in enumerate(dict.fromkeys(queries))}
    codes = np.array([numbers[query] for query in queries])
    shares, errors = _maximise(given, prior, codes)
    each = bool(errors.max() <= _LARGE_ERROR)
    if not each:
        coarse = np.stack([given[:, 0], given[:, 1:].sum(axis=1)], axis=1)  # (N, 2): level 0, above
        two, of_two = _maximise(coarse, np.array([prior[0], 1.0 - prior[0]]), codes)
        if of_two[0] > _NO_ESTIMATE:
            two = np.array([prior[0], 1.0 - prior[0]])
        above = prior[1:] / prior[1:].sum()
        shares = np.concatenate([two[:1], two[1] * above])
        errors = np.concatenate([of_two[:1], of_two[1] * above])
    return LevelShares(
        len(given),
        len(numbers),
        _four(prior),
        _four(given.mean(axis=0)),
        _four(shares),
        _four(errors),
        each,
    )


def _maximise(given: Float, prior: Float, codes: Int) -> tuple[Float, Float]:
    """Return shares of maximum likelihood and their standard errors: (N, G) probabilities -> (G,) each."""
    odds = given / prior  # (N, G): likelihood of each group, up to a factor
    shares = prior
    for _ in range(_MOST_STEPS):
        joint = odds * shares
        new = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        moved, shares = float(np.abs(new - shares).max()), new
        if moved < _ENOUGH:
            break
    shares = np.maximum(shares, _LEAST_SHARE)
    shares = shares / shares.sum()
    return shares, _errors(odds, shares, codes)


def shift_prior(calibration: Calibration, shares: LevelShares) -> PriorShift:
    """Return a calibration for a population with these shares of levels."""
    return PriorShift(calibration, _four(np.asarray(shares.after) / np.asarray(shares.labelled)))


def _errors(odds: Float, shares: Float, codes: Int) -> Float:
    """Return the standard error of each share: likelihoods (N, G) and shares (G,) -> (G,)."""
    mixture = odds @ shares  # (N,)
    scores = (odds[:, 1:] - odds[:, :1]) / mixture[:, None]  # (N, G-1): the first share is the rest
    bread = np.linalg.pinv(scores.T @ scores)
    of_query = np.stack([np.bincount(codes, column) for column in scores.T], axis=1)  # (Q, G-1)
    covariance = bread @ (of_query.T @ of_query) @ bread
    of_rest = max(float(covariance.sum()), 0.0)
    variances = np.concatenate([[of_rest], np.maximum(np.diag(covariance), 0.0)])
    return np.asarray(np.minimum(np.sqrt(variances), _LARGEST_ERROR), dtype=np.float64)


def _four(values: Float) -> Shares:
    first, second, third, fourth = values.tolist()
    return first, second, third, fourth
