"""What an index holds, and what it consists of, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relsdk.index._generation import Generation
from relsdk.index.base import IndexConfig

__all__ = ["IndexInfo", "IndexStats", "SegmentStats", "index_info", "index_stats"]


@dataclass(frozen=True)
class IndexInfo:
    """A summary of an index.

    Attributes:
        path: The folder.
        generation: Which generation of it is open.
        kind: "hnsw" or "flat".
        count: Documents.
        dimension: D, of the vectors.
        encoder_name: Who made the vectors, for people.
        encoder_fingerprint: Who made the vectors.
        encoder_path: Where the encoder's folder was then; None when it had none.
        encoder_relative_path: The same, from `path`, links followed; None when it is not known.
        config: The settings.
        files: Bytes of each file.
        created: When the generation was committed, ISO 8601 in UTC.
        analyser: What made the words of documents, its name and version; None when words are not kept.
        hybrid: The variants of the encoder that the model of meaning and words was fitted for.
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
    analyser: str | None
    hybrid: tuple[str, ...]


@dataclass(frozen=True)
class SegmentStats:
    """What one segment holds.

    Attributes:
        name: Its folder inside the index.
        count: Live documents.
        dead: Documents that were deleted or replaced, and are still on the disk.
        vectors: Rows of its matrix, of dead documents too.
        graph: Whether a graph is searched, or every vector.
        bytes: Of its files.
    """

    name: str
    count: int
    dead: int
    vectors: int
    graph: bool
    bytes: int


@dataclass(frozen=True)
class IndexStats:
    """What an index consists of.

    Attributes:
        generation: Which one is open.
        format: Of its folder: 1 or 2.
        count: Live documents.
        dead: Documents that were deleted or replaced, and are still on the disk.
        bytes: Of all files of this generation.
        segments: In the order in which their documents were added.
    """

    generation: str
    format: int
    count: int
    dead: int
    bytes: int
    segments: tuple[SegmentStats, ...]


def index_info(generation: Generation, path: Path) -> IndexInfo:
    """Return what the index at `path` holds."""
    manifest = generation.manifest
    analyser = manifest.analyser
    return IndexInfo(
        path=path,
        generation=generation.name,
        kind=manifest.config.kind,
        count=manifest.count,
        dimension=manifest.dimension,
        encoder_name=manifest.encoder.name,
        encoder_fingerprint=manifest.encoder.fingerprint,
        encoder_path=manifest.encoder.path,
        encoder_relative_path=manifest.encoder.relative_path,
        config=manifest.config,
        files={name: entry.size for name, _, entry in manifest.all_files(generation.folder)},
        created=manifest.created,
        analyser=None if analyser is None else f"{analyser.name} {analyser.version}",
        hybrid=tuple(generation.hybrid),
    )


def index_stats(generation: Generation) -> IndexStats:
    """Return what the index consists of."""
    segments = tuple(
        SegmentStats(
            name=entry.folder,
            count=entry.live,
            dead=entry.count - entry.live,
            vectors=entry.rows,
            graph=entry.has_graph,
            bytes=sum(file.size for file in entry.files.values()),
        )
        for entry in generation.manifest.segments
    )
    own = sum(entry.size for entry in generation.manifest.files.values())
    return IndexStats(
        generation=generation.name,
        format=generation.manifest.version,
        count=generation.manifest.count,
        dead=sum(segment.dead for segment in segments),
        bytes=own + sum(segment.bytes for segment in segments),
        segments=segments,
    )
