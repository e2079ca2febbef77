"""What searches look for and what they find first, counted: by this one tells whether they have changed.

Levels and probabilities are as good as the pairs that they were fitted on. Once people search for something
else, or the documents are others, nobody sees it in a score; one sees it in these counts.

Shape letters: B bins of a kind, G groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from relsdk.levels import NUM_LEVELS
from relsdk.metrics import Interval, population_stability_index, population_stability_interval
from relsdk.records import SearchResult

__all__ = ["SearchProfile"]

_COSINES, _TOKENS = 200, 65
# Upper ends of the shares of unknown tokens; whatever is above the last has a bin of its own.
_UNKNOWN = (0.0, 0.1, 0.25, 0.5)
_Counts = NDArray[np.int64]
_Count = Annotated[int, Meta(ge=0, le=1 << 53)]
_Levels = Annotated[list[_Count], Meta(min_length=NUM_LEVELS + 1, max_length=NUM_LEVELS + 1)]
_Cosines = Annotated[list[_Count], Meta(min_length=_COSINES, max_length=_COSINES)]
_Lengths = Annotated[list[_Count], Meta(min_length=_TOKENS, max_length=_TOKENS)]
_Shares = Annotated[list[_Count], Meta(min_length=len(_UNKNOWN) + 1, max_length=len(_UNKNOWN) + 1)]

# Fine bins are joined to so many groups, about equal in the reference.
_GROUPS = 10
# n * m / (n + m) of n searches before and m now, from which on something is said: with ten groups one of a
# thousand comparisons without any change gives an index above 0.1 then. (27.9 is the 99.9 % quantile of
# chi-squared of nine degrees of freedom; see `population_stability_index`.)
_LEAST = 279


@dataclass(frozen=True, slots=True)
class SearchProfile:
    """Counts of searches.

    Attributes:
        level: Of the best hit: without a hit, then 0 to 3.
        cosine: Of the best hit, in steps of 0.005 from 0 to 1.
        tokens: Of the query, by one; 64 or more come last.
        unknown: Share of the query's tokens that are not in the vocabulary: none, up to 0.1, 0.25, 0.5, more.
    """

    level: _Levels = field(default_factory=lambda: [0] * (NUM_LEVELS + 1))
    cosine: _Cosines = field(default_factory=lambda: [0] * _COSINES)
    tokens: _Lengths = field(default_factory=lambda: [0] * _TOKENS)
    unknown: _Shares = field(default_factory=lambda: [0] * (len(_UNKNOWN) + 1))

    def note_search(self, result: SearchResult) -> None:
        """Count what a search found first; what is not known of it (no levels, no cosine) is not counted."""
        best = result.best
        if best is None:
            self.level[0] += not result.candidates  # there may be some that no scorer had the time for
            return
        if best.level is not None:
            self.level[best.level + 1] += 1
        if result.order != "scorer" or best.signals is not None:
            self.cosine[min(max(int(best.cosine * _COSINES), 0), _COSINES - 1)] += 1

    def note_query(self, ids: Sequence[int], unknown_id: int | None) -> None:
        """Count a query's tokens, and how many of them stand for what is not in the vocabulary."""
        self.tokens[min(len(ids), _TOKENS - 1)] += 1
        share = 0.0 if unknown_id is None else ids.count(unknown_id) / max(len(ids), 1)
        self.unknown[bisect_left(_UNKNOWN, share)] += 1

    @classmethod
    def sum_of(cls, profiles: Iterable[SearchProfile]) -> SearchProfile:
        """Return the counts of several together."""
        total = cls()
        for one in profiles:
            for kind in cls.kinds():
                own = getattr(total, kind)
                own[:] = map(sum, zip(own, getattr(one, kind), strict=True))
        return total

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Return what is counted: "level", "cosine", "tokens", "unknown"."""
        return tuple(one.name for one in fields(cls))

    def searches(self, kind: str) -> int:
        """Return how many searches a kind was counted of."""
        return sum(getattr(self, kind))

    def shifts_from(self, reference: SearchProfile) -> dict[str, float]:
        """Return the population stability index of each kind; kinds of too few searches are left out."""
        return {kind: population_stability_index(*counts) for kind, counts in self._grouped(reference)}

    def shift_intervals_from(self, reference: SearchProfile) -> dict[str, Interval]:
        """Return each index with its interval; a lower end of 0 is no more than noise."""
        return {kind: population_stability_interval(*counts) for kind, counts in self._grouped(reference)}

    def _grouped(self, reference: SearchProfile) -> Iterator[tuple[str, tuple[_Counts, _Counts]]]:
        """Yield the kinds that can be compared: counts before and now, in groups."""
        for kind in self.kinds():
            before, now = (np.array(getattr(one, kind), dtype=np.int64) for one in (reference, self))  # (B,)
            count, current = int(before.sum()), int(now.sum())
            if count * current < _LEAST * (count + current) or not count:
                continue
            if kind in ("cosine", "tokens"):
                groups = _equal_groups(before)
                before, now = (np.bincount(groups, one, _GROUPS)[np.unique(groups)] for one in (before, now))
            yield kind, (before, now)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, from which `relsdk.typed_json.convert_json` makes the profile again."""
        return {kind: list(getattr(self, kind)) for kind in self.kinds()}


def _equal_groups(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each bin, (B,): by the share of the cases below its middle, so about equal ones.

    Bins beyond all cases belong to the first and the last group.
    """
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    groups: NDArray[np.int64] = np.minimum((middle * _GROUPS).astype(np.int64), _GROUPS - 1)
    return groups
