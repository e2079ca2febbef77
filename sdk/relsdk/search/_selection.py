"""Which of the candidates become hits, and in which order: thresholds, groups, a field to sort by, pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.index.field_values import check_sort, group_key, sort_key
from relsdk.index.filter_parser import parse_field
from relsdk.models.relevance_scorer import Predictions
from relsdk.records import Hit, Promise
from relsdk.search.store_reader import StoreReader

__all__ = ["Wanted", "count_groups", "first_of_groups", "nothing_relevant", "select_hits", "sort_hits"]

# Hits are sorted by a field among at least so many of the most relevant.
_SORTED = 100
# From this level on a document is relevant, unless the caller names another one.
_RELEVANT = 2
# Groups are counted where there are at most so many values.
_MOST_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """The caller's conditions on hits; see `Searcher.search`."""

    k: int
    offset: int = 0
    min_level: int | None = None
    min_score: float | None = None
    sort: str | None = None
    group_by: str | None = None
    min_confidence: float | None = None
    min_precision: float | None = None
    promise: Promise | None = None  # which keeps `min_precision`

    @property
    def needs_levels(self) -> bool:
        """Whether a condition asks for levels."""
        return any(one is not None for one in (self.min_level, self.min_confidence, self.min_precision))

    def levels_of(self, count: int) -> Wanted:
        """Return what is asked of the levels of so many hits, each by itself."""
        return replace(self, k=count, offset=0, min_score=None, sort=None, group_by=None)

    @property
    def relevant(self) -> int:
        """The level from which on a document counts as relevant."""
        return _RELEVANT if self.min_level is None else self.min_level

    @property
    def end(self) -> int:
        """How many hits there are up to the end of the page."""
        return self.offset + self.k

    @property
    def pool(self) -> int:
        """How many of the most relevant hits there must be to choose from."""
        return self.end if self.sort is None else max(self.end, _SORTED)

    def check(self) -> None:
        """Refuse what cannot be wanted.

        Raises:
            InputError: With the name of the argument.
        """
        for name, value, low in (("k", self.k, 1), ("offset", self.offset, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise InputError(f"{name}={value!r}; a whole number of at least {low} is needed")
        level = self.min_level
        whole = isinstance(level, int | np.integer) and not isinstance(level, bool)
        if level is not None and not (whole and 0 <= level <= 3):
            raise InputError(f"min_level={self.min_level!r}; allowed are 0, 1, 2 and 3")
        if level == 0 and self.min_precision is not None:
            raise InputError("min_precision is of level 1, 2 or 3 and above, and min_level is 0")
        score = self.min_score
        number = isinstance(score, int | float | np.number) and not isinstance(score, bool)
        if score is not None and (not number or np.isnan(score)):
            raise InputError(f"min_score={score!r}; a number is needed")
        for name, share in (("min_confidence", self.min_confidence), ("min_precision", self.min_precision)):
            number = isinstance(share, int | float | np.number) and not isinstance(share, bool)
            if share is not None and not (number and 0 <= share <= 1):
                raise InputError(f"{name}={share!r}; a number from 0 to 1 is needed, such as 0.8, not 80")
        if self.sort is not None:
            check_sort(self.sort)
        if self.group_by is not None:
            parse_field(self.group_by)


def select_hits(
    hits: Sequence[Hit],
    order: NDArray[np.int64],
    scores: NDArray[np.float32],
    predictions: Predictions | None,
    wanted: Wanted,
) -> list[Hit]:
    """Make records of the first hits that are wanted, and of no others.

    Args:
        hits: N candidates, or more: those beyond the scores are not looked at.
        order: (N,) in which they are taken.
        scores: (N,) their scores.
        predictions: Of the N candidates; None without a calibration.
        wanted: Which, and how many.
    """
    keep = np.ones(len(order), dtype=np.bool_)
    if wanted.min_score is not None:
        keep &= scores.astype(np.float64) >= wanted.min_score
    if predictions is None:
        keep &= not wanted.needs_levels
    else:
        if wanted.promise is not None:
            keep &= _relevant_share(predictions, wanted) >= wanted.promise.threshold
        elif wanted.min_level is not None:  # what is promised is promised of the share alone
            keep &= predictions.levels >= wanted.min_level
        if wanted.min_confidence is not None:
            keep &= _relevant_share(predictions, wanted) >= wanted.min_confidence
    rows = order[keep[order]][: wanted.pool].tolist()
    if predictions is None:
        return [hits[row] for row in rows]
    return [replace(hits[row], score=float(scores[row]), relevance=predictions[row]) for row in rows]


def nothing_relevant(predictions: Predictions) -> float:
    """Return the probability that none of the candidates is of level 2 or above; 1 without a candidate.

    It is 1 - max P(level >= 2). The product of all 1 - P(level >= 2) would hold if the candidates were right
    or wrong one by one, but a model that misreads a query misreads it for all of them, and the product falls
    with each candidate that is looked at: 0.9^10 = 0.35.
    """
    shares = predictions.probabilities[:, _RELEVANT:].sum(axis=1)  # (N,)
    return float(1 - shares.max(initial=0))


def _relevant_share(predictions: Predictions, wanted: Wanted) -> NDArray[np.float64]:
    """Return the probability of each candidate to be relevant, (N,)."""
    shares: NDArray[np.float64] = predictions.probabilities[:, wanted.relevant :].sum(axis=1)
    return shares


def first_of_groups(hits: Sequence[Hit], field: str) -> list[Hit]:
    """Keep of hits with the same value in a field the first; those without one are all kept."""
    seen: set[str] = set()
    firsts = []
    for hit in hits:
        group = group_key(hit.document, field)
        if group is None or group not in seen:
            firsts.append(hit)
        if group is not None:
            seen.add(group)
    return firsts


def count_groups(index: Index | StoreReader, field: str, where: Mapping[str, Any] | None) -> float:
    """Return how many groups the documents that a filter allows have in a field.

    Returns:
        Infinity where it is not known: for a part of every document, many values, lists of several elements
        and objects.
    """

    def count(condition: Mapping[str, Any]) -> int:
        return index.count({"and": [where, {field: condition}]} if where else {field: condition})

    try:
        values = index.facets(field, where)
        if len(values) > _MOST_VALUES:
            return math.inf
        present, simple = count({"exists": True}), count({"in": [value for value, _ in values]})
    except InputError:  # a filter that is as deep as may be, or a field that nobody has
        return math.inf
    if not present == simple == sum(number for _, number in values):
        return math.inf
    return len(values) + index.count(where) - present


def sort_hits(hits: list[Hit], wanted: Wanted, index: Index | StoreReader) -> list[Hit]:
    """Put hits into the order of a field, if one is asked for; hits of equal values stay in theirs.

    Raises:
        InputError: No document of the index has the field.
    """
    if wanted.sort is None:
        return hits
    field, falling = check_sort(wanted.sort)
    keys = [sort_key(hit.document, field) for hit in hits]
    if hits and all(key is None for key in keys):
        index.check_field(field)
    known = [(key, row) for row, key in enumerate(keys) if key is not None]
    known.sort(key=lambda pair: pair[0], reverse=falling)
    without = [row for row, key in enumerate(keys) if key is None]
    return [hits[row] for row in (*(row for _, row in known), *without)]
