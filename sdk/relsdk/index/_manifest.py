"""`manifest.json`: the description of a generation and the hashes of its files."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from relsdk.errors import IndexFolderError
from relsdk.files.folders import json_sha256
from relsdk.files.intact import hash_and_remember, is_intact
from relsdk.index._database import DOCUMENTS_FILE
from relsdk.index._duplicate_vectors import TWINS_FILE
from relsdk.index._vectors import VECTORS_FILE
from relsdk.index.base import IndexConfig
from relsdk.index.hnsw import GRAPH_FILE
from relsdk.typed_json import convert_json, read_json

__all__ = ["MANIFEST_FILE", "Manifest", "check_files", "read_manifest"]

MANIFEST_FILE = "manifest.json"
FORMAT = "relsdk-index"
VERSION = 1


@dataclass(frozen=True)
class _FileEntry:
    """Size in bytes and hex SHA-256 of a file."""

    size: Annotated[int, Meta(ge=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """The facts about a generation.

    Attributes:
        config: The settings.
        count: N, documents.
        dimension: D, of the vectors.
        encoder_name: Who made the vectors, for people.
        encoder_fingerprint: Who made the vectors.
        encoder_path: Where the encoder was then; None when it has no folder, or one whose name is not UTF-8.
        encoder_relative_path: The same, from the index's own folder; None in what older versions wrote.
        created: When, ISO 8601 in UTC.
        libraries: Versions of what wrote it.
        files: By name.
    """

    config: IndexConfig
    count: int
    dimension: int
    encoder_name: str
    encoder_fingerprint: str
    encoder_path: str | None
    encoder_relative_path: str | None
    created: str
    libraries: Mapping[str, str]
    files: Mapping[str, _FileEntry]

    def to_json(self) -> str:
        """Return the text of the file; `checksum` is over all the rest."""
        content = {**self._content(), "checksum": self.checksum}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @property
    def checksum(self) -> str:
        """The hex SHA-256 of all that is in the file."""
        return json_sha256(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config.to_dict(),
            "count": self.count,
            "dimension": self.dimension,
            "encoder": {
                "name": self.encoder_name,
                "fingerprint": self.encoder_fingerprint,
                "path": self.encoder_path,
                "relative_path": self.encoder_relative_path,
            },
            "created": self.created,
            "libraries": dict(self.libraries),
            "files": {name: {"size": f.size, "sha256": f.sha256} for name, f in self.files.items()},
        }


@dataclass(frozen=True)
class _Encoder:
    name: str
    fingerprint: str
    path: str | None = None
    relative_path: str | None = None


@dataclass(frozen=True)
class _Content:
    """The file, as it is read."""

    format: str
    version: int
    config: IndexConfig
    count: Annotated[int, Meta(ge=1)]
    dimension: Annotated[int, Meta(ge=1)]
    encoder: _Encoder
    created: str
    libraries: dict[str, str]
    files: dict[str, _FileEntry]
    checksum: str


def _file_names(config: IndexConfig) -> tuple[str, ...]:
    """Return the names of the files beside the manifest."""
    return (VECTORS_FILE, DOCUMENTS_FILE, *([GRAPH_FILE, TWINS_FILE] if config.kind == "hnsw" else []))


def describe(
    folder: Path,
    config: IndexConfig,
    count: int,
    dimension: int,
    encoder: tuple[str, str, str | None, str | None],
) -> Manifest:
    """Make the manifest of a finished folder: hash its files, note time and versions.

    Args:
        folder: Holds the files.
        config: The settings.
        count: N.
        dimension: D.
        encoder: Name, fingerprint, path and relative path.
    """
    files = {
        name: _FileEntry((folder / name).stat().st_size, hash_and_remember(folder / name))
        for name in _file_names(config)
    }
    libraries = {name: _version(name) for name in ("relsdk", "numpy", "hnswlib")}
    libraries |= {"sqlite": sqlite3.sqlite_version, "python": platform.python_version()}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Manifest(config, count, dimension, *encoder, created, libraries, files)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a generation; the other files are not looked at.

    Raises:
        IndexFolderError: It is missing, damaged, foreign, or of another version.
    """
    path = folder / MANIFEST_FILE
    remedy = "build the index again"
    content = read_json(path, dict[str, Any], error=IndexFolderError, remedy=remedy)
    if content.get("format") != FORMAT:
        raise IndexFolderError(f"{path} is not the manifest of a relsdk index; name another folder")
    if content.get("version") != VERSION:
        raise IndexFolderError(
            f"{path} has format version {content.get('version')!r}, this relsdk reads {VERSION}; build the "
            f"index again, or use the relsdk that wrote it"
        )
    parsed = convert_json(content, _Content, where=str(path), error=IndexFolderError, remedy=remedy)
    needed = _file_names(parsed.config)
    if sorted(parsed.files) != sorted(needed):  # none can lead out of the folder
        raise IndexFolderError(
            f"{path} is damaged: it lists the files {', '.join(parsed.files) or 'none'}, not "
            f"{', '.join(needed)}; {remedy}"
        )
    if json_sha256({name: value for name, value in content.items() if name != "checksum"}) != parsed.checksum:
        raise IndexFolderError(
            f"{path} is damaged: its checksum differs: it was changed after it was written; {remedy}"
        )
    return Manifest(
        config=parsed.config,
        count=parsed.count,
        dimension=parsed.dimension,
        encoder_name=parsed.encoder.name,
        encoder_fingerprint=parsed.encoder.fingerprint,
        encoder_path=parsed.encoder.path,
        encoder_relative_path=parsed.encoder.relative_path,
        created=parsed.created,
        libraries=parsed.libraries,
        files=parsed.files,
    )


def check_files(folder: Path, files: Mapping[str, _FileEntry], *, hashes: bool) -> None:
    """Refuse files that are not those of the manifest.

    Args:
        folder: Holds them.
        files: What they must be.
        hashes: Also compare hashes; a file that passed before is not read again (`relsdk.files.intact`).

    Raises:
        IndexFolderError: One is missing, unreadable or another.
    """
    for name, entry in files.items():
        path = folder / name
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
    for name, entry in files.items() if hashes else ():
        path = folder / name
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
