"""BM25 in one segment: the best rows of a query, and the scores of given rows.

Weights are whole numbers in steps of 2**-16: sums are exact, whatever their order. So what is skipped cannot
change a score. Skipped are postings of frequent tokens once the rows that hold none of the rarer tokens
cannot be among the best K any more (MaxScore; Turtle and Flood, 1995, "Query evaluation: strategies and
optimizations"): the others are looked up.

Shape letters: R rows, F the highest count, G distinct lengths, K results, n postings of a token,
C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from relsdk.index._postings import Postings
from relsdk.index._row_set import RowSet

__all__ = ["STEPS", "LexicalSegment", "Token", "length_norm"]

# Measured on titles: counts say little there, so k1 is low.
_K1 = 0.6
_B = 0.75
STEPS = 65_536
# Up to so many allowed rows, each is looked up.
_FEW_ROWS = 2_000
# A look-up of a row costs as much as so many postings.
_LOOKUP = 8
# Whether to go on is asked again after postings of so large a share of the rows: it costs a pass over all.
_SHARE = 8

IntArray = NDArray[np.int64]
Number = TypeVar("Number", float, NDArray[np.float64])


def length_norm(length: Number, average: float) -> Number:
    """Return k1 * (1 - b + b * length / average), of one length or of several."""
    return _K1 * (1.0 - _B + _B * length / average)


class Token(NamedTuple):
    """A token of a query in one segment.

    Attributes:
        number: Of the term.
        worth: The most that it can give: share * idf.
    """

    number: int
    worth: float


class LexicalSegment:
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
        norms = length_norm(postings.distinct_lengths.astype(np.float64), average)  # (G,)
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
        self, tokens: Sequence[Token], k: int, allowed: RowSet | None, floor: int
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

    def look_up(self, token: Token, candidates: NDArray[np.uint32], sums: NDArray[np.int32]) -> None:
        """Add what a token gives to the sums (C,) of candidates (C,)."""
        rows, codes = self.postings.of_term(token.number)
        places = rows.searchsorted(candidates)
        places[places == len(rows)] = 0
        hits = np.flatnonzero(rows[places] == candidates)
        sums[hits] += self._given(token.worth, codes[places[hits]])

    def _add_rarest(
        self, tokens: Sequence[Token], rest: Sequence[int], k: int, floor: int, sums: NDArray[np.int32]
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

    def _add(self, token: Token, sums: NDArray[np.int32]) -> None:
        rows, codes = self.postings.of_term(token.number)
        np.add.at(sums, rows.astype(np.intp), self._given(token.worth, codes))

    def _given(self, worth: float, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return what postings give, (n,), in whole steps."""
        if len(codes) < len(self._weights):
            return np.rint(self._weights.take(codes) * (worth * STEPS)).astype(np.int32)
        return np.rint(self._weights * (worth * STEPS)).astype(np.int32).take(codes)

    def _highest_sum(self, token: Token) -> int:
        """Return the most that the token gives in this segment."""
        weight = float(self._highest[token.number])
        if weight < 0:
            _, codes = self.postings.of_term(token.number)
            self._highest[token.number] = weight = float(self._weights.take(codes).max())
        return round(weight * (token.worth * STEPS))

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
