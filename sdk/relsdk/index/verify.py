"""Check an index, even one that cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError, RelsdkError
from relsdk.files.folders import file_sha256
from relsdk.index._building import INDEX_KINDS
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._duplicate_vectors import TWINS_FILE, DuplicateVectors
from relsdk.index._graph_file import holds_vectors
from relsdk.index._manifest import MANIFEST_FILE, Manifest, read_manifest
from relsdk.index._storage import CURRENT, read_current
from relsdk.index._vectors import VECTORS_FILE, check_vectors, map_vectors
from relsdk.index.hnsw import GRAPH_FILE

__all__ = ["Check", "VerifyReport", "verify_generation", "verify_index"]

_BLOCK = 16_384
_SAMPLE = 100
# The graph is approximate: so many of the sampled vectors must find themselves, or one as near.
_WANTED_SHARE = 0.95


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: Whether it is as it must be.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of verifying an index.

    Attributes:
        path: The index.
        generation: Which generation was looked at; "" when the pointer to it is damaged.
        checks: In the order they were made.
    """

    path: Path
    generation: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def verify_index(path: str | PathLike[str]) -> VerifyReport:
    """Check the committed generation of an index: hashes, counts, vectors, database, graph.

    Damage is reported, not raised.

    Args:
        path: The index folder.

    Raises:
        IndexFolderError: There is no index at `path`, or none that was finished.
    """
    folder = Path(path)
    try:
        name = read_current(folder)
    except RelsdkError as error:
        if not os.path.lexists(folder / CURRENT):
            raise
        return VerifyReport(folder, "", (Check("current", False, str(error)),))
    return verify_generation(folder, name)


def verify_generation(path: Path, name: str) -> VerifyReport:
    """Check one generation of the index at `path`."""
    folder = path / name
    try:
        manifest = read_manifest(folder)
    except RelsdkError as error:
        return VerifyReport(path, name, (Check(MANIFEST_FILE, False, str(error)),))
    checks = [Check(MANIFEST_FILE, True, f"{manifest.count:,} documents, {manifest.dimension} dimensions")]
    intact = {}
    for file in manifest.files:
        check = _run_check(f"hash of {file}", lambda file=file: _check_hash(folder, file, manifest))  # type: ignore[misc]
        intact[file] = check.ok
        checks.append(check)
    checks.append(_run_check("vectors", lambda: _check_vectors(folder, manifest)))
    checks.append(_run_check("documents", lambda: _check_documents(folder, manifest)))
    if GRAPH_FILE in manifest.files:
        checks.append(_run_check("twins", lambda: _check_twins(folder, manifest)))
        if all(intact[name] for name in (GRAPH_FILE, TWINS_FILE, VECTORS_FILE)):
            checks.append(_run_check("graph", lambda: _check_graph(folder, manifest)))
        else:
            checks.append(Check("graph", False, "not tried: a file it needs has a wrong hash"))
    return VerifyReport(path, name, tuple(checks))


def _run_check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as error:  # whatever a damaged file leads to is a finding
        return Check(name, False, str(error) or type(error).__name__)


def _check_hash(folder: Path, name: str, manifest: Manifest) -> str:
    path, entry = folder / name, manifest.files[name]
    size = path.stat().st_size
    if size != entry.size:
        raise InputError(f"{size:,} bytes, the manifest says {entry.size:,}")
    if file_sha256(path) != entry.sha256:
        raise InputError("the content was changed after it was written")
    return f"{size:,} bytes"


def _check_vectors(folder: Path, manifest: Manifest) -> str:
    vectors = map_vectors(folder / VECTORS_FILE, manifest.count, manifest.dimension)
    for start in range(0, len(vectors), _BLOCK):
        check_vectors(vectors[start : start + _BLOCK], f"rows from {start:,}", "build the index again")
    return f"{len(vectors):,} finite vectors of length 1"


def _check_documents(folder: Path, manifest: Manifest) -> str:
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    try:
        problems = documents.problems()
        count = len(documents)
    finally:
        documents.close()
    if count != manifest.count:
        problems.append(f"{count:,} documents, the manifest says {manifest.count:,}")
    if problems:
        raise InputError("; ".join(problems))
    return f"{count:,} documents, integrity check passed"


def _check_twins(folder: Path, manifest: Manifest) -> str:
    vectors = map_vectors(folder / VECTORS_FILE, manifest.count, manifest.dimension)
    pairs = DuplicateVectors.load(folder, manifest.count).pairs
    if not np.array_equal(pairs, DuplicateVectors.find(vectors).pairs):
        raise InputError("they are not the rows with equal vectors; build the index again")
    return f"{len(pairs):,} rows have the vector of another"


def _check_graph(folder: Path, manifest: Manifest) -> str:
    """Compare all vectors with those of the graph and look for a sample; `load` checks links and labels."""
    vectors = map_vectors(folder / VECTORS_FILE, manifest.count, manifest.dimension)
    graph = INDEX_KINDS[manifest.config.kind].load(folder, vectors, manifest.config)
    distinct = len(DuplicateVectors.load(folder, manifest.count).representatives())
    if not holds_vectors(folder / GRAPH_FILE, vectors, distinct, manifest.config):
        raise InputError("its vectors are not those of the index; build the index again")
    size = min(_SAMPLE, manifest.count)
    rows = np.sort(np.random.default_rng(0).choice(manifest.count, size=size, replace=False))
    sample: NDArray[np.float32] = vectors[rows]  # (sample, D)
    own = np.einsum("nd,nd->n", sample, sample)
    hits = int((graph.search(sample, 1).scores[:, 0] >= own - 1e-4).sum())
    if hits < _WANTED_SHARE * size:
        raise InputError(f"only {hits} of {size} sampled vectors find themselves; build the index again")
    return f"{hits} of {size} sampled vectors find themselves"
