"""BM25 over the postings of several segments.

The score of a row is the sum, over the distinct tokens of the query that it holds, of

    share * idf * count / (count + k1 * (1 - b + b * length / average length))
    idf = ln(1 + (N - n + 0.5) / (n + 0.5))

(Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework", in the form of Lucene: without the
constant factor k1 + 1, so that share * idf is the most that a token can give). N, n and the average are of
the live rows of all segments: a score does not depend on how rows are spread, nor on dead ones. The share of
a token is 1, and less for one that others of the query make up, such as a bigram of characters: most of what
it says they have said.

Weights are whole numbers in steps of 2**-16: sums are exact, whatever their order. So what is skipped cannot
change a score. Skipped are postings of frequent tokens once the rows that hold none of the rarer tokens
cannot be among the best K any more (MaxScore; Turtle and Flood, 1995, "Query evaluation: strategies and
optimizations"): the others are looked up.

Shape letters: S segments, R rows of one, K results, n postings of a token, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.index._postings import Postings, encode_term
from relsdk.index._row_set import RowSet
from relsdk.index.analysis import WHOLE_WORD

__all__ = ["LexicalHits", "LexicalQuery", "LexicalSearch"]

# Measured on titles. Counts say little there, so k1 is low. Bigrams with a full share lost 2 points of
# recall@10 of questions; without them, names cut off lost 8 points of reciprocal rank.
_K1 = 0.6
_B = 0.75
_COMPOUND_SHARE = 0.4
_LONGEST_PART = 64
_STEPS = 65_536
# The sum of so many tokens fits 31 bits: idf is below 23 for 2**32 rows. Of more, the rarest count.
_MOST_TOKENS = 512
# Up to so many allowed rows, each is looked up.
_FEW_ROWS = 2_000
# A look-up of a row costs as much as so many postings.
_LOOKUP = 8
# Whether to go on is asked again after postings of so large a share of the rows: it costs a pass over all.
_SHARE = 8

IntArray = NDArray[np.int64]


class LexicalHits(NamedTuple):
    """What a search found, best first; equal scores by segment and row.

    Attributes:
        segments: (K,) int64 numbers of segments.
        rows: (K,) int64 rows in them.
        scores: (K,) float32 BM25, above 0.
    """

    segments: IntArray
    rows: IntArray
    scores: NDArray[np.float32]


class _Token(NamedTuple):
    """A token of a query in one segment.

    Attributes:
        number: Of the term.
        worth: The most that it can give: share * idf.
    """

    number: int
    worth: float


@dataclass(frozen=True)
class LexicalQuery:
    """A query, looked up in the terms of the segments.

    Attributes:
        tokens: For each segment those that it holds, rarest first.
        best_possible: What no row can surpass: the sum of share * idf, also of tokens that no row holds.
    """

    tokens: tuple[tuple[_Token, ...], ...]
    best_possible: float


class LexicalSearch:
    """Searches the live rows of all segments of a generation; safe to call from many threads.

    Args:
        parts: For each segment its postings, and which rows are alive; None for all.
    """

    def __init__(self, parts: Sequence[tuple[Postings, RowSet | None]]) -> None:
        self._live_rows = tokens = 0
        for postings, alive in parts:
            self._live_rows += postings.sizes.rows if alive is None else alive.count
            which: NDArray[np.bool_] | bool = True if alive is None else alive.mask
            tokens += int(np.sum(postings.lengths, dtype=np.int64, where=which))
        average = tokens / self._live_rows if tokens else 1.0
        self._segments = [_Segment(postings, alive, average) for postings, alive in parts]

    def query(self, tokens: Sequence[str]) -> LexicalQuery:
        """Look up the tokens of a query.

        Args:
            tokens: As the analyser of the index gives them; each counts once.

        Raises:
            IndexFolderError: Postings are damaged.
        """
        distinct = list(dict.fromkeys(tokens))
        terms = list(map(encode_term, distinct))
        numbers = [segment.postings.find(terms) for segment in self._segments]
        counts = np.zeros(len(terms), dtype=np.int64)
        for segment, found in zip(self._segments, numbers, strict=True):
            held_by = [segment.live_count(number) if number >= 0 else 0 for number in found]
            counts += np.array(held_by, dtype=np.int64)
        worths = np.log1p((self._live_rows - counts + 0.5) / (counts + 0.5))
        worths *= _shares(distinct)
        order = np.argsort(counts, kind="stable").tolist()
        known = [place for place in order if counts[place]][:_MOST_TOKENS]
        held = tuple(
            tuple(_Token(found[place], float(worths[place])) for place in known if found[place] >= 0)
            for found in numbers
        )
        return LexicalQuery(held, float(worths.sum()))

    def search(
        self, query: LexicalQuery, k: int, allowed: Sequence[RowSet | None] | None = None
    ) -> LexicalHits:
        """Find the rows with the highest scores; a row that holds no token of the query is never found.

        Args:
            query: From `query`.
            k: How many at most.
            allowed: For each segment which of its live rows may be found; None for all that are alive.

        Raises:
            IndexFolderError: Postings are damaged.
        """
        sets = allowed if allowed is not None else [None] * len(self._segments)
        hits: list[tuple[int, IntArray, NDArray[np.int32]]] = []
        scores = np.empty(0, dtype=np.int32)
        for number in sorted(range(len(sets)), key=lambda one: -self._segments[one].postings.sizes.rows):
            floor = int(np.partition(scores, -k)[-k]) if len(scores) >= k else 1
            segment = self._segments[number]
            rows, found = segment.search(query.tokens[number], k, sets[number], floor)
            hits.append((number, rows, found))
            scores = np.concatenate([scores, found])
        return _merge(hits, k)

    def scores(self, query: LexicalQuery, segment: int, rows: IntArray) -> NDArray[np.float32]:
        """Return the BM25 of rows of one segment, (n,), 0 for those without a token of the query.

        Args:
            query: From `query`.
            segment: Its number.
            rows: (n,) int64, in any order; fastest when rising.

        Raises:
            IndexFolderError: Postings are damaged.
        """
        sums = np.zeros(len(rows), dtype=np.int32)
        candidates = rows.astype(np.uint32)
        for token in query.tokens[segment]:
            self._segments[segment].look_up(token, candidates, sums)
        return _as_scores(sums)


class _Segment:
    """One segment: what of a score follows from it and from the average length.

    Args:
        postings: The postings.
        alive: Which rows are; None for all.
        average: Tokens of a live row.
    """

    def __init__(self, postings: Postings, alive: RowSet | None, average: float) -> None:
        self.postings = postings
        self._alive = alive
        sizes = postings.sizes
        norms = _K1 * (1.0 - _B + _B * postings.distinct_lengths.astype(np.float64) / average)  # (G,)
        counts = np.arange(1, sizes.highest + 1, dtype=np.float64)[:, None]  # (F, 1)
        self._weights = (counts / (counts + norms)).ravel()  # for each code
        # Of each term, once it was asked for: live rows that hold it, and the highest weight there.
        self._live_counts = np.full(sizes.terms, -1, dtype=np.int64)
        self._highest = np.full(sizes.terms, -1.0)
        self._no_sums = None if alive is None or alive.is_full else _no_sums(alive)
        # Arrays of sums that no search uses at the moment.
        self._free: list[NDArray[np.int32]] = []

    def live_count(self, number: int) -> int:
        """Return how many live rows hold a term."""
        count = int(self._live_counts[number])
        if count < 0:
            rows, _ = self.postings.of_term(number)
            count = len(rows) if self._alive is None else int(np.count_nonzero(self._alive.mask[rows]))
            self._live_counts[number] = count
        return count

    def search(
        self, tokens: Sequence[_Token], k: int, allowed: RowSet | None, floor: int
    ) -> tuple[IntArray, NDArray[np.int32]]:
        """Find the best rows of this segment.

        Args:
            tokens: Rarest first.
            k: How many at most.
            allowed: Which live rows may be found; None for all that are alive.
            floor: Rows with a lower sum are of no use, at least 1.

        Returns:
            Rows and their sums, best first; equal sums by row.
        """
        highest = [self._highest_sum(token) for token in tokens]
        rest = np.r_[np.cumsum(highest[::-1])[::-1], 0].tolist()  # what tokens from here on can give
        if rest[0] < floor:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
        if allowed is not None and allowed.count <= _FEW_ROWS:
            candidates = allowed.rows.astype(np.uint32)
            sums, done = np.zeros(len(candidates), dtype=np.int32), 0
        else:
            all_sums = self._borrow(allowed)
            done, floor = self._add_rarest(tokens, rest, k, floor, all_sums)
            candidates = np.flatnonzero(all_sums >= max(floor - rest[done], 1)).astype(np.uint32)
            sums = all_sums[candidates]
            self._free.append(all_sums)
        for place in range(done, len(tokens)):
            self.look_up(tokens[place], candidates, sums)
            if len(sums) > k:
                floor = max(floor, int(np.partition(sums, -k)[-k]))
            keep = sums >= floor - rest[place + 1]
            candidates, sums = candidates[keep], sums[keep]
        order = np.argsort(-sums, kind="stable")[:k]
        order = order[sums[order] >= floor]
        return candidates[order].astype(np.int64), sums[order]

    def look_up(self, token: _Token, candidates: NDArray[np.uint32], sums: NDArray[np.int32]) -> None:
        """Add what a token gives to the sums (C,) of candidates (C,)."""
        rows, codes = self.postings.of_term(token.number)
        places = rows.searchsorted(candidates)
        places[places == len(rows)] = 0
        hits = np.flatnonzero(rows[places] == candidates)
        sums[hits] += self._given(token.worth, codes[places[hits]])

    def _add_rarest(
        self, tokens: Sequence[_Token], rest: Sequence[int], k: int, floor: int, sums: NDArray[np.int32]
    ) -> tuple[int, int]:
        """Add tokens to the sums (R,) until rows without any of them cannot be among the best K.

        Returns:
            How many were added, and the lowest sum that is of use.
        """
        counts = [self.live_count(token.number) for token in tokens]
        left, fresh = sum(counts), 0  # postings of further tokens, and those added since it was last asked
        for place, token in enumerate(tokens):
            if rest[0] - rest[place] > rest[place] and _SHARE * (counts[place] + fresh) > len(sums):
                fresh = 0
                floor = _kth(sums, k, floor)
                if rest[place] < floor:
                    candidates = np.count_nonzero(sums >= floor - rest[place])
                    if candidates * (len(tokens) - place) * _LOOKUP < left:
                        return place, floor
            self._add(token, sums)
            fresh += counts[place]
            left -= counts[place]
        return len(tokens), _kth(sums, k, floor)

    def _add(self, token: _Token, sums: NDArray[np.int32]) -> None:
        rows, codes = self.postings.of_term(token.number)
        np.add.at(sums, rows.astype(np.intp), self._given(token.worth, codes))

    def _given(self, worth: float, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return what postings give, (n,), in whole steps."""
        if len(codes) < len(self._weights):
            return np.rint(self._weights.take(codes) * (worth * _STEPS)).astype(np.int32)
        return np.rint(self._weights * (worth * _STEPS)).astype(np.int32).take(codes)

    def _highest_sum(self, token: _Token) -> int:
        """Return the most that the token gives in this segment."""
        weight = float(self._highest[token.number])
        if weight < 0:
            _, codes = self.postings.of_term(token.number)
            self._highest[token.number] = weight = float(self._weights.take(codes).max())
        return round(weight * (token.worth * _STEPS))

    def _borrow(self, allowed: RowSet | None) -> NDArray[np.int32]:
        """Return sums (R,): 0 where a row may be found, far below elsewhere."""
        try:
            sums = self._free.pop()
        except IndexError:
            sums = np.empty(self.postings.sizes.rows, dtype=np.int32)
        if allowed is None or allowed is self._alive:
            np.copyto(sums, 0 if self._no_sums is None else self._no_sums)
        elif allowed.is_full:
            sums.fill(0)
        else:
            _no_sums(allowed, sums)
        return sums


