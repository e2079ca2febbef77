"""Write postings: from texts, or from postings that are there.

Both go one way: runs, each the postings of adjacent rows sorted by term, are put together term by term. So a
merge writes the same bytes as the texts would.
Shape letters: R rows, T terms, g terms of a run, n postings of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from relsdk.index._arguments import tokens_of
from relsdk.index._postings import Postings, blocks_of_terms, encode_term, term_key
from relsdk.index._postings_file import MOST_COUNT, POSTINGS_FILE, Sizes
from relsdk.index.analysis import Analyser

__all__ = ["PostingsWriter", "merge_postings"]

# A run ends with so many rows or tokens.
_RUN_ROWS = 1 << 14  # at most 2**16
_RUN_TOKENS = 1 << 20

IntArray = NDArray[np.integer[Any]]


class _Run(ABC):
    """Postings of adjacent rows, sorted by term, then by row.

    Attributes:
        terms: (g,) numbers of the terms in the file to be written, rising.
        counts: (g,) postings of each.
        highest: The highest count of a term in a row.
    """

    terms: IntArray
    counts: IntArray
    highest: int

    @abstractmethod
    def read(self, first: int, stop: int) -> tuple[IntArray, IntArray]:
        """Return rows of the file to be written, and counts, of the run's terms first..stop - 1."""


class PostingsWriter:
    """Collects the tokens of texts, one text a row.

    About 4 bytes a posting are kept in memory, and each distinct term.

    Args:
        analyser: Cuts the texts.
    """

    def __init__(self, analyser: Analyser) -> None:
        self._analyser = analyser
        self._numbers = _Numbers()
        self._runs: list[_TextRun] = []
        self._lengths: array[int] = array("I")
        self._tokens: array[int] = array("q")  # the numbers of those that are in no run yet
        self._base = 0  # the first row that is in no run yet

    def add(self, texts: Sequence[str]) -> None:
        """Take the texts of the next rows."""
        for text in texts:
            before = len(self._tokens)
            self._tokens.extend(map(self._numbers.__getitem__, tokens_of(self._analyser, text)))
            self._lengths.append(len(self._tokens) - before)
            if len(self._tokens) >= _RUN_TOKENS or len(self._lengths) - self._base == _RUN_ROWS:
                self._end_run()

    def save(self, folder: Path) -> None:
        """Write the file into a folder that has none.

        Raises:
            OSError: The file system refused.
        """
        self._end_run()
        names = list(map(encode_term, self._numbers))
        order = sorted(range(len(names)), key=names.__getitem__)
        ranks = np.empty(len(names), dtype=np.int64)
        ranks[order] = np.arange(len(names))
        for run in self._runs:
            run.sort(ranks)
        lengths = np.array(self._lengths, dtype=np.uint32)
        _write(folder / POSTINGS_FILE, [names[number] for number in order], lengths, self._runs)

    def _end_run(self) -> None:
        lengths = np.array(self._lengths[self._base :], dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        self._runs.append(_TextRun(np.array(self._tokens, dtype=np.int64), rows, self._base))
        self._tokens = array("q")
        self._base = len(self._lengths)


class _Numbers(dict[str, int]):
    """Gives each new term the next number."""

    def __missing__(self, term: str) -> int:
        self[term] = number = len(self)
        return number


class _TextRun(_Run):
    """The postings of texts, in memory.

    Args:
        numbers: The term of each token.
        rows: The row of each token within the run, below 2**16.
        base: The first row of the run.
    """

    def __init__(self, numbers: NDArray[np.int64], rows: NDArray[np.int64], base: int) -> None:
        keys, times = np.unique(numbers << 16 | rows, return_counts=True)
        self._base = base
        self._rows = (keys & 0xFFFF).astype(np.uint16)
        self._times = np.minimum(times, MOST_COUNT).astype(np.uint8)
        self.terms, counts = np.unique(keys >> 16, return_counts=True)
        self.counts = counts.astype(np.uint32)
        self.terms = self.terms.astype(np.uint32)
        self.highest = int(self._times.max(initial=0))

    def sort(self, ranks: NDArray[np.int64]) -> None:
        """Give the terms their final numbers and put the postings in their order."""
        terms = ranks[self.terms]
        order = np.argsort(terms)
        starts = np.cumsum(self.counts, dtype=np.int64) - self.counts
        places = _ranges(starts[order], self.counts[order])
        self.terms = terms[order].astype(np.uint32)
        self.counts = self.counts[order]
        self._rows, self._times = self._rows[places], self._times[places]
        self._starts = np.r_[0, np.cumsum(self.counts, dtype=np.int64)]

    def read(self, first: int, stop: int) -> tuple[IntArray, IntArray]:
        start, end = self._starts[first], self._starts[stop]
        return self._rows[start:end].astype(np.int64) + self._base, self._times[start:end]


class _KeptRun(_Run):
    """The postings of some rows of a segment.

    Args:
        postings: Of the segment.
        kept: Its rows, rising.
        base: The row that the first of them becomes.

    Raises:
        IndexFolderError: The postings are damaged.
    """

    def __init__(self, postings: Postings, kept: NDArray[np.int64], base: int) -> None:
        self._postings = postings
        self._renumbered = np.full(postings.sizes.rows, -1, dtype=np.int64)
        self._renumbered[kept] = np.arange(base, base + len(kept))
        self.highest = 0
        counts = np.empty(postings.sizes.terms, dtype=np.int64)
        for first, stop in blocks_of_terms(postings.starts):
            rows, codes = postings.of_terms(first, stop)
            keep = self._renumbered[rows] >= 0
            starts = (postings.starts[first:stop] - postings.starts[first]).astype(np.int64)
            counts[first:stop] = np.add.reduceat(keep, starts, dtype=np.int64)
            self.highest = max(self.highest, int(postings.counts(codes[keep]).max(initial=0)))
        self._terms = np.flatnonzero(counts)  # in the segment
        self.counts = counts[self._terms]

    def names(self) -> list[bytes]:
        """Return the terms that the rows hold."""
        return [self._postings.term(number) for number in self._terms.tolist()]

    def read(self, first: int, stop: int) -> tuple[IntArray, IntArray]:
        if first == stop:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint8)
        rows, codes = self._postings.of_terms(int(self._terms[first]), int(self._terms[stop - 1]) + 1)
        renumbered = self._renumbered[rows]
        keep = renumbered >= 0
        return renumbered[keep], self._postings.counts(codes[keep])


