"""One generation of an index, open for reading.

Shape letters: N documents, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import IndexFolderError
from relsdk.index._building import INDEX_KINDS
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._filter_compiler import FilterCompiler
from relsdk.index._filter_sql import Condition
from relsdk.index._filtered_search import filtered_search
from relsdk.index._manifest import Manifest, check_files, read_manifest
from relsdk.index._vectors import VECTORS_FILE, map_vectors
from relsdk.index.base import IndexConfig, Neighbours, VectorIndex
from relsdk.index.flat import exact_search

__all__ = ["Generation", "IndexInfo", "load_generation"]

# Bitmaps of recent filters that are kept; each takes N bytes.
_FILTERS_KEPT = 16


@dataclass(frozen=True)
class IndexInfo:
    """A summary of an index.

    Attributes:
        path: The folder.
        generation: Which generation of it is open.
        kind: "hnsw" or "flat".
        count: N, documents.
        dimension: D, of the vectors.
        encoder_name: Who made the vectors, for people.
        encoder_fingerprint: Who made the vectors.
        encoder_path: Where the encoder's folder was then; None when it had none.
        encoder_relative_path: The same, from `path`, links followed; None when it is not known.
        config: The settings.
        files: Bytes of each file.
        created: When, ISO 8601 in UTC.
    """

    path: Path
    generation: str
    kind: str
    count: int
    dimension: int
    encoder_name: str
    encoder_fingerprint: str
    encoder_path: str | None
    encoder_relative_path: str | None
    config: IndexConfig
    files: Mapping[str, int]
    created: str


@dataclass(frozen=True)
class Generation:
    """The open files of one generation.

    Attributes:
        name: Of its folder.
        folder: Where it is, absolute.
        manifest: What it holds.
        vectors: (N, D), memory-mapped.
        searcher: Over the vectors.
        documents: Their documents.
        matching: Which of N rows fulfil a condition; the latest answers are kept.
        filters: Compiles filters to conditions.
    """

    name: str
    folder: Path
    manifest: Manifest
    vectors: NDArray[np.float32]
    searcher: VectorIndex
    documents: DocumentReader
    matching: Callable[[Condition, int], NDArray[np.bool_]]
    filters: FilterCompiler

    def allowed_rows(self, where: Mapping[str, Any] | None) -> NDArray[np.bool_] | None:
        """Return which rows a filter allows, (N,) bool, not to be written to; None when it allows all."""
        # What is no filter at all, such as "", is not an empty one.
        if where is None or (isinstance(where, Mapping) and not where):
            return None
        return self.matching(self.filters.compile(where), len(self.vectors))

    def neighbours(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        ef_search: int | None,
        where: Mapping[str, Any] | None,
        exact: bool,
    ) -> Neighbours:
        """Find the nearest of the rows that a filter allows; see `Index.search`."""
        allowed = self.allowed_rows(where)
        if exact:
            rows = None if allowed is None else np.flatnonzero(allowed)
            return exact_search(self.vectors, queries, k, rows=rows)
        if allowed is None:
            return self.searcher.search(queries, k, ef_search=ef_search)
        config = self.manifest.config
        return filtered_search(self.searcher, self.vectors, queries, k, allowed, config, ef_search=ef_search)

    def info(self, path: Path) -> IndexInfo:
        """Return what the index at `path` holds."""
        manifest = self.manifest
        return IndexInfo(
            path=path,
            generation=self.name,
            kind=manifest.config.kind,
            count=manifest.count,
            dimension=manifest.dimension,
            encoder_name=manifest.encoder_name,
            encoder_fingerprint=manifest.encoder_fingerprint,
            encoder_path=manifest.encoder_path,
            encoder_relative_path=manifest.encoder_relative_path,
            config=manifest.config,
            files={name: entry.size for name, entry in manifest.files.items()},
            created=manifest.created,
        )


def load_generation(name: str, folder: Path, check: str = "hashes") -> Generation:
    """Open the files of a generation.

    Args:
        name: Of the generation.
        folder: Its folder.
        check: "hashes" or "sizes"; see `Index.open`.

    Raises:
        IndexFolderError: One is missing, damaged or not what the manifest says.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest.files, hashes=check == "hashes")
    vectors = map_vectors(folder / VECTORS_FILE, manifest.count, manifest.dimension)
    searcher = INDEX_KINDS[manifest.config.kind].load(folder, vectors, manifest.config)
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    if len(documents) != manifest.count:
        documents.close()
        raise IndexFolderError(
            f"{folder / DOCUMENTS_FILE} does not hold the {manifest.count:,} documents that the manifest "
            f"says; build the index again"
        )
    # Of the reader, not of the Index: no reference cycle keeps closed files open.
    matching = lru_cache(maxsize=_FILTERS_KEPT)(documents.matching)
    filters = FilterCompiler(documents)
    return Generation(name, folder.absolute(), manifest, vectors, searcher, documents, matching, filters)
