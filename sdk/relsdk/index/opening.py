"""Open what stands where an index is asked for: a folder, or a collection in a vector store by its URI."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from relsdk.errors import IndexFolderError, InputError
from relsdk.index._arguments import check_config, check_encoder_parts
from relsdk.index._incoming import checked_chunks
from relsdk.index._part import check_given_vectors, made_by
from relsdk.index.base import Encoder, IndexConfig, Progress, check_whole_number
from relsdk.index.index import Index
from relsdk.index.store import Store, StoreInfo
from relsdk.index.store_uri import StoreUri, is_store_uri, parse_store_uri
from relsdk.records import Document

__all__ = ["build_store", "open_index", "open_store"]

# By engine: the module of its store and the class. They belong to a package that needs this one.
_ENGINES = {
    "milvus": ("relsdk_scale.milvus_store", "MilvusStore"),
    "qdrant": ("relsdk_scale.qdrant_store", "QdrantStore"),
}


def open_index(place: str | os.PathLike[str]) -> Index | Store:
    """Open an index folder, or a store by its URI.

    Args:
        place: A path, or a URI such as milvus://HOST/COLLECTION; see `parse_store_uri`.

    Raises:
        IndexFolderError: It is missing, incomplete or damaged.
        InputError: The URI is wrong.
        MissingExtraError: The engine's client is not installed.
        StoreError: The store cannot be reached.
    """
    if isinstance(place, str) and (is_store_uri(place) or "://" in place):
        return open_store(place)
    return Index.open(place)


def open_store(uri: str) -> Store:
    """Open a collection by its URI; see `open_index`."""
    store = _connect(uri)
    try:
        store.open()
    except BaseException:
        store.close()
        raise
    return store


def build_store(
    uri: str,
    documents: Iterable[Document | Mapping[str, Any]],
    encoder: Encoder,
    *,
    vectors: NDArray[Any] | None = None,
    config: IndexConfig | None = None,
    overwrite: bool = False,
    on_duplicate: str = "error",
    chunk_size: int = 1024,
    on_progress: Progress | None = None,
) -> Store:
    """Encode documents and load them into a collection of a store; see `Index.build`.

    A load that was interrupted is gone on with: every document is written again, in its own place. Until a
    load has come to its end the collection does not open.

    Args:
        uri: Where; see `parse_store_uri`.
        documents: See `Index.build`.
        encoder: Makes the vectors. The collection notes its fingerprint.
        vectors: See `Index.build`.
        config: `kind`, `M`, `ef_construction`, `ef_search` and `int8`, as far as the engine has them; None
            takes `IndexConfig()`.
        overwrite: First remove a collection of relsdk's that is there. It does not answer meanwhile.
        on_duplicate: See `Index.build`.
        chunk_size: Documents for each call of the encoder and of the store.
        on_progress: Called with ("encode", documents read).

    Returns:
        The store, open.

    Raises:
        InputError: A document, vector or argument is wrong, or the collection is there and `overwrite` is
            false.
        IndexFolderError: The collection is not relsdk's, or holds documents of another load.
        MissingExtraError: The engine's client is not installed.
        StoreError: The store did not answer, or refused.
    """
    if on_duplicate not in ("error", "last"):
        raise InputError(f"on_duplicate={on_duplicate!r}; allowed are 'error' and 'last'")
    check_encoder_parts(encoder)
    config = check_config(config)
    if config.passage_characters:
        raise InputError(
            "a store holds one vector a document, and does not split documents into passages; leave "
            "passage_characters (--chunk) out, or build an index folder"
        )
    check_whole_number("chunk_size", chunk_size, 1)
    given = None if vectors is None else check_given_vectors(vectors, encoder.dimension)
    ids: set[int] = set()
    counted = _counted(documents, ids, refuses=on_duplicate == "error")
    first = list(islice(counted, 1))  # before anything is removed
    store = _connect(uri)
    try:
        _prepare(store, encoder, config, overwrite)
        store.upsert(
            chain(first, counted), encoder, vectors=given, chunk_size=chunk_size, on_progress=on_progress
        )
        if (count := store.count()) != len(ids):
            raise IndexFolderError(
                f"{uri} holds {count:,} documents after a load of {len(ids):,}: another load was interrupted "
                "there, or somebody else writes; build it again with --overwrite"
            )
        if on_progress is not None:
            on_progress("finish", count)
        store.finish()
        store.open()
    except BaseException:
        store.close()
        raise
    return store


def _connect(uri: str) -> Store:
    parsed = parse_store_uri(uri)
    module, name = _ENGINES[parsed.engine]
    kind: type[Store] = getattr(importlib.import_module(module), name)
    return kind.connect(parsed)


def _prepare(store: Store, encoder: Encoder, config: IndexConfig, overwrite: bool) -> None:
    """Leave an empty collection, or one whose load was interrupted and can be gone on with."""
    store.check(encoder.dimension, config)
    info = store.describe()
    if info is not None and not overwrite:
        _refuse_another(store.uri, info, encoder, config)
    elif info is not None:
        store.drop()
        info = None
    if info is None:
        # A path that is relative to the store says nothing.
        noted = replace(made_by(encoder, Path.cwd()), relative_path=None)
        store.create(noted, encoder.dimension, config)
        info = store.info()
    store.note(info)


def _refuse_another(uri: StoreUri, info: StoreInfo, encoder: Encoder, config: IndexConfig) -> None:
    if info.complete:
        raise InputError(
            f"{uri} is there already, with {info.count:,} documents; add to it with relsdk index add, or "
            "replace it with overwrite=True (--overwrite)"
        )
    if (info.encoder_fingerprint, info.dimension) != (encoder.fingerprint, encoder.dimension):
        raise InputError(
            f"a load of {uri} by another model, {info.encoder_name}, was interrupted; replace it with "
            "overwrite=True (--overwrite)"
        )
    if info.config != config:
        raise InputError(
            f"a load of {uri} with other settings was interrupted ({info.config}); take the same, or replace "
            "it with overwrite=True (--overwrite)"
        )


def _counted(
    documents: Iterable[Document | Mapping[str, Any]], ids: set[int], *, refuses: bool
) -> Iterator[Document]:
    """Yield checked documents and note their ids, as whole numbers: there may be millions.

    Raises:
        InputError: A document is wrong, or an id occurs again and that is refused.
    """
    for first, chunk in checked_chunks(documents, 1):
        for document in chunk:
            if (number := hash(document.id)) in ids and refuses:
                raise InputError(
                    f"document {first:,} of the input: id {document.id!r} occurs again; use "
                    "on_duplicate='last' (--on-duplicate last) to keep the last"
                )
            ids.add(number)
            yield document