def merge_postings(parts: Sequence[tuple[Postings, NDArray[np.int64]]], folder: Path) -> None:
    """Write the postings of rows of several segments, as if their texts were analysed again, in this order.

    Args:
        parts: Postings of a segment, and which of its rows to keep, rising.
        folder: Where to write; it has no postings yet.

    Raises:
        IndexFolderError: Postings are damaged.
        OSError: The file system refused.
    """
    runs, lengths, base = [], [], 0
    for postings, kept in parts:
        runs.append(_KeptRun(postings, kept, base))
        lengths.append(postings.lengths[kept])
        base += len(kept)
    names = [run.names() for run in runs]
    terms = sorted(set(chain.from_iterable(names)))
    numbers = {term: number for number, term in enumerate(terms)}
    for run, held in zip(runs, names, strict=True):
        run.terms = np.fromiter(map(numbers.__getitem__, held), dtype=np.int64, count=len(held))
    all_lengths = np.concatenate(lengths) if lengths else np.empty(0, dtype=np.uint32)
    _write(folder / POSTINGS_FILE, terms, all_lengths, runs)


def _write(path: Path, terms: list[bytes], lengths: NDArray[np.uint32], runs: Sequence[_Run]) -> None:
    """Write the file.

    Args:
        path: Where nothing is yet.
        terms: (T,) rising.
        lengths: (R,) tokens of each row.
        runs: In the order of their rows.
    """
    counts = np.zeros(len(terms), dtype=np.int64)
    for run in runs:
        counts[run.terms] += run.counts
    starts = np.r_[0, np.cumsum(counts)]
    ends = np.r_[0, np.cumsum(np.fromiter(map(len, terms), dtype=np.int64, count=len(terms)))]
    distinct, ranks = np.unique(lengths, return_inverse=True)
    highest = max((run.highest for run in runs), default=0)
    sizes = Sizes(len(lengths), len(terms), int(starts[-1]), int(ends[-1]), highest, len(distinct))
    places = {name: (offset, dtype) for name, offset, _, dtype in sizes.sections()}
    with path.open("xb") as stream:
        stream.truncate(sizes.total())
        stream.write(sizes.header())
        sections: dict[str, Any] = {
            "lengths": lengths,
            "sizes": distinct,
            "starts": starts,
            "ends": ends,
            "keys": np.fromiter(map(term_key, terms), dtype=np.uint64, count=len(terms)),
            "text": np.frombuffer(b"".join(terms), dtype=np.uint8),
        }
        for name, values in sections.items():
            offset, dtype = places[name]
            _put(stream, offset, np.asarray(values).astype(dtype))
        for first, stop in blocks_of_terms(starts):
            rows, times = _gather(runs, first, stop, starts)
            codes = (times - 1) * len(distinct) + ranks[rows]
            for name, values in (("rows", rows), ("codes", codes)):
                offset, dtype = places[name]
                _put(stream, offset + int(starts[first]) * dtype.itemsize, values.astype(dtype))


def _gather(
    runs: Sequence[_Run], first: int, stop: int, starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put the postings of terms first..stop - 1 of all runs in order: rows and counts, (n,)."""
    size = int(starts[stop] - starts[first])
    rows, times = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    free = (starts[first:stop] - starts[first]).copy()  # where the next run goes on, for each term
    for run in runs:
        low, high = run.terms.searchsorted([first, stop]).tolist()
        counts = run.counts[low:high].astype(np.int64)
        terms = run.terms[low:high].astype(np.int64) - first
        places = _ranges(free[terms], counts)
        rows[places], times[places] = run.read(low, high)
        free[terms] += counts
    return rows, times


def _ranges(starts: IntArray, counts: IntArray) -> NDArray[np.int64]:
    """Return start, start + 1, ... for each range, one behind the other."""
    counts = counts.astype(np.int64)
    before = np.cumsum(counts) - counts
    return np.repeat(starts.astype(np.int64) - before, counts) + np.arange(int(counts.sum()))


def _put(stream: BinaryIO, offset: int, values: NDArray[Any]) -> None:
    stream.seek(offset)
    stream.write(values.tobytes())
