"""One segment of an index, open: documents with their vectors, which never change.

Shape letters: N documents, V vectors (as many, or more where documents are split into passages), D dimension,
Q queries, K results of each query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._codes import CODES_FILE, load_codes
from relsdk.index._columns import Columns
from relsdk.index._columns_file import DIRECTORY_FILE
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._filtered_search import filtered_search
from relsdk.index._manifest import SegmentEntry
from relsdk.index._passages import PASSAGES_FILE, load_passages
from relsdk.index._postings import POSTINGS_FILE, Postings
from relsdk.index._row_filter import RowFilter
from relsdk.index._row_set import RowSet
from relsdk.index._vectors import VECTORS_FILE, map_vectors
from relsdk.index.base import IndexConfig, Neighbours, VectorIndex
from relsdk.index.flat import Codes, FlatIndex, exact_search
from relsdk.index.hnsw import HnswIndex

__all__ = ["Segment", "load_segment", "open_segment"]


# The least that a system maps at a time.
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Segment:
    """The open files of one segment.

    Attributes:
        entry: What the manifest says of it.
        folder: Where it is, absolute.
        vectors: (V, D), memory-mapped.
        index: Over the vectors: a graph, or exact search.
        documents: Their documents.
        passages: (V, 3) document row, first character and end; None when vector r is document r.
        postings: Of the words of each vector's text; None without lexical search.
        codes: Of the vectors, in 8 bits; None without.
        config: The settings.
        filter: Finds documents by their fields.
    """

    entry: SegmentEntry
    folder: Path
    vectors: NDArray[np.float32]
    index: VectorIndex
    documents: DocumentReader
    passages: NDArray[np.int64] | None
    postings: Postings | None
    codes: Codes | None
    config: IndexConfig
    filter: RowFilter

    def vectors_of(self, documents: RowSet) -> RowSet:
        """Return the vectors of documents."""
        if self.passages is None:
            return documents
        if documents.is_full:
            return RowSet(np.ones(len(self.vectors), dtype=np.bool_), len(self.vectors))
        return RowSet(documents.mask[self.passages[:, 0]])

    def documents_of(self, vectors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the document row of each vector."""
        return vectors if self.passages is None else np.asarray(self.passages[vectors, 0])

    def touch(self) -> None:
        """Read a number of each page of the vectors, and of their codes."""
        for matrix in (self.vectors, None if self.codes is None else self.codes.numbers):
            if matrix is not None:
                matrix.reshape(-1)[:: _PAGE_BYTES // matrix.itemsize].max()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: RowSet,
        *,
        ef_search: int | None,
        exact: bool,
    ) -> Neighbours:
        """Find the nearest vectors of each query.

        Scores are computed from the vectors in the one way that `exact_search` has, so that they are the same
        wherever a document lies.

        Args:
            queries: (Q, D).
            k: How many.
            allowed: (V,) vectors that may be found.
            ef_search: Effort of a search in the graph; None takes the index's own.
            exact: Compare with every vector.

        Returns:
            (Q, min(k, allowed)) vector rows and cosines.
        """
        if not allowed.count:
            empty = np.empty((len(queries), 0), dtype=np.int64)
            return Neighbours(empty, empty.astype(np.float32))
        if exact or isinstance(self.index, FlatIndex):
            rows = None if allowed.is_full else allowed.rows
            return exact_search(self.vectors, queries, k, rows=rows, codes=None if exact else self.codes)
        if allowed.is_full:
            found = self.index.search(queries, k, ef_search=ef_search)
        else:
            found = filtered_search(
                self.index,
                self.vectors,
                queries,
                k,
                allowed,
                self.config,
                codes=self.codes,
                ef_search=ef_search,
            )
        return rescored(self.vectors, queries, found.rows)


def rescored(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], rows: NDArray[np.int64]
) -> Neighbours:
    """Order (Q, K) rows by their exact cosines, equal ones by row."""
    ordered = np.empty_like(rows)
    scores = np.empty(rows.shape, dtype=np.float32)
    for query, vector in enumerate(queries):
        some = rows[query]
        exact = np.einsum("nd,d->n", vectors[some], vector)
        order = np.lexsort((some, -exact))
        ordered[query], scores[query] = some[order], exact[order]
    return Neighbours(ordered, scores)


def load_segment(path: Path, entry: SegmentEntry, dimension: int, config: IndexConfig) -> Segment:
    """Open a segment of the index at `path`, whose files have been checked.

    Raises:
        IndexFolderError: A file is damaged or not what the entry says.
    """
    return open_segment((path / entry.folder).absolute(), entry, dimension, config)


def open_segment(folder: Path, entry: SegmentEntry, dimension: int, config: IndexConfig) -> Segment:
    """Open the files of a segment that are in a folder.

    Raises:
        IndexFolderError: A file is damaged or not what the entry says.
    """
    vectors = map_vectors(folder / VECTORS_FILE, entry.rows, dimension)
    passages = None
    if PASSAGES_FILE in entry.files:
        passages = load_passages(folder, entry.rows, entry.count)
    kind: Any = HnswIndex if entry.has_graph else FlatIndex
    index = kind.load(folder, vectors, config)
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    if len(documents) != entry.count:
        documents.close()
        raise IndexFolderError(
            f"{folder / DOCUMENTS_FILE} does not hold the {entry.count:,} documents that the manifest says; "
            f"build the index again"
        )
    columns = Columns.load(folder, entry.count) if DIRECTORY_FILE in entry.files else None
    postings = Postings.load(folder, entry.rows) if POSTINGS_FILE in entry.files else None
    rows = RowFilter(documents, columns, entry.count)
    codes = load_codes(folder, entry.rows, dimension) if CODES_FILE in entry.files else None
    return Segment(entry, folder, vectors, index, documents, passages, postings, codes, config, rows)
