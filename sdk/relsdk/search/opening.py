"""Open an index with the models that it is searched and changed by."""

from __future__ import annotations

import os
from pathlib import Path

from relsdk.errors import BundleError
from relsdk.index import IndexInfo
from relsdk.index.opening import open_index
from relsdk.index.store import StoreInfo
from relsdk.models.embedder import Embedder
from relsdk.models.relevance_scorer import open_scorer
from relsdk.search.searcher import Searcher

__all__ = ["open_encoder", "open_searcher"]


def open_searcher(
    path: str | Path,
    model: str | None,
    variant: str = "auto",
    threads: int | None = None,
    scorer: str | None = None,
) -> Searcher:
    """Open an index or a store, the bundle it was built with (or another copy), and perhaps a scorer."""
    index = open_index(path)
    embedder = open_encoder(index.info(), model, variant, threads)
    opened = None if scorer is None else open_scorer(embedder, scorer, threads=threads)
    return Searcher(embedder, index, opened)


def open_encoder(
    info: IndexInfo | StoreInfo, model: str | None, variant: str = "auto", threads: int | None = None
) -> Embedder:
    """Open the encoder of an index, at the index's dimension.

    Args:
        info: Of the index or store.
        model: A bundle; None finds the one that the index was built with.
        variant: See `Embedder`.
        threads: See `Embedder`.

    Raises:
        BundleError: It is not found; the message says what is where it was.
    """
    if model is None:
        embedder = _find_embedder(info, variant, threads)
    else:
        embedder = Embedder(model, variant=variant, threads=threads)
    if embedder.dimension > info.dimension and embedder.fingerprint == info.encoder_fingerprint:
        return Embedder(embedder.path, variant=variant, threads=threads, truncate_dim=info.dimension)
    return embedder


def _find_embedder(info: IndexInfo | StoreInfo, variant: str, threads: int | None) -> Embedder:
    """Open the encoder of an index: where it was, or where it is seen from the index; a copy moves with it.

    Raises:
        BundleError: It is in neither place; the message says what was found there.
    """
    places = [] if info.encoder_path is None else [info.encoder_path]
    if isinstance(info, IndexInfo) and info.encoder_relative_path is not None:
        places.append(os.path.normpath(os.path.join(os.path.realpath(info.path), info.encoder_relative_path)))
    tried = []
    for place in dict.fromkeys(places):
        if not os.path.isdir(place):
            tried.append(f"{place} is not a folder")
            continue
        try:
            embedder = Embedder(place, variant=variant, threads=threads)
        except BundleError as error:
            tried.append(str(error))
            continue
        if embedder.fingerprint == info.encoder_fingerprint:
            return embedder
        tried.append(f"{place} is another model, {embedder.name}")
    where = f"is not found: {', and '.join(tried)}" if tried else "has no place noted"
    raise BundleError(f"the bundle {info.encoder_name} that built {info.path} {where}; name it with --model")
