"""The queries that a calibration has seen, and what is unlike them in another query.

Shape letters: Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from relsdk.errors import InputError

__all__ = ["QueryRange"]

# In percent: one query in a hundred of the calibration's own lies beyond an end.
_ENDS = (1.0, 99.0)
# A cosine by a batch of another size differs by rounding.
_ROUNDING = 1e-5
_Tokens = Annotated[int, Meta(ge=0, le=1 << 31)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Cosine = Annotated[float, Meta(ge=-2, le=2)]


@dataclass(frozen=True, slots=True)
class QueryRange:
    """Between what nearly all queries of a calibration lie: their 1st and 99th percentiles.

    A query outside gets levels all the same, but no pair like it was among those that they were fitted on.

    Attributes:
        fewest_tokens: 1st percentile of a query's tokens.
        most_tokens: 99th percentile.
        most_unknown: 99th percentile of the share of its tokens that are not in the vocabulary.
        least_cosine: 1st percentile of the best cosine among a query's pairs.
    """

    fewest_tokens: _Tokens
    most_tokens: _Tokens
    most_unknown: _Share
    least_cosine: _Cosine

    @classmethod
    def of(
        cls, tokens: Sequence[Sequence[int]], unknown_id: int | None, best_cosines: ArrayLike
    ) -> QueryRange:
        """Measure queries.

        Args:
            tokens: The token ids of Q queries.
            unknown_id: What stands for what is not in the vocabulary.
            best_cosines: (Q,) of each query's pairs the highest cosine.

        Raises:
            InputError: There are no queries, or not one cosine each.
        """
        cosines = np.asarray(best_cosines, dtype=np.float64)
        if not len(tokens) or cosines.shape != (len(tokens),):
            raise InputError(
                f"{len(tokens)} queries and cosines of shape {cosines.shape}; one each is needed"
            )
        few, many = np.percentile([len(ids) for ids in tokens], _ENDS, method="closest_observation")
        unknown = np.percentile(
            [_unknown(ids, unknown_id) for ids in tokens], _ENDS[1], method="closest_observation"
        )
        least = np.percentile(cosines, _ENDS[0], method="closest_observation")
        return cls(int(few), int(many), float(unknown), float(least))

    def outside(
        self, ids: Sequence[int], unknown_id: int | None, best_cosine: float | None
    ) -> tuple[str, ...]:
        """Say in what a query is unlike those of the calibration: nothing where it is like them.

        Args:
            ids: The token ids of the query.
            unknown_id: What stands for what is not in the vocabulary.
            best_cosine: Of what was found; None without a hit.
        """
        told = []
        if not self.fewest_tokens <= len(ids) <= self.most_tokens:
            told.append(
                f"{len(ids)} tokens, where the calibration had {self.fewest_tokens} to {self.most_tokens}"
            )
        unknown = _unknown(ids, unknown_id)
        if unknown > self.most_unknown + _ROUNDING:
            told.append(
                f"{unknown:.0%} of the tokens are not in the vocabulary, where the calibration had at most "
                f"{self.most_unknown:.0%}"
            )
        if best_cosine is not None and best_cosine < self.least_cosine - _ROUNDING:
            told.append(
                f"the best cosine is {best_cosine:.3f}, where the calibration had at least "
                f"{self.least_cosine:.3f}"
            )
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, from which `relsdk.typed_json.convert_json` makes the ranges again."""
        return asdict(self)


def _unknown(ids: Sequence[int], unknown_id: int | None) -> float:
    return 0.0 if unknown_id is None else list(ids).count(unknown_id) / max(len(ids), 1)
