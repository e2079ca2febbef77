"""Check an index, even one that cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError, RelsdkError
from relsdk.files.folders import file_sha256
from relsdk.index._codes import CODES_FILE, check_codes
from relsdk.index._columns_file import DIRECTORY_FILE
from relsdk.index._columns_writer import ColumnsWriter
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._document_reader import DocumentReader
from relsdk.index._duplicate_vectors import TWINS_FILE, DuplicateVectors
from relsdk.index._generation import load_generation
from relsdk.index._graph_file import holds_vectors
from relsdk.index._manifest import MANIFEST_FILE, FileEntry, Manifest, SegmentEntry, read_manifest
from relsdk.index._passages import PASSAGES_FILE, load_passages
from relsdk.index._postings import POSTINGS_FILE, Postings
from relsdk.index._storage import CURRENT, read_current
from relsdk.index._vectors import VECTORS_FILE, check_vectors, map_vectors
from relsdk.index.hnsw import GRAPH_FILE, HnswIndex

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
    """Check the committed generation of an index: hashes, counts, vectors, databases, graphs, ids.

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
    while True:
        report = verify_generation(folder, name)
        latest = name if report.ok else read_current(folder)
        if latest == name:
            return report
        name = latest  # writers have replaced it meanwhile


def verify_generation(path: Path, name: str) -> VerifyReport:
    """Check one generation of the index at `path`."""
    folder = path / name
    try:
        manifest = read_manifest(folder)
    except RelsdkError as error:
        return VerifyReport(path, name, (Check(MANIFEST_FILE, False, str(error)),))
    checks = [Check(MANIFEST_FILE, True, f"{manifest.count:,} documents, {manifest.dimension} dimensions")]
    intact = {}
    for shown, file, entry in manifest.all_files(folder):
        check = _run_check(f"hash of {shown}", partial(_check_hash, file, entry))
        intact[file] = check.ok
        checks.append(check)
    for segment in manifest.segments:
        checks += _check_segment(path, name, segment, manifest, intact)
    if all(check.ok for check in checks):
        checks.append(_run_check("ids", partial(_check_ids, folder)))
    return VerifyReport(path, name, tuple(checks))


def _run_check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except Exception as error:  # whatever a damaged file leads to is a finding
        return Check(name, False, str(error) or type(error).__name__)


def _check_segment(
    path: Path, name: str, entry: SegmentEntry, manifest: Manifest, intact: dict[Path, bool]
) -> list[Check]:
    """Look at the content of one segment's files."""
    folder = path / entry.folder
    # Where the segment is the generation itself, nothing more need be said.
    where = "" if entry.folder == name else f" of {entry.folder}"
    checks = [
        _run_check(f"vectors{where}", partial(_check_vectors, folder, entry, manifest)),
        _run_check(f"documents{where}", partial(_check_documents, folder, entry)),
    ]
    if PASSAGES_FILE in entry.files:
        checks.append(_run_check(f"passages{where}", partial(_check_passages, folder, entry)))
    if CODES_FILE in entry.files:
        checks.append(_run_check(f"codes{where}", partial(_check_codes, folder, entry, manifest)))
    if DIRECTORY_FILE in entry.files:
        checks.append(_run_check(f"columns{where}", partial(_check_columns, folder, entry)))
    if POSTINGS_FILE in entry.files:
        checks.append(_run_check(f"postings{where}", partial(_check_postings, folder, entry)))
    if entry.has_graph:
        checks.append(_run_check(f"twins{where}", partial(_check_twins, folder, entry, manifest)))
        if all(intact[folder / file] for file in (GRAPH_FILE, TWINS_FILE, VECTORS_FILE)):
            checks.append(_run_check(f"graph{where}", partial(_check_graph, folder, entry, manifest)))
        else:
            checks.append(Check(f"graph{where}", False, "not tried: a file it needs has a wrong hash"))
    return checks


def _check_hash(path: Path, entry: FileEntry) -> str:
    size = path.stat().st_size
    if size != entry.size:
        raise InputError(f"{size:,} bytes, the manifest says {entry.size:,}")
    if file_sha256(path) != entry.sha256:
        raise InputError("the content was changed after it was written")
    return f"{size:,} bytes"


def _check_vectors(folder: Path, entry: SegmentEntry, manifest: Manifest) -> str:
    vectors = map_vectors(folder / VECTORS_FILE, entry.rows, manifest.dimension)
    for start in range(0, len(vectors), _BLOCK):
        check_vectors(vectors[start : start + _BLOCK], f"rows from {start:,}", "build the index again")
    return f"{len(vectors):,} finite vectors of length 1"


