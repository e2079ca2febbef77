"""`manifest.json`: the segments of a generation, and the sizes and hashes of all files.

Format 2 names segments; a generation of format 1 holds its files itself, and is read as one segment.
"""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from relsdk.errors import IndexFolderError
from relsdk.files.folders import json_sha256
from relsdk.files.intact import hash_and_remember, is_intact
from relsdk.index._codes import CODE_FILES
from relsdk.index._columns_file import COLUMN_FILES
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._duplicate_vectors import TWINS_FILE
from relsdk.index._passages import PASSAGES_FILE
from relsdk.index._postings_file import POSTINGS_FILE
from relsdk.index._vectors import VECTORS_FILE
from relsdk.index.analysis import CjkAnalyser
from relsdk.index.base import IndexConfig
from relsdk.index.hnsw import GRAPH_FILE
from relsdk.typed_json import convert_json, read_json

__all__ = [
    "HYBRID_FILE",
    "MANIFEST_FILE",
    "AnalyserEntry",
    "FileEntry",
    "MadeBy",
    "Manifest",
    "SegmentEntry",
    "check_files",
    "dead_file",
    "describe_files",
    "read_manifest",
    "write_manifest",
]

MANIFEST_FILE = "manifest.json"
HYBRID_FILE = "hybrid.json"
FORMAT = "relsdk-index"
VERSION = 2
_REMEDY = "build the index again"
# Files of a segment beside vectors and documents, and those of them that go together.
_GROUPS = ({GRAPH_FILE, TWINS_FILE}, {PASSAGES_FILE}, set(COLUMN_FILES), set(CODE_FILES), {POSTINGS_FILE})
_FOLDER = r"^(segments/seg|gen)-[0-9]{6,12}$"


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and hex SHA-256 of a file."""

    size: Annotated[int, Meta(ge=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class SegmentEntry:
    """The facts about a segment in one generation.

    Attributes:
        folder: From the folder of the index: "segments/seg-000001", or the generation of format 1.
        count: N, documents, dead ones too.
        rows: Vectors; more than documents where these are split into passages.
        live: Documents that are not dead.
        files: By name.
        synced: False when it was written without waiting for the disk.
    """

    folder: Annotated[str, Meta(pattern=_FOLDER)]
    count: Annotated[int, Meta(ge=1)]
    rows: Annotated[int, Meta(ge=1)]
    live: Annotated[int, Meta(ge=1)]
    files: Mapping[str, FileEntry]
    synced: bool = True

    @property
    def has_graph(self) -> bool:
        """Whether a graph is searched; without one search is exact."""
        return GRAPH_FILE in self.files


@dataclass(frozen=True)
class MadeBy:
    """The encoder that made the vectors.

    Attributes:
        name: For people.
        fingerprint: Equal for encoders whose vectors may be compared.
        path: Where it was then; None when it has no folder, or one whose name is not UTF-8.
        relative_path: The same, from the index's own folder; None in what older versions wrote.
    """

    name: str
    fingerprint: str
    path: str | None = None
    relative_path: str | None = None


@dataclass(frozen=True)
class AnalyserEntry:
    """Which analyser made the postings."""

    name: str
    version: int


@dataclass(frozen=True)
class Manifest:
    """The facts about a generation.

    Attributes:
        version: Of the format that its folder has: 1 or 2.
        config: The settings.
        dimension: D, of the vectors.
        encoder: Who made the vectors.
        analyser: Who made the words that lexical search finds; None where there are none.
        segments: In the order in which their documents were added.
        files: By name, beside the manifest: bitmaps of dead documents, and what calibrates.
        created: When, ISO 8601 in UTC.
        libraries: Versions of what wrote it.
        checksum: The hex SHA-256 of all the rest.
    """

    version: int
    config: IndexConfig
    dimension: int
    encoder: MadeBy
    analyser: AnalyserEntry | None
    segments: tuple[SegmentEntry, ...]
    files: Mapping[str, FileEntry]
    created: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    checksum: str = ""

    @property
    def count(self) -> int:
        """Live documents."""
        return sum(segment.live for segment in self.segments)

    def all_files(self, generation: Path) -> Iterator[tuple[str, Path, FileEntry]]:
        """Yield (name to show, path, entry) of each file that belongs to the generation in a folder."""
        for segment in self.segments:
            place = generation.parent / segment.folder
            prefix = "" if place == generation else f"{segment.folder}/"
            for name, entry in segment.files.items():
                yield prefix + name, place / name, entry
        for name, entry in self.files.items():
            yield name, generation / name, entry


@dataclass(frozen=True)
class _Content:
    """The file in format 2, as it is read."""

    format: str
    version: int
    config: IndexConfig
    dimension: Annotated[int, Meta(ge=1)]
    encoder: MadeBy
    analyser: AnalyserEntry | None
    segments: tuple[SegmentEntry, ...]
    files: dict[str, FileEntry]
    created: str
    libraries: dict[str, str]
    checksum: str


@dataclass(frozen=True)
class _Content1:
    """The file in format 1, as it is read."""

    format: str
    version: int
    config: IndexConfig
    count: Annotated[int, Meta(ge=1)]
    dimension: Annotated[int, Meta(ge=1)]
    encoder: MadeBy
    created: str
    libraries: dict[str, str]
    files: dict[str, FileEntry]
    checksum: str


def dead_file(segment_folder: str) -> str:
    """Return the name of the bitmap of a segment's dead documents."""
    return f"dead-{Path(segment_folder).name}.bits"


