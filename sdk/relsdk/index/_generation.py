"""One generation of an index, open for reading: segments, and which of their documents are alive.

Shape letters: N documents of a segment, Q queries, D dimension, K results of each query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import HybridLink
from relsdk.errors import IndexFolderError, InputError
from relsdk.index._filter_compiler import FilterCompiler
from relsdk.index._hybrid_file import load_hybrid
from relsdk.index._lexical_search import LexicalSearch
from relsdk.index._manifest import Manifest, SegmentEntry, check_files, dead_file, read_manifest
from relsdk.index._row_set import RowSet
from relsdk.index._segment import Segment, load_segment
from relsdk.index.filter_parser import parse_field
from relsdk.records import Document, Passage

__all__ = ["Found", "Generation", "load_generation"]

# A graph of several needs less effort than one alone: each holds a part of the nearest only.
_LEAST_EFFORT = 48


class Found(NamedTuple):
    """The result of a search among all segments, best first.

    Attributes:
        rows: (Q, K) document rows, counted over all segments; -1 where there are fewer than K.
        scores: (Q, K) float32 cosines, falling.
        vectors: (Q, K) vector rows, counted over all segments: the best passage of each document.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    vectors: NDArray[np.int64]


class Generation:
    """The open files of one generation.

    Rows are counted over all segments, dead documents too: document row r of segment s is `starts[s]` + r,
    its vector row `vector_starts[s]` + r.

    Args:
        name: Of its folder.
        folder: Where it is, absolute.
        manifest: What it holds.
        segments: In its order.
        alive: Of each segment, its documents (N,) that are not dead.
        hybrid: What turns cosine and BM25 into an order and levels, by variant of the encoder.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        manifest: Manifest,
        segments: Sequence[Segment],
        alive: Sequence[RowSet],
        hybrid: Mapping[str, HybridLink] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.manifest = manifest
        self.segments = tuple(segments)
        self.alive = tuple(alive)
        self.hybrid = dict(hybrid or {})
        self.starts: list[int] = np.cumsum([0, *(one.entry.count for one in segments)]).tolist()
        self.vector_starts = np.cumsum([0, *(len(segment.vectors) for segment in segments)])
        self._filters = FilterCompiler([segment.filter for segment in segments])
        self._words: LexicalSearch | None = None
        self._alive_vectors = [
            segment.vectors_of(rows) for segment, rows in zip(self.segments, self.alive, strict=True)
        ]

    def with_hybrid(self, hybrid: Mapping[str, HybridLink]) -> Generation:
        """Return the same with other models of cosine and BM25."""
        return Generation(self.name, self.folder, self.manifest, self.segments, self.alive, hybrid)

    def allowed(self, where: Mapping[str, Any] | None) -> tuple[RowSet, ...]:
        """Return which live documents of each segment a filter allows."""
        # What is no filter at all, such as "", is not an empty one.
        if where is None or (isinstance(where, Mapping) and not where):
            return self.alive
        matching = self._filters.matching(where)
        return tuple(rows & alive for rows, alive in zip(matching, self.alive, strict=True))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        ef_search: int | None,
        where: Mapping[str, Any] | None,
        exact: bool,
    ) -> Found:
        """Find the nearest of the documents that a filter allows; see `Index.search`."""
        allowed = self.allowed(where)
        k = min(k, sum(rows.count for rows in allowed))
        effort = self._effort(ef_search)
        found = []
        for number, segment in enumerate(self.segments):
            vectors = self.vectors_of(number, allowed[number])
            part = _best_documents(segment, queries, k, vectors, allowed[number].count, effort, exact)
            found.append(
                Found(part.rows + self.starts[number], part.scores, part.vectors + self.vector_starts[number])
            )
        return _merged(found, len(queries), k)

    def vectors_of(self, number: int, documents: RowSet) -> RowSet:
        """Return the vectors of documents of a segment; of those that are alive always the same object."""
        if documents is self.alive[number]:
            return self._alive_vectors[number]
        return self.segments[number].vectors_of(documents)

    def count_documents(self, segments: NDArray[np.int64], vectors: NDArray[np.int64]) -> int:
        """Return of how many documents vectors (n,) of segments (n,) are."""
        count = 0
        for number, segment in enumerate(self.segments):
            own = vectors[segments == number]
            count += len(own if segment.passages is None else np.unique(segment.documents_of(own)))
        return count

    def _effort(self, ef_search: int | None) -> int | None:
        """Return ef_search for each of several graphs, None for the configured one."""
        graphs = sum(segment.entry.has_graph for segment in self.segments)
        if graphs < 2:
            return ef_search
        whole = ef_search or self.manifest.config.ef_search
        return max(min(whole, _LEAST_EFFORT), whole // (graphs + 1))

    def words(self) -> LexicalSearch:
        """Return the search for words over all segments; made when it is first asked for.

        Raises:
            InputError: A segment has none.
        """
        if self._words is None:
            parts = []
            for segment, alive in zip(self.segments, self._alive_vectors, strict=True):
                if segment.postings is None:
                    raise InputError(
                        f"{self.folder.parent} was built by an older version and holds no words yet; run: "
                        f"relsdk index compact {self.folder.parent}"
                    )
                parts.append((segment.postings, None if alive.is_full else alive))
            self._words = LexicalSearch(parts)  # two threads may both make it; one is kept
        return self._words

    def documents(self, rows: Sequence[int]) -> dict[int, Document]:
        """Return the documents of rising rows, by row."""
        if len(self.segments) == 1:
            return self.segments[0].documents.fetch(rows)
        documents: dict[int, Document] = {}
        first = 0
        for number, segment in enumerate(self.segments):
            start, end = self.starts[number], self.starts[number + 1]
            last = bisect_left(rows, end, first)
            if last > first:
                found = segment.documents.fetch([row - start for row in rows[first:last]])
                documents.update((start + row, document) for row, document in found.items())
            first = last
        return documents

    def rows_of(self, ids: Sequence[str]) -> tuple[dict[str, int], ...]:
        """Return, of each segment, the rows of the live documents that have these ids."""
        found = []
        for segment, alive in zip(self.segments, self.alive, strict=True):
            rows = segment.documents.rows_of(ids)
            found.append({identifier: row for identifier, row in rows.items() if alive.mask[row]})
        return tuple(found)

    def by_id(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return those live documents that are there, by id."""
        documents: dict[str, Document] = {}
        for segment, rows in zip(self.segments, self.rows_of(ids), strict=True):
            found = segment.documents.fetch(sorted(rows.values()))
            documents.update((document.id, document) for document in found.values())
        return documents

    def near(self, identifier: str, count: int) -> list[str]:
        """Return live ids around one that is not there."""
        names = {name for segment in self.segments for name in segment.documents.near(identifier, count)}
        return sorted(name for rows in self.rows_of(sorted(names)) for name in rows)

    def passage(self, document: Document, vector: int) -> Passage | None:
        """Return the passage of a document that has a vector; None where documents are not split."""
        number = int(np.searchsorted(self.vector_starts, vector, side="right")) - 1
        passages = self.segments[number].passages
        if passages is None:
            return None
        _, start, end = passages[vector - self.vector_starts[number]].tolist()
        return Passage(document.text[start:end], start, end)

    def vector_of(self, identifier: str) -> NDArray[np.float32]:
        """Return the vector (D,) of a live document; of passages, the mean at length 1."""
        for segment, rows in zip(self.segments, self.rows_of([identifier]), strict=True):
            for row in rows.values():
                own = slice(row, row + 1)
                if segment.passages is not None:
                    own = slice(*np.searchsorted(segment.passages[:, 0], [row, row + 1]).tolist())
                mean = segment.vectors[own].mean(axis=0)
                length = float(np.linalg.norm(mean))
                return np.asarray(mean / length if length > 0 else segment.vectors[own.start])
        raise InputError(f"id {identifier!r} is not in the index")

    def check_field(self, name: str) -> None:
        """Refuse a name that no document has in its metadata; the document's own parts are always there.

        Raises:
            InputError: The message says which fields there are.
        """
        field = parse_field(name)
        if field.column is None:
            self._filters.check_field(field)

    def fields(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of the metadata and the kinds of their values; see `Index.fields`."""
        kinds: dict[str, set[str]] = {}
        for segment in self.segments:
            for name in segment.filter.names():
                kinds.setdefault(name, set()).update(segment.filter.kinds(parse_field(name)))
        return {name: tuple(sorted(kinds[name])) for name in sorted(kinds)}

    def facets(self, name: str, where: Mapping[str, Any] | None) -> list[tuple[str | float | bool, int]]:
        """Count the values of a field; see `Index.facets`."""
        field = parse_field(name)
        if field.column is not None:
            raise InputError(
                f"{name!r} is a part of every document; values of fields of its metadata are counted"
            )
        self._filters.check_field(field)
        sums: Counter[tuple[str, str | float | bool]] = Counter()
        for segment, allowed in zip(self.segments, self.allowed(where), strict=True):
            sums.update(segment.filter.facets(field, allowed))
        ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        return [(value, count) for (_, value), count in ordered]

    def vectors(self, path: Path) -> NDArray[np.float32]:
        """Return the vectors of all live documents; see `Index.vectors`."""
        if any(segment.passages is not None for segment in self.segments):
            raise InputError(f"{path} splits documents into passages: they have several vectors each")
        if len(self.segments) == 1 and self.alive[0].is_full:
            return self.segments[0].vectors
        pairs = zip(self.segments, self.alive, strict=True)
        parts = [segment.vectors[alive.rows] for segment, alive in pairs]
        empty = np.empty((0, self.manifest.dimension), dtype=np.float32)
        joined: NDArray[np.float32] = np.concatenate([empty, *parts])
        joined.flags.writeable = False
        return joined

    def close(self) -> None:
        """Close the connections of all segments."""
        for segment in self.segments:
            segment.documents.close()


def _best_documents(
    segment: Segment,
    queries: NDArray[np.float32],
    k: int,
    vectors: RowSet,
    documents: int,
    effort: int | None,
    exact: bool,
) -> Found:
    """Find the k nearest documents of a segment, each by its best vector."""
    k = min(k, documents)
    if segment.passages is None:
        found = segment.search(queries, k, vectors, ef_search=effort, exact=exact)
        return Found(found.rows, found.scores, found.rows)
    results = Found(
        np.full((len(queries), k), -1, dtype=np.int64),
        np.full((len(queries), k), -np.inf, dtype=np.float32),
        np.full((len(queries), k), -1, dtype=np.int64),
    )
    for query in range(len(queries)):
        wanted = 2 * k
        while True:  # several passages of one document may be among the best
            near = segment.search(queries[query : query + 1], wanted, vectors, ef_search=effort, exact=exact)
            owners, first = np.unique(segment.documents_of(near.rows[0]), return_index=True)
            if len(owners) >= k or near.rows.shape[1] >= vectors.count:
                break
            wanted *= 4
        order = np.lexsort((owners, -near.scores[0][first]))[:k]
        results.rows[query, : len(order)] = owners[order]
        results.scores[query, : len(order)] = near.scores[0][first[order]]
        results.vectors[query, : len(order)] = near.rows[0][first[order]]
    return results


def _merged(found: Sequence[Found], queries: int, k: int) -> Found:
    """Merge the results of segments by score; equal ones stay in the order of the rows."""
    if len(found) == 1:
        return found[0]
    if not found:
        empty = np.empty((queries, 0), dtype=np.int64)
        return Found(empty, empty.astype(np.float32), empty)
    rows, scores, vectors = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    queries_before = np.arange(queries)[:, None]
    return Found(rows[queries_before, order], scores[queries_before, order], vectors[queries_before, order])


def load_generation(
    name: str, folder: Path, check: str = "hashes", known: Sequence[Segment] = ()
) -> Generation:
    """Open the files of a generation.

    Args:
        name: Of the generation.
        folder: Its folder.
        check: "hashes" or "sizes"; see `Index.open`.
        known: Segments that are open already: they are not opened again.

    Raises:
        IndexFolderError: A file is missing, damaged or not what the manifest says.
    """
    folder = folder.absolute()
    manifest = read_manifest(folder)
    check_files(folder, manifest, hashes=check == "hashes")
    opened = {_key(one.folder, one.entry): one for one in known if one.documents.holds}
    segments: list[Segment] = []
    for entry in manifest.segments:
        key = _key(folder.parent / entry.folder, entry)
        if key in opened:
            segments.append(replace(opened[key], entry=entry))  # fewer may live, or it may be on the disk now
        else:
            segments.append(load_segment(folder.parent, entry, manifest.dimension, manifest.config))
    alive = [_load_alive(folder, entry) for entry in manifest.segments]  # their files have as many rows
    return Generation(name, folder, manifest, segments, alive, load_hybrid(folder, manifest))


def _key(folder: Path, entry: SegmentEntry) -> tuple[Any, ...]:
    """Return what tells segments apart; how many live, and whether it is on the disk, changes."""
    return folder, entry.count, entry.rows, frozenset(entry.files.items())


def _load_alive(folder: Path, entry: SegmentEntry) -> RowSet:
    """Read which documents of a segment are alive."""
    if entry.live == entry.count:
        return RowSet(np.ones(entry.count, dtype=np.bool_), entry.count)
    path = folder / dead_file(entry.folder)
    try:
        bits = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise IndexFolderError(f"cannot read {path}: {error.strerror or error}") from error
    if len(bits) != (entry.count + 7) // 8:
        raise IndexFolderError(f"{path} has {len(bits):,} bytes, not one bit for {entry.count:,} documents")
    alive = RowSet(np.unpackbits(bits, count=entry.count) == 0)
    if alive.count != entry.live:
        raise IndexFolderError(
            f"{path} is damaged: {alive.count:,} documents are alive, the manifest says {entry.live:,}; "
            f"build the index again"
        )
    return alive