def _check_documents(folder: Path, entry: SegmentEntry) -> str:
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    try:
        problems = documents.problems()
        count = len(documents)
    finally:
        documents.close()
    if count != entry.count:
        problems.append(f"{count:,} documents, the manifest says {entry.count:,}")
    if problems:
        raise InputError("; ".join(problems))
    return f"{count:,} documents, integrity check passed"


def _check_ids(folder: Path) -> str:
    """No id has two live documents."""
    generation = load_generation(folder.name, folder, "sizes")
    try:
        seen: set[str] = set()
        for segment, alive in zip(generation.segments, generation.alive, strict=True):
            for start in range(0, alive.count, _BLOCK):
                rows = alive.rows[start : start + _BLOCK].tolist()
                ids = [fields[1] for fields in segment.documents.fields(rows)]
                twice = next((identifier for identifier in ids if identifier in seen), None)
                if twice is not None:
                    raise InputError(f"id {twice!r} has two live documents; build the index again")
                seen.update(ids)
    finally:
        generation.close()
    return f"{len(seen):,} ids, each with one live document"


def _check_passages(folder: Path, entry: SegmentEntry) -> str:
    passages = load_passages(folder, entry.rows, entry.count)
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    try:
        for start in range(0, entry.count, _BLOCK):
            rows = range(start, min(start + _BLOCK, entry.count))
            lengths = np.array([len(fields[3]) for fields in documents.fields(rows)])
            some = passages[np.searchsorted(passages[:, 0], rows.start) :]
            some = some[some[:, 0] < rows.stop]
            if (some[:, 2] > lengths[some[:, 0] - start]).any():
                raise InputError("a passage ends behind its document's text; build the index again")
    finally:
        documents.close()
    return f"{len(passages):,} passages of {entry.count:,} documents"


def _check_codes(folder: Path, entry: SegmentEntry, manifest: Manifest) -> str:
    vectors = map_vectors(folder / VECTORS_FILE, entry.rows, manifest.dimension)
    if not check_codes(folder, vectors):
        raise InputError("they are not those of the vectors; build the index again")
    return f"{len(vectors):,} vectors in 8 bits"


def _check_columns(folder: Path, entry: SegmentEntry) -> str:
    """The columns are those of the documents' metadata."""
    documents = DocumentReader(folder / DOCUMENTS_FILE)
    try:
        writer = ColumnsWriter.of(documents.metadata())
    finally:
        documents.close()
    if not writer.is_saved(folder):
        raise InputError("they are not those of the documents; build the index again")
    return f"{entry.count:,} rows"


def _check_postings(folder: Path, entry: SegmentEntry) -> str:
    problems = Postings.load(folder, entry.rows).problems()
    if problems:
        raise InputError("; ".join(problems))
    return f"of {entry.rows:,} texts"


def _check_twins(folder: Path, entry: SegmentEntry, manifest: Manifest) -> str:
    vectors = map_vectors(folder / VECTORS_FILE, entry.rows, manifest.dimension)
    pairs = DuplicateVectors.load(folder, entry.rows).pairs
    if not np.array_equal(pairs, DuplicateVectors.find(vectors).pairs):
        raise InputError("they are not the rows with equal vectors; build the index again")
    return f"{len(pairs):,} rows have the vector of another"


def _check_graph(folder: Path, entry: SegmentEntry, manifest: Manifest) -> str:
    """Compare all vectors with those of the graph and look for a sample; `load` checks links and labels."""
    vectors = map_vectors(folder / VECTORS_FILE, entry.rows, manifest.dimension)
    graph = HnswIndex.load(folder, vectors, manifest.config)
    distinct = len(DuplicateVectors.load(folder, entry.rows).representatives())
    if not holds_vectors(folder / GRAPH_FILE, vectors, distinct, manifest.config):
        raise InputError("its vectors are not those of the index; build the index again")
    size = min(_SAMPLE, entry.rows)
    rows = np.sort(np.random.default_rng(0).choice(entry.rows, size=size, replace=False))
    sample: NDArray[np.float32] = vectors[rows]  # (sample, D)
    own = np.einsum("nd,nd->n", sample, sample)
    hits = int((graph.search(sample, 1).scores[:, 0] >= own - 1e-4).sum())
    if hits < _WANTED_SHARE * size:
        raise InputError(f"only {hits} of {size} sampled vectors find themselves; build the index again")
    return f"{hits} of {size} sampled vectors find themselves"
