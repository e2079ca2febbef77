"""Which pairs to label next: uncertain ones, spread over queries and levels.

Shape letters: N candidates, L = 4 levels, S strata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.levels import NUM_LEVELS
from relsdk.records import Document, Hit
from relsdk.search.searcher import Searcher

__all__ = ["Suggestion", "suggest_pairs"]

# Hits of a query among which is chosen.
_CANDIDATES = 30
_BATCH = 64
# At most so many pairs of a query, unless that gives fewer than asked for.
_A_QUERY = 3
# Cosines are spread over so many equal parts where there are no levels.
_QUANTILES = 10


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A pair that is worth a label.

    Attributes:
        query: What is searched for.
        document: A hit; where the index splits documents, title and passage, and no id.
        stratum: The expected level, rounded; without levels the tenth of the cosines, from 0.
        weight: How many candidates it stands for: those of its stratum, divided by the chosen ones.
    """

    query: str
    document: Document
    stratum: int
    weight: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    query: str
    document: Document
    cosine: float
    probabilities: tuple[float, ...] | None


def suggest_pairs(
    searcher: Searcher,
    queries: Sequence[str],
    count: int,
    *,
    labelled: Iterable[tuple[str, Document]] = (),
    seed: int = 0,
) -> list[Suggestion]:
    """Choose pairs among the hits of queries.

    The hits are divided by their expected level (without a calibration by their cosine), and each part gives
    as many pairs, as far as it has them, so that every level is among the labels. Of a part the most
    uncertain come first, by the entropy of their level probabilities (Lewis & Gale 1994, "A sequential
    algorithm for training text classifiers"), divided by one more than the pairs that their query has
    already; a query gives at most three, or more where that does not reach the count. Equal ones are taken in
    a random order.

    So the pairs are no sample of what people see. Levels that are fitted on them suffer little, because the
    choice goes by the score and a fit says what a score means; shares do: accuracy, calibration error, and a
    promised precision are those of the chosen pairs. `weight` makes up for the parts, and not for the choice
    of the uncertain within one.

    Args:
        searcher: Finds the hits, by its own mode.
        queries: What people search for; equal ones count once.
        count: How many pairs.
        labelled: Pairs that have a label: they are not chosen.
        seed: Of the random order.

    Returns:
        The pairs by query, in the order of the queries; fewer than the count where there are fewer hits
        without a label (of each query the first 30 are looked at).

    Raises:
        InputError: No query, a count below 1, or no hit that has no label yet.
    """
    distinct = list(dict.fromkeys(queries))
    if not distinct:
        raise InputError("there are no queries; give some hundreds that people typed")
    if count < 1:
        raise InputError(f"count={count}; at least 1 pair is needed")
    candidates = _candidates(searcher, distinct, labelled)
    if not candidates:
        raise InputError("nothing is left to label: no query has a hit that is not among the labelled pairs")
    strata, uncertainty = _strata(candidates), _uncertainty(candidates)
    chosen = _choose(candidates, strata, uncertainty, count, len(distinct), seed)
    there, taken = np.bincount(strata), np.bincount(strata[chosen])
    return [
        Suggestion(one.query, one.document, part, float(there[part] / taken[part]))
        for row in sorted(chosen)
        for one, part in [(candidates[row], int(strata[row]))]
    ]


def _candidates(
    searcher: Searcher, queries: list[str], labelled: Iterable[tuple[str, Document]]
) -> list[_Candidate]:
    """Return the hits of each query that have no label, each text once."""
    seen = {(query, document.title, document.text) for query, document in labelled}
    candidates = []
    for start in range(0, len(queries), _BATCH):
        some = queries[start : start + _BATCH]
        for query, hits in zip(some, searcher.search_batch(some, _CANDIDATES), strict=True):
            for hit in hits:
                document = _document(hit)
                key = (query, document.title, document.text)
                if key not in seen:
                    seen.add(key)
                    candidates.append(_Candidate(query, document, hit.cosine, hit.probabilities))
    return candidates


def _document(hit: Hit) -> Document:
    """Return what is labelled; a passage is not the document of that id."""
    if hit.passage is None:
        return hit.document
    return Document("", hit.document.title, hit.passage.text)


def _strata(candidates: list[_Candidate]) -> NDArray[np.int64]:
    """Return the part that each candidate belongs to, (N,)."""
    if all(one.probabilities is not None for one in candidates):
        probabilities = np.array([one.probabilities for one in candidates])  # (N, L)
        return np.rint(probabilities @ np.arange(NUM_LEVELS)).astype(np.int64)
    cosines = np.array([one.cosine for one in candidates])
    order = np.argsort(np.argsort(cosines, kind="stable"), kind="stable")
    return np.asarray(order * _QUANTILES // len(cosines), dtype=np.int64)


def _uncertainty(candidates: list[_Candidate]) -> NDArray[np.float64]:
    """Return the entropy of each candidate's levels in nats, (N,); the same for all without levels."""
    if any(one.probabilities is None for one in candidates):
        return np.ones(len(candidates))
    probabilities = np.array([one.probabilities for one in candidates])  # (N, L), none is 0
    entropy: NDArray[np.float64] = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    return entropy


def _choose(
    candidates: list[_Candidate],
    strata: NDArray[np.int64],
    uncertainty: NDArray[np.float64],
    count: int,
    queries: int,
    seed: int,
) -> list[int]:
    """Return the rows that are chosen: a part after the other gives its best, until there are enough."""
    names = {name: row for row, name in enumerate(dict.fromkeys(one.query for one in candidates))}
    query = np.array([names[one.query] for one in candidates])  # (N,)
    most = max(_A_QUERY, ceil(count / queries))
    order = np.random.default_rng(seed).permutation(len(candidates))
    left = {part: order[strata[order] == part] for part in sorted(Counter(strata.tolist()))}
    of_query = np.zeros(len(names), dtype=np.int64)
    chosen: list[int] = []
    while left and len(chosen) < count:
        before = len(chosen)
        for part in list(left):
            if not len(left[part]):
                del left[part]
                continue
            rows = left[part][of_query[query[left[part]]] < most]
            if not len(rows):
                continue
            best = int(rows[np.argmax(uncertainty[rows] / (1 + of_query[query[rows]]))])
            chosen.append(best)
            of_query[query[best]] += 1
            left[part] = left[part][left[part] != best]
            if len(chosen) == count:
                break
        if len(chosen) == before:  # some queries have fewer hits: the others make up for them
            most += 1
    return chosen
