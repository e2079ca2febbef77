"""The postings of one segment: which of its rows hold a term, how often, and how long the rows are.

Shape letters: R rows, T terms, P postings, n postings of one term, F the highest count, G distinct lengths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._postings_file import MOST_COUNT, POSTINGS_FILE, Sizes, map_sections

__all__ = ["POSTINGS_FILE", "Postings", "blocks_of_terms", "encode_term", "term_key"]

_BLOCK = 1 << 20


def encode_term(token: str) -> bytes:
    """Return the bytes of a term; a lone surrogate is one, too."""
    return token.encode("utf-8", "surrogatepass")


def term_key(term: bytes) -> int:
    """Return the first 8 bytes as a number that rises with the terms."""
    return int.from_bytes(term[:8].ljust(8, b"\0"), "big")


def blocks_of_terms(starts: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """Cut the terms into ranges of about `_BLOCK` postings, at least one term each.

    Args:
        starts: (T + 1,) where the postings of each term begin.
    """
    blocks, first, count = [], 0, len(starts) - 1
    while first < count:
        stop = int(np.searchsorted(starts, int(starts[first]) + _BLOCK, "right")) - 1
        stop = min(max(stop, first + 1), count)
        blocks.append((first, stop))
        first = stop
    return blocks


class Postings:
    """The postings of one segment, mapped into memory.

    Attributes:
        path: The file.
        sizes: R, T, P, F, G.
        lengths: (R,) uint32, tokens of each row.
        distinct_lengths: (G,) uint32, rising.
        starts: (T + 1,) uint64, where the postings of each term begin.
    """

    def __init__(self, path: Path, sizes: Sizes, sections: dict[str, NDArray[Any]]) -> None:
        self.path = path
        self.sizes = sizes
        self.lengths: NDArray[np.uint32] = sections["lengths"]
        self.distinct_lengths: NDArray[np.uint32] = sections["sizes"]
        self.starts: NDArray[np.uint64] = sections["starts"]
        self._ends, self._keys, self._text = sections["ends"], sections["keys"], sections["text"]
        self._rows, self._codes = sections["rows"], sections["codes"]
        self._checked = np.zeros(sizes.terms, dtype=np.bool_)

    @classmethod
    def load(cls, folder: Path, rows: int) -> Postings:
        """Map what `PostingsWriter.save` or `merge_postings` wrote; only lists of terms and lengths are read.

        Args:
            folder: The segment's folder.
            rows: R.

        Raises:
            IndexFolderError: The file is missing, damaged, or of other rows.
        """
        path = folder / POSTINGS_FILE
        return cls(path, *map_sections(path, rows))

    def term(self, number: int) -> bytes:
        """Return the text of a term."""
        return self._text[int(self._ends[number]) : int(self._ends[number + 1])].tobytes()

    def find(self, terms: Sequence[bytes]) -> list[int]:
        """Return the number of each term, -1 for those that no row holds."""
        keys = np.array([term_key(term) for term in terms], dtype=np.uint64)
        firsts = self._keys.searchsorted(keys, "left").tolist()
        stops = self._keys.searchsorted(keys, "right").tolist()
        numbers = []
        for term, first, stop in zip(terms, firsts, stops, strict=True):
            number = first
            if stop - first > 1:  # terms with the same first 8 bytes
                number = bisect_left(range(stop), term, lo=first, key=self.term)
            numbers.append(number if number < stop and self.term(number) == term else -1)
        return numbers

    def of_term(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.unsignedinteger[Any]]]:
        """Return the postings of a term: rows (n,), rising, and codes (n,).

        Raises:
            IndexFolderError: They are damaged; looked for when a term is first asked for.
        """
        start, stop = int(self.starts[number]), int(self.starts[number + 1])
        rows, codes = self._rows[start:stop], self._codes[start:stop]
        if not self._checked[number]:
            self._check(rows, codes, (rows[1:] > rows[:-1]).all())
            self._checked[number] = True
        return rows, codes

    def of_terms(self, first: int, stop: int) -> tuple[NDArray[np.uint32], NDArray[np.unsignedinteger[Any]]]:
        """Return the postings of terms first..stop - 1 one behind the other: rows and codes.

        Raises:
            IndexFolderError: They are damaged.
        """
        starts = self.starts[first : stop + 1].astype(np.int64)
        rows, codes = self._rows[starts[0] : starts[-1]], self._codes[starts[0] : starts[-1]]
        rising = rows[1:] > rows[:-1]
        rising[starts[1:-1] - starts[0] - 1] = True  # another term
        self._check(rows, codes, rising.all())
        return rows, codes

    def _check(self, rows: NDArray[Any], codes: NDArray[Any], rising: np.bool_) -> None:
        if not rising or rows.max() >= self.sizes.rows:
            raise self._damaged(f"rows do not rise below {self.sizes.rows:,}")
        if codes.max() >= self.sizes.highest * self.sizes.lengths:
            raise self._damaged("the count or length of a row is out of range")

    def counts(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.integer[Any]]:
        """Return how often the row holds the term, for each code, (n,)."""
        return codes // self.sizes.lengths + 1

    def problems(self) -> list[str]:
        """Look at every term and posting; for `verify`.

        Returns:
            What is wrong, the first of each kind.
        """
        try:
            return [problem for problem in (self._wrong_term(), self._wrong_row()) if problem]
        except IndexFolderError as error:
            return [str(error)]

    def _wrong_term(self) -> str | None:
        before = b""
        for number, key in enumerate(self._keys.tolist()):
            term = self.term(number)
            if (number and term <= before) or term_key(term) != key:
                return f"term {number:,} is out of order"
            before = term
        return None

    def _wrong_row(self) -> str | None:
        """Compare the lengths of rows with those in their postings, and with what these add up to."""
        ranks = self.distinct_lengths.searchsorted(self.lengths)  # (R,)
        tokens = np.zeros(self.sizes.rows, dtype=np.int64)
        capped = np.zeros(self.sizes.rows, dtype=np.bool_)
        for first, stop in blocks_of_terms(self.starts):
            rows, codes = self.of_terms(first, stop)
            counts = self.counts(codes)
            if not np.array_equal(ranks[rows], codes % self.sizes.lengths):
                return f"a row of terms {first:,} to {stop:,} has another length in its postings"
            tokens += np.bincount(rows, counts, self.sizes.rows).astype(np.int64)
            capped[rows[counts == MOST_COUNT]] = True
        wrong = np.flatnonzero((tokens != self.lengths) & ~capped)
        if not len(wrong):
            return None
        row = wrong[0]
        return f"row {row:,} has {self.lengths[row]:,} tokens, its postings {tokens[row]:,}"

    def _damaged(self, fault: str) -> IndexFolderError:
        return IndexFolderError(f"{self.path} is damaged: {fault}; build the index again")