def describe_files(folder: Path, names: Sequence[str]) -> dict[str, FileEntry]:
    """Hash finished files."""
    return {
        name: FileEntry((folder / name).stat().st_size, hash_and_remember(folder / name)) for name in names
    }


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a generation whose other files are there; return it with its checksum."""
    libraries = {name: _version(name) for name in ("relsdk", "numpy", "hnswlib")}
    libraries |= {"sqlite": sqlite3.sqlite_version, "python": platform.python_version()}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = replace(manifest, version=VERSION, created=created, libraries=libraries)
    content = _to_dict(manifest)
    checksum = json_sha256(content)
    text = json.dumps({**content, "checksum": checksum}, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return replace(manifest, checksum=checksum)


def _to_dict(manifest: Manifest) -> dict[str, Any]:
    encoder, analyser = manifest.encoder, manifest.analyser
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": manifest.config.to_dict(),
        "dimension": manifest.dimension,
        "encoder": {
            "name": encoder.name,
            "fingerprint": encoder.fingerprint,
            "path": encoder.path,
            "relative_path": encoder.relative_path,
        },
        "analyser": analyser and {"name": analyser.name, "version": analyser.version},
        "segments": [
            {
                "folder": segment.folder,
                "count": segment.count,
                "rows": segment.rows,
                "live": segment.live,
                "files": _files_to_dict(segment.files),
                "synced": segment.synced,
            }
            for segment in manifest.segments
        ],
        "files": _files_to_dict(manifest.files),
        "created": manifest.created,
        "libraries": dict(manifest.libraries),
    }


def _files_to_dict(files: Mapping[str, FileEntry]) -> dict[str, Any]:
    return {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in files.items()}


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a generation; the other files are not looked at.

    Raises:
        IndexFolderError: It is missing, damaged, foreign, or of another version.
    """
    path = folder / MANIFEST_FILE
    content = read_json(path, dict[str, Any], error=IndexFolderError, remedy=_REMEDY)
    if content.get("format") != FORMAT:
        raise IndexFolderError(f"{path} is not the manifest of a relsdk index; name another folder")
    number = content.get("version")
    if number not in (1, VERSION) or isinstance(number, bool):
        raise IndexFolderError(
            f"{path} has format version {number!r}, this relsdk reads 1 and {VERSION}; build the index "
            f"again, or use the relsdk that wrote it"
        )
    manifest = _manifest_1(path, content) if number == 1 else _manifest_2(path, content)
    if json_sha256({name: value for name, value in content.items() if name != "checksum"}) != (
        manifest.checksum
    ):
        raise IndexFolderError(
            f"{path} is damaged: its checksum differs: it was changed after it was written; {_REMEDY}"
        )
    return manifest


