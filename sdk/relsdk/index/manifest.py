"""`manifest.json`: what a generation is and what its files must be."""

from __future__ import annotations

import json
import platform
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from relsdk.errors import IndexFolderError, InputError
from relsdk.folders import file_sha256, json_sha256
from relsdk.index.base import IndexConfig
from relsdk.index.documents import DOCUMENTS_FILE
from relsdk.index.hnsw import GRAPH_FILE
from relsdk.index.twins import TWINS_FILE
from relsdk.index.vectors import VECTORS_FILE

__all__ = ["MANIFEST_FILE", "FileEntry", "Manifest", "read_manifest"]

MANIFEST_FILE = "manifest.json"
FORMAT = "relsdk-index"
VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and hex SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The facts about a generation.

    Attributes:
        config: The settings.
        count: N, documents.
        dimension: D, of the vectors.
        encoder_name: Who made the vectors, for people.
        encoder_fingerprint: Who made the vectors.
        encoder_path: Where the encoder was then; None when it has no folder.
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
    created: str
    libraries: Mapping[str, str]
    files: Mapping[str, FileEntry]

    def to_json(self) -> str:
        """Return the text of the file; `checksum` is over all the rest."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config.to_dict(),
            "count": self.count,
            "dimension": self.dimension,
            "encoder": {
                "name": self.encoder_name,
                "fingerprint": self.encoder_fingerprint,
                "path": self.encoder_path,
            },
            "created": self.created,
            "libraries": dict(self.libraries),
            "files": {name: {"size": f.size, "sha256": f.sha256} for name, f in self.files.items()},
        }
        return json.dumps({**content, "checksum": json_sha256(content)}, indent=2, ensure_ascii=False) + "\n"


def file_names(config: IndexConfig) -> tuple[str, ...]:
    """Return the names of the files beside the manifest."""
    return (VECTORS_FILE, DOCUMENTS_FILE, *([GRAPH_FILE, TWINS_FILE] if config.kind == "hnsw" else []))


def describe(
    folder: Path, config: IndexConfig, count: int, dimension: int, encoder: tuple[str, str, str | None]
) -> Manifest:
    """Make the manifest of a finished folder: hash its files, note time and versions.

    Args:
        folder: Holds the files.
        config: The settings.
        count: N.
        dimension: D.
        encoder: Name, fingerprint and path.
    """
    files = {
        name: FileEntry((folder / name).stat().st_size, file_sha256(folder / name))
        for name in file_names(config)
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IndexFolderError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise IndexFolderError(f"{path} is damaged ({error}); build the index again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise IndexFolderError(f"{path} is not the manifest of a relsdk index; name another folder")
    if content.get("version") != VERSION:
        raise IndexFolderError(
            f"{path} has format version {content.get('version')!r}, this relsdk reads {VERSION}; build the "
            f"index again, or use the relsdk that wrote it"
        )
    try:
        manifest = _parse(content)
        checksum = content.pop("checksum", None)
        if checksum != json_sha256(content):
            raise InputError("its checksum differs: it was changed after it was written")
    except (InputError, TypeError, KeyError) as error:
        raise IndexFolderError(f"{path} is damaged: {error}; build the index again") from error
    return manifest


def _parse(content: Mapping[str, Any]) -> Manifest:
    config = IndexConfig.from_dict(_take(content, "config", dict))
    encoder = _take(content, "encoder", dict)
    files = {
        name: FileEntry(_take(entry, "size", int), _take(entry, "sha256", str))
        for name, entry in _take(content, "files", dict).items()
    }
    # Exactly the names of this format: so none can lead out of the folder.
    if sorted(files) != sorted(file_names(config)):
        raise InputError(f"it lists the files {', '.join(files) or 'none'}; {file_names(config)} are needed")
    if not all(_SHA256.fullmatch(entry.sha256) and entry.size > 0 for entry in files.values()):
        raise InputError("the size or hash of a file is not one")
    manifest = Manifest(
        config=config,
        count=_take(content, "count", int),
        dimension=_take(content, "dimension", int),
        encoder_name=_take(encoder, "name", str),
        encoder_fingerprint=_take(encoder, "fingerprint", str),
        encoder_path=None if encoder.get("path") is None else _take(encoder, "path", str),
        created=_take(content, "created", str),
        libraries=_take(content, "libraries", dict),
        files=files,
    )
    if manifest.count < 1 or manifest.dimension < 1:
        raise InputError(f"count {manifest.count} and dimension {manifest.dimension} must be at least 1")
    return manifest


def _take(content: Any, name: str, kind: type[Kind]) -> Kind:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name!r} is {value!r}, {kind.__name__} is needed")
    return value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
