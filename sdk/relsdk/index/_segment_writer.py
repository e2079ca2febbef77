"""Write segments: of documents that came in, or of the live documents of other segments.

Shape letters: N documents, V vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.index._codes import CODE_FILES, write_codes
from relsdk.index._columns_file import COLUMN_FILES
from relsdk.index._columns_writer import ColumnsWriter
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._document_writer import DocumentWriter
from relsdk.index._duplicate_vectors import TWINS_FILE
from relsdk.index._manifest import SegmentEntry, describe_files
from relsdk.index._part import Part
from relsdk.index._passages import PASSAGES_FILE, save_passages
from relsdk.index._postings import POSTINGS_FILE, Postings
from relsdk.index._postings_writer import PostingsWriter, merge_postings
from relsdk.index._row_cache import RowFields
from relsdk.index._row_set import RowSet
from relsdk.index._segment import Segment, open_segment
from relsdk.index._vectors import VECTORS_FILE, VectorWriter, map_vectors
from relsdk.index._writing import writing
from relsdk.index.analysis import Analyser
from relsdk.index.base import IndexConfig, Progress
from relsdk.index.hnsw import GRAPH_FILE, HnswIndex

__all__ = ["GRAPH_ROWS", "Making", "Rows", "complete_part", "merge"]

# A segment of fewer vectors has no graph: exact search is as fast, and a commit may write it anew.
GRAPH_ROWS = 2000
_BLOCK = 4096

# A segment, and which of its documents are wanted.
Rows = tuple[Segment, RowSet]


@dataclass(frozen=True)
class Making:
    """What a segment is made by.

    Attributes:
        config: The settings of the index.
        dimension: D.
        analyser: Makes the words that lexical search finds; None makes none.
        num_threads: For the graph; None chooses.
        on_progress: Called with ("graph", vectors added).
    """

    config: IndexConfig
    dimension: int
    analyser: Analyser | None
    num_threads: int | None = None
    on_progress: Progress | None = None


def complete_part(part: Part, making: Making, folder: str) -> SegmentEntry:
    """Turn a part of which no document was replaced into a segment, in place.

    Args:
        part: The part.
        making: Settings.
        folder: Of the segment, once it is committed.
    """
    return _complete(part.folder, part.count, part.rows, part.passages, making, folder, None)


def merge(target: Path, sources: Sequence[Rows], making: Making, folder: str) -> SegmentEntry:
    """Copy documents and vectors into a new segment, in their order.

    Args:
        target: An empty folder.
        sources: What is copied: at least one document.
        making: Settings.
        folder: Of the segment, once it is committed.
    """
    with writing(target):
        passages = _copy_vectors(target, sources, making)
        count = _copy_documents(target, sources)
    split = making.config.passage_characters or any(one.passages is not None for one, _ in sources)
    postings = [(one.postings, one.vectors_of(wanted).rows) for one, wanted in sources]
    return _complete(target, count, len(passages), passages if split else None, making, folder, postings)


def open_part(part: Part, making: Making) -> Rows:
    """Open a part as if it were a segment without a graph."""
    if part.passages is not None:
        with writing(part.folder):
            save_passages(part.folder, part.passages)
    files = {PASSAGES_FILE: None} if part.passages is not None else {}
    alive = RowSet(part.alive)
    entry = SegmentEntry("", part.count, part.rows, alive.count, files)  # type: ignore[arg-type]
    return open_segment(part.folder, entry, making.dimension, making.config), alive


def _copy_vectors(target: Path, sources: Sequence[Rows], making: Making) -> NDArray[np.int64]:
    """Write the vectors of the wanted documents; return their passages (V, 3), renumbered."""
    passages = []
    first = 0
    with VectorWriter(target / VECTORS_FILE, making.dimension) as writer:
        for segment, wanted in sources:
            chosen = segment.vectors_of(wanted).rows
            for start in range(0, len(chosen), _BLOCK):
                writer.append(segment.vectors[chosen[start : start + _BLOCK]])
            spans = np.zeros((len(chosen), 3), dtype=np.int64)
            if segment.passages is not None:
                spans[:] = segment.passages[chosen]
            renumbered = np.cumsum(wanted.mask) - 1  # (N,)
            spans[:, 0] = first + renumbered[segment.documents_of(chosen)]
            passages.append(spans)
            first += wanted.count
    return np.concatenate(passages)


def _copy_documents(target: Path, sources: Sequence[Rows]) -> int:
    """Write the wanted documents to rows from 0; return how many there are."""
    count = 0
    with DocumentWriter(target / DOCUMENTS_FILE) as writer:
        for segment, wanted in sources:
            for block in _blocks(wanted.rows):
                fields = segment.documents.fields(block)
                rows = range(count, count + len(fields))
                writer.copy(
                    (row, identifier, metadata, title, text)
                    for row, (_, identifier, title, text, metadata) in zip(rows, fields, strict=True)
                )
                count += len(fields)
    return count


def _blocks(rows: NDArray[np.int64]) -> Iterator[list[int]]:
    return (rows[start : start + _BLOCK].tolist() for start in range(0, len(rows), _BLOCK))


def _complete(
    target: Path,
    count: int,
    rows: int,
    passages: NDArray[np.int64] | None,
    making: Making,
    folder: str,
    postings: Sequence[tuple[Postings | None, NDArray[np.int64]]] | None,
) -> SegmentEntry:
    """Write what is made of vectors and documents, and hash all files.

    Args:
        target: Holds vectors and documents.
        count: N.
        rows: V.
        passages: (V, 3), or None.
        making: Settings.
        folder: Of the segment, once it is committed.
        postings: What was merged, and which rows; None reads the texts.
    """
    names = [VECTORS_FILE, DOCUMENTS_FILE, *COLUMN_FILES]
    config = making.config
    with writing(target):
        if passages is not None:
            save_passages(target, passages)
            names.append(PASSAGES_FILE)
        known = [(one, kept) for one, kept in postings or () if one is not None]
        merged = postings is not None and len(known) == len(postings)
        if making.analyser is not None:
            names.append(POSTINGS_FILE)
            if merged:
                merge_postings(known, target)
        _write_fields(target, count, passages, None if merged else making.analyser)
    vectors = map_vectors(target / VECTORS_FILE, rows, making.dimension)
    if config.int8:
        with writing(target):
            write_codes(target, vectors)
        names += CODE_FILES
    if config.kind == "hnsw" and rows >= GRAPH_ROWS:
        graph = HnswIndex.build(
            vectors, config, num_threads=making.num_threads, on_progress=making.on_progress
        )
        with writing(target):
            graph.save(target)
        names += [GRAPH_FILE, TWINS_FILE]
    with writing(target):
        return SegmentEntry(folder, count, rows, count, describe_files(target, names))


def _write_fields(
    target: Path, count: int, passages: NDArray[np.int64] | None, analyser: Analyser | None
) -> None:
    """Write the columns of the metadata, and the postings of the texts if there is an analyser."""
    columns = ColumnsWriter()
    words = None if analyser is None else PostingsWriter(analyser)
    documents = DocumentReader(target / DOCUMENTS_FILE)
    try:
        for start in range(0, count, _BLOCK):
            fields = documents.fields(range(start, min(start + _BLOCK, count)))
            columns.add([metadata for *_, metadata in fields])
            if words is not None:
                words.add(list(_texts(fields, start, passages)))
    finally:
        documents.close()
    columns.save(target)
    if words is not None:
        words.save(target)


def _texts(fields: Sequence[RowFields], first: int, passages: NDArray[np.int64] | None) -> Iterator[str]:
    """Yield the text of each vector of some documents: title, and text or passage."""
    if passages is None:
        yield from (f"{title}\n{text}" for _, _, title, text, _ in fields)
        return
    start, stop = np.searchsorted(passages[:, 0], [first, first + len(fields)])
    for row, begin, end in passages[start:stop].tolist():
        _, _, title, text, _ = fields[row - first]
        yield f"{title}\n{text[begin:end]}"