def _no_sums(allowed: RowSet, out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """Return 0 for each row that may be found, else -2**31, from where no row gets above 0."""
    sums = np.subtract(allowed.mask.view(np.int8), 1, out=out, dtype=np.int32)  # 0 or -1
    return np.left_shift(sums, 31, out=sums)


def _shares(tokens: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of each distinct token of a query."""
    known = set(tokens)
    shares = np.ones(len(tokens))
    for place, token in enumerate(tokens):
        bare = token.removeprefix(WHOLE_WORD)
        cuts = range(0 if bare != token else 1, min(len(bare), _LONGEST_PART))
        if any(bare[cut:] in known and (not cut or bare[:cut] in known) for cut in cuts):
            shares[place] = _COMPOUND_SHARE
    return shares


def _kth(sums: NDArray[np.int32], k: int, floor: int) -> int:
    """Return a sum that at least K rows reach, near the highest such; `floor` where it finds none above.

    It is guessed from a sample and then counted: to find the very highest takes 10 times as long.
    """
    step = max(1, min(64, len(sums) // 4096))
    sample = sums[::step]
    sample = sample[sample > floor]  # to partition many equal numbers takes long
    wanted = 2 * k // step + 4
    while wanted < len(sample):
        guess = int(np.partition(sample, -wanted)[-wanted])
        if np.count_nonzero(sums >= guess) >= k:
            return guess
        wanted *= 2
    return floor


def _merge(hits: Sequence[tuple[int, IntArray, NDArray[np.int32]]], k: int) -> LexicalHits:
    """Put the best rows of all segments in order."""
    if not hits:
        return LexicalHits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    segments = np.repeat([number for number, _, _ in hits], [len(rows) for _, rows, _ in hits])
    rows = np.concatenate([rows for _, rows, _ in hits])
    sums = np.concatenate([sums for _, _, sums in hits])
    order = np.lexsort((rows, segments, -sums))[:k]
    return LexicalHits(segments[order].astype(np.int64), rows[order], _as_scores(sums[order]))


def _as_scores(sums: NDArray[np.int32]) -> NDArray[np.float32]:
    return (sums / _STEPS).astype(np.float32)
