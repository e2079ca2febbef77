"""Documents encoded and written into a folder of their own, before they are a segment.

Shape letters: n documents of one chunk, v vectors of one chunk, V vectors, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_writer import DocumentWriter
from relsdk.index._incoming import Chunk, checked_chunks, checked_metadata
from relsdk.index._manifest import MadeBy
from relsdk.index._passages import split
from relsdk.index._vectors import VECTORS_FILE, VectorWriter, check_vectors
from relsdk.index.base import Encoder, IndexConfig, Progress
from relsdk.records import Document

__all__ = ["Part", "Source", "check_given_vectors", "chunk_vectors", "made_by", "write_part"]


@dataclass(frozen=True)
class Source:
    """Documents that come in, and what makes their vectors.

    Attributes:
        documents: Taken once.
        encoder: Makes the vectors; None where they are given.
        vectors: (n, D) unit vectors in the order of the documents; None where the encoder makes them.
        dimension: D.
        on_duplicate: For an id that occurs again: "error" or "last".
        chunk_size: Documents for each call of the encoder.
        on_progress: Called with ("encode", documents read).
    """

    documents: Iterable[Document | Mapping[str, Any]]
    encoder: Encoder | None
    vectors: NDArray[Any] | None
    dimension: int
    on_duplicate: str
    chunk_size: int
    on_progress: Progress | None


@dataclass(frozen=True)
class Part:
    """Documents that have been written.

    Attributes:
        folder: Holds vectors and documents.
        count: N, with those that a later one of the same id replaced.
        rows: V.
        dead: Rows of documents that were replaced.
        passages: (V, 3); see `save_passages`; None when vector r is document r.
    """

    folder: Path
    count: int
    rows: int
    dead: frozenset[int]
    passages: NDArray[np.int64] | None

    @property
    def alive(self) -> NDArray[np.bool_]:
        """(N,) which documents were not replaced."""
        alive = np.ones(self.count, dtype=np.bool_)
        alive[list(self.dead)] = False
        return alive


def write_part(
    folder: Path, source: Source, config: IndexConfig, look: Callable[[Chunk], None] = lambda _: None
) -> Part:
    """Encode documents and write vectors and documents, chunk by chunk.

    Args:
        folder: An empty folder.
        source: The documents.
        config: Whether they are split into passages.
        look: Called with each chunk before it is encoded; may refuse it.

    Raises:
        InputError: A document or vector is wrong, or there are not as many vectors as documents.
    """
    if source.vectors is not None and config.passage_characters:
        raise InputError(
            "this index splits documents into passages, each with a vector of its own; vectors of whole "
            "documents do not fit: give the model instead"
        )
    count = rows = taken = 0
    dead: set[int] = set()
    spans: list[NDArray[np.int64]] = []
    with (
        VectorWriter(folder / VECTORS_FILE, source.dimension) as vectors,
        DocumentWriter(folder / DOCUMENTS_FILE) as documents,
    ):
        for first, chunk in checked_chunks(source.documents, source.chunk_size):
            look((first, chunk))
            known = documents.rows_of([document.id for document in chunk])
            if source.on_duplicate == "error":
                _refuse_duplicates(first, chunk, known, count)
            latest = {document.id: first + offset for offset, document in enumerate(chunk)}
            positions = sorted(latest.values())
            chosen = [chunk[position - first] for position in positions]
            metadata = [checked_metadata(at, one) for at, one in zip(positions, chosen, strict=True)]
            passages, chunk_spans = split(chosen, config.passage_characters)
            encoded = chunk_vectors(source, passages, np.array(positions) - 1, first)  # (v, D)
            documents.remove(known.values())
            dead.update(known.values())
            documents.put(range(count, count + len(chosen)), chosen, metadata)
            vectors.append(encoded)
            chunk_spans[:, 0] += count
            spans.append(chunk_spans)
            count, rows, taken = count + len(chosen), rows + len(encoded), first - 1 + len(chunk)
            if source.on_progress is not None:
                source.on_progress("encode", taken)
    if source.vectors is not None and len(source.vectors) != taken:
        raise InputError(
            f"there are {len(source.vectors):,} vectors for {taken:,} documents; one each is needed"
        )
    joined = np.concatenate(spans) if spans and config.passage_characters else None
    return Part(folder, count, rows, frozenset(dead), joined)


def _refuse_duplicates(first: int, chunk: list[Document], known: Mapping[str, int], count: int) -> None:
    """Raise at an id that occurred before; without duplicates, row r is document r + 1 of the input."""
    seen = {identifier: row + 1 for identifier, row in known.items()}
    for position, document in enumerate(chunk, start=first):
        earlier = seen.setdefault(document.id, position)
        if earlier != position:
            raise InputError(
                f"document {position:,} of the input: id {document.id!r} occurs again; first seen as "
                f"document {earlier:,}; use on_duplicate='last' (--on-duplicate last) to keep the last"
            )


def chunk_vectors(
    source: Source, passages: list[Document], positions: NDArray[np.int64], first: int
) -> NDArray[np.float32]:
    """Encode, or take the vectors that are given, and check: (v, D) float32."""
    if source.vectors is not None:
        if positions[-1] >= len(source.vectors):
            raise InputError(
                f"document {len(source.vectors) + 1:,} of the input has no vector: there are only "
                f"{len(source.vectors):,}; one each is needed"
            )
        with np.errstate(over="ignore"):  # what overflows has not length 1
            given = np.asarray(source.vectors[positions], dtype=np.float32)
        check_vectors(given, f"vectors from row {positions[0]:,}", "divide each by its length")
        return given
    encoder = source.encoder
    if encoder is None:
        raise InputError("neither an encoder nor vectors are given; one of them is needed")
    place = f"encoder {encoder.name}, documents from {first:,}"
    remedy = "an index needs one finite vector of length 1 for each document"
    encoded = np.asarray(encoder.encode_document(passages))
    if encoded.shape != (len(passages), source.dimension) or encoded.dtype.kind != "f":
        raise InputError(
            f"{place}: got {encoded.dtype} of shape {encoded.shape}, float32 of shape "
            f"{(len(passages), source.dimension)} is needed"
        )
    vectors = np.asarray(encoded, dtype=np.float32)
    check_vectors(vectors, place, remedy)
    return vectors


def check_given_vectors(vectors: object, dimension: int) -> NDArray[Any]:
    """Return vectors that somebody gives, (n, D), not copied: a memory map stays one.

    Raises:
        InputError: They are no matrix of numbers with D columns.
    """
    try:
        matrix = np.asanyarray(vectors)
    except ValueError:
        raise InputError(
            f"the vectors have rows of different lengths; numbers of shape (documents, {dimension}) are "
            f"needed"
        ) from None
    if matrix.ndim != 2 or matrix.shape[1] != dimension or matrix.dtype.kind not in "fiu":
        raise InputError(
            f"the vectors are {matrix.dtype} of shape {matrix.shape}; numbers of shape (documents, "
            f"{dimension}) are needed"
        )
    return matrix


def made_by(encoder: Encoder, index: Path) -> MadeBy:
    """Return who makes the vectors, and where its folder is: absolutely, and from the index's real folder."""
    path = getattr(encoder, "path", None)
    if not isinstance(path, str | Path):
        return MadeBy(encoder.name, encoder.fingerprint)
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(index))
    return MadeBy(encoder.name, encoder.fingerprint, _text(str(Path(path).absolute())), _text(relative))


def _text(path: str) -> str | None:
    """Return a path that JSON can hold, None for another one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return None
    return path
