"""BM25 over the postings of several segments.

The score of a row is the sum, over the distinct tokens of the query that it holds, of

    share * idf * count / (count + k1 * (1 - b + b * length / average length))
    idf = ln(1 + (N - n + 0.5) / (n + 0.5))

(Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework", in the form of Lucene: without the
constant factor k1 + 1, so that share * idf is the most that a token can give). N, n and the average are of
the live rows of all segments: a score does not depend on how rows are spread, nor on dead ones. The share of
a token is 1, and less for one that others of the query make up, such as a bigram of characters: most of what
it says they have said.

Shape letters: K results, n rows or texts, t tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.index._lexical_segment import STEPS, LexicalSegment, Token, length_norm
from relsdk.index._postings import Postings, encode_term
from relsdk.index._row_set import RowSet
from relsdk.index.analysis import WHOLE_WORD

__all__ = ["LexicalHits", "LexicalQuery", "LexicalSearch"]

# Measured on titles: bigrams with a full share lost 2 points of recall@10 of questions; without bigrams,
# names cut off lost 8 points of reciprocal rank.
_COMPOUND_SHARE = 0.4
_LONGEST_PART = 64
# The sum of so many tokens fits 31 bits: idf is below 23 for 2**32 rows. Of more, the rarest count.
_MOST_TOKENS = 512

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


@dataclass(frozen=True)
class LexicalQuery:
    """A query, looked up in the terms of the segments.

    Attributes:
        tokens: For each segment those that it holds, rarest first.
        best_possible: What no row can surpass: the sum of share * idf, also of tokens that no row holds.
    """

    tokens: tuple[tuple[Token, ...], ...]
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
        self._average = tokens / self._live_rows if tokens else 1.0
        self._segments = [LexicalSegment(postings, alive, self._average) for postings, alive in parts]

    def query(self, tokens: Sequence[str]) -> LexicalQuery:
        """Look up the tokens of a query.

        Args:
            tokens: As the analyser of the index gives them; each counts once.

        Raises:
            IndexFolderError: Postings are damaged.
        """
        distinct = list(dict.fromkeys(tokens))
        numbers, counts, worths = self._look_up(distinct)
        order = np.argsort(counts, kind="stable").tolist()
        known = [place for place in order if counts[place]][:_MOST_TOKENS]
        held = tuple(
            tuple(Token(found[place], float(worths[place])) for place in known if found[place] >= 0)
            for found in numbers
        )
        return LexicalQuery(held, float(worths.sum()))

    def text_scores(
        self, tokens: Sequence[str], texts: Sequence[Sequence[str]]
    ) -> tuple[NDArray[np.float64], float]:
        """Return what texts get that need not be rows, such as those of labelled pairs.

        Args:
            tokens: Of the query.
            texts: n texts, in tokens.

        Returns:
            (n,) BM25, and what no text can surpass.

        Raises:
            IndexFolderError: Postings are damaged.
        """
        distinct = list(dict.fromkeys(tokens))
        _, _, worths = self._look_up(distinct)
        worth = dict(zip(distinct, worths.tolist(), strict=True))
        scores = np.zeros(len(texts))
        for number, text in enumerate(texts):
            norm = length_norm(len(text), self._average)
            held = Counter(token for token in text if token in worth)
            scores[number] = sum(worth[token] * count / (count + norm) for token, count in held.items())
        return scores, float(worths.sum())

    def _look_up(
        self, tokens: Sequence[str]
    ) -> tuple[list[list[int]], NDArray[np.int64], NDArray[np.float64]]:
        """Return of distinct tokens (t): numbers in each segment, live rows (t,), share * idf (t,)."""
        terms = list(map(encode_term, tokens))
        numbers = [segment.postings.find(terms) for segment in self._segments]
        counts = np.zeros(len(terms), dtype=np.int64)
        for segment, found in zip(self._segments, numbers, strict=True):
            held_by = [segment.live_count(number) if number >= 0 else 0 for number in found]
            counts += np.array(held_by, dtype=np.int64)
        idfs = np.log1p((self._live_rows - counts + 0.5) / (counts + 0.5))
        return numbers, counts, idfs * _shares(tokens)

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
    return (sums / STEPS).astype(np.float32)
