"""Build the files of a generation from a stream of documents.

Shape letters: N documents, n documents of one chunk, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.formats import document_from_mapping
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_writer import DocumentWriter, metadata_json
from relsdk.index._manifest import MANIFEST_FILE, describe
from relsdk.index._storage import new_generation, writing
from relsdk.index._vectors import VECTORS_FILE, VectorWriter, check_vectors, map_vectors
from relsdk.index.base import Encoder, IndexConfig, Progress, VectorIndex
from relsdk.index.flat import FlatIndex
from relsdk.index.hnsw import HnswIndex
from relsdk.records import Document

__all__ = ["INDEX_KINDS", "build_index"]

INDEX_KINDS: dict[str, type[VectorIndex]] = {"hnsw": HnswIndex, "flat": FlatIndex}


def build_index(
    path: Path,
    documents: Iterable[Document | Mapping[str, Any]],
    encoder: Encoder,
    config: IndexConfig,
    *,
    overwrite: bool,
    on_duplicate: str,
    chunk_size: int,
    num_threads: int | None,
    on_progress: Progress | None,
) -> None:
    """Write and commit a generation; see `Index.build`."""
    made_by = (encoder.name, encoder.fingerprint, *_encoder_paths(encoder, path))
    with new_generation(path, overwrite=overwrite) as staging:
        chunks = _chunks(documents, chunk_size)
        count = _write_documents(staging.folder, chunks, encoder, on_duplicate, on_progress)
        vectors = map_vectors(staging.folder / VECTORS_FILE, count, encoder.dimension)
        index = INDEX_KINDS[config.kind].build(
            vectors, config, num_threads=num_threads, on_progress=on_progress
        )
        with writing(path):
            index.save(staging.folder)
            manifest = describe(staging.folder, config, count, encoder.dimension, made_by)
            (staging.folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        staging.commit()


def _chunks(
    documents: Iterable[Document | Mapping[str, Any]], size: int
) -> Iterator[tuple[int, list[Document]]]:
    """Yield (position of the first from 1, checked documents), at most `size` at a time."""
    if isinstance(documents, Document | str | bytes | Mapping):
        raise InputError(
            f"documents is a {type(documents).__name__}; an iterable of documents is needed, such as a list"
        )
    remaining = iter(documents)
    first = 1
    while batch := list(islice(remaining, size)):
        yield first, [_to_document(item, first + offset) for offset, item in enumerate(batch)]
        first += len(batch)


def _to_document(item: object, position: int) -> Document:
    """Return the document that an item is or describes, by its position in the input."""
    try:
        if isinstance(item, Document):
            return _check_document(item)
        if isinstance(item, Mapping):
            return _check_document(document_from_mapping(item))
        raise InputError(f"it is a {type(item).__name__}; a Document or a mapping is needed")
    except InputError as error:
        raise InputError(f"document {position:,} of the input: {error}") from error


def _check_document(document: Document) -> Document:
    if not isinstance(document.id, str) or not document.id.strip():
        raise InputError(f"its id is {document.id!r}; text that is not empty is needed")
    for name, value in (("id", document.id), ("title", document.title), ("text", document.text)):
        if not isinstance(value, str):
            raise InputError(f"its {name} is {value!r}; text is needed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"its {name} holds half of a surrogate pair; remove it") from None
    if not document.title.strip() and not document.text.strip():
        raise InputError(f"title and text of id {document.id!r} are both empty; fill one in or leave it out")
    if not isinstance(document.metadata, Mapping):
        raise InputError(f"its metadata are a {type(document.metadata).__name__}; a mapping is needed")
    return document


def _write_documents(
    folder: Path,
    chunks: Iterable[tuple[int, list[Document]]],
    encoder: Encoder,
    on_duplicate: str,
    on_progress: Progress | None,
) -> int:
    """Write vectors and documents chunk by chunk; return how many rows there are."""
    count = 0
    with (
        VectorWriter(folder / VECTORS_FILE, encoder.dimension) as vectors,
        DocumentWriter(folder / DOCUMENTS_FILE) as documents,
    ):
        for first, chunk in chunks:
            known = documents.rows_of([document.id for document in chunk])
            if on_duplicate == "error":
                _refuse_duplicates(first, chunk, known)
            kept = {document.id: (first + offset, document) for offset, document in enumerate(chunk)}
            metadata = [_metadata(position, document) for position, document in kept.values()]
            latest = [document for _, document in kept.values()]
            encoded = _encode(encoder, latest, first)  # (n, D)
            rows = []
            for document in latest:
                row = known.get(document.id, count)
                count += row == count
                rows.append(row)
            vectors.put(np.array(rows, dtype=np.int64), encoded)
            documents.put(rows, latest, metadata)
            if on_progress is not None:
                on_progress("encode", first - 1 + len(chunk))
        if not count:
            raise InputError("there are no documents in the input; an index needs at least one")
    return count


def _refuse_duplicates(first: int, chunk: list[Document], known: Mapping[str, int]) -> None:
    """Raise at an id that occurred before; without duplicates, row r is document r + 1 of the input."""
    seen = {identifier: row + 1 for identifier, row in known.items()}
    for position, document in enumerate(chunk, start=first):
        earlier = seen.setdefault(document.id, position)
        if earlier != position:
            raise InputError(
                f"document {position:,} of the input: id {document.id!r} occurs again; first seen as "
                f"document {earlier:,}; use on_duplicate='last' (--on-duplicate last) to keep the last"
            )


def _metadata(position: int, document: Document) -> str:
    try:
        return metadata_json(document.metadata)
    except InputError as error:
        raise InputError(f"document {position:,} of the input: {error}") from error


def _encode(encoder: Encoder, documents: list[Document], first: int) -> NDArray[np.float32]:
    """Encode and check: (n, D) float32."""
    place = f"encoder {encoder.name}, documents from {first:,}"
    remedy = "an index needs one finite vector of length 1 for each document"
    encoded = np.asarray(encoder.encode_document(documents))
    if encoded.shape != (len(documents), encoder.dimension) or encoded.dtype.kind != "f":
        raise InputError(
            f"{place}: got {encoded.dtype} of shape {encoded.shape}, float32 of shape "
            f"{(len(documents), encoder.dimension)} is needed"
        )
    vectors = np.asarray(encoded, dtype=np.float32)
    check_vectors(vectors, place, remedy)
    return vectors


def _encoder_paths(encoder: Encoder, index: Path) -> tuple[str | None, str | None]:
    """Return where the encoder's folder is, when it has one: absolutely, and from the index's real folder."""
    path = getattr(encoder, "path", None)
    if not isinstance(path, str | Path):
        return None, None
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(index))
    return _text(str(Path(path).absolute())), _text(relative)


def _text(path: str) -> str | None:
    """Return a path that JSON can hold, None for another one."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return None
    return path