def _manifest_1(path: Path, content: dict[str, Any]) -> Manifest:
    parsed = convert_json(content, _Content1, where=str(path), error=IndexFolderError, remedy=_REMEDY)
    needed = [VECTORS_FILE, DOCUMENTS_FILE]
    needed += [GRAPH_FILE, TWINS_FILE] if parsed.config.kind == "hnsw" else []
    if sorted(parsed.files) != sorted(needed):  # none can lead out of the folder
        raise _wrong_files(path, parsed.files, needed)
    segment = SegmentEntry(path.parent.name, parsed.count, parsed.count, parsed.count, parsed.files)
    return Manifest(
        1,
        parsed.config,
        parsed.dimension,
        parsed.encoder,
        AnalyserEntry(CjkAnalyser.name, CjkAnalyser.version),  # of its postings, once it has been compacted
        (segment,),
        {},
        parsed.created,
        parsed.libraries,
        parsed.checksum,
    )


def _manifest_2(path: Path, content: dict[str, Any]) -> Manifest:
    parsed = convert_json(content, _Content, where=str(path), error=IndexFolderError, remedy=_REMEDY)
    for segment in parsed.segments:
        others = set(segment.files) - {VECTORS_FILE, DOCUMENTS_FILE}
        known = set().union(*_GROUPS)
        whole = all(not others & group or group <= others for group in _GROUPS)
        if len(segment.files) != len(others) + 2 or not others <= known or not whole:
            raise _wrong_files(path, segment.files, [VECTORS_FILE, DOCUMENTS_FILE, *sorted(known)])
        if segment.live > segment.count or (segment.rows != segment.count and PASSAGES_FILE not in others):
            raise IndexFolderError(
                f"{path} is damaged: {segment.folder} has {segment.live:,} live of {segment.count:,} "
                f"documents and {segment.rows:,} vectors; {_REMEDY}"
            )
    folders = [segment.folder for segment in parsed.segments]
    dead = [dead_file(segment.folder) for segment in parsed.segments if segment.live < segment.count]
    if len(set(folders)) < len(folders) or not set(dead) <= set(parsed.files) <= {*dead, HYBRID_FILE}:
        raise _wrong_files(path, parsed.files, [*dead, HYBRID_FILE])
    return Manifest(
        VERSION,
        parsed.config,
        parsed.dimension,
        parsed.encoder,
        parsed.analyser,
        parsed.segments,
        parsed.files,
        parsed.created,
        parsed.libraries,
        parsed.checksum,
    )


def _wrong_files(path: Path, files: Mapping[str, FileEntry], needed: Sequence[str]) -> IndexFolderError:
    return IndexFolderError(
        f"{path} is damaged: it lists the files {', '.join(files) or 'none'}, not {', '.join(needed)}; "
        f"{_REMEDY}"
    )


def check_files(generation: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Refuse files that are not those of the manifest.

    Args:
        generation: The folder of the manifest.
        manifest: What they must be.
        hashes: Also compare hashes; a file that passed before is not read again (`relsdk.files.intact`).

    Raises:
        IndexFolderError: One is missing, unreadable or another.
    """
    files = list(manifest.all_files(generation))
    for _, path, entry in files:
        try:
            size = path.stat().st_size
            if size != entry.size:
                raise IndexFolderError(
                    f"{path} has {size:,} bytes, the manifest says {entry.size:,}; build the index again"
                )
        except OSError as error:
            raise IndexFolderError(
                f"cannot read {path}: {error.strerror or error}; build the index again"
            ) from error
    for _, path, entry in files if hashes else ():
        try:
            intact = is_intact(path, entry.sha256)
        except OSError as error:
            raise IndexFolderError(f"cannot read {path}: {error.strerror or error}") from error
        if not intact:
            raise IndexFolderError(
                f"{path} is damaged: it was changed after it was written (another SHA-256); build the index "
                f"again, or take the file from a backup"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
