"""Write a folder aside, check it, then move it into place: nobody ever sees a half-written one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, RelsdkError

__all__ = [
    "FileStamp",
    "check_file_target",
    "file_sha256",
    "json_sha256",
    "staged_folder",
    "write_file_atomically",
]


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as it was at one moment, for those who open it again later.

    Attributes:
        path: Where it is, symbolic links followed: moving a link later leads nobody to another file.
        status: Device, inode, bytes, time of change; None when it was not there.
    """

    path: Path
    status: tuple[int, int, int, int] | None

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Take note of a file."""
        resolved = path.resolve()
        return cls(resolved, _status(resolved))

    @property
    def holds(self) -> bool:
        """Whether the file is still the same."""
        return self.status is not None and _status(self.path) == self.status


def _status(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Return the hex SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_file_target(path: Path, *, overwrite: bool = False) -> None:
    """Find out before the work whether its result could be written.

    Raises:
        InputError: `path` is a folder, a file and `overwrite` is false, or its folder is missing or closed.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: {path.parent} is no folder; make it, or name another file"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission in {path.parent}; name another file")


def write_file_atomically(path: Path, text: str) -> None:
    """Replace a UTF-8 text file in one step: a reader sees the old one or the new one, never a part.

    Raises:
        RelsdkError: The file system refused (read-only, full, no permission).
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RelsdkError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def staged_folder(
    target: Path, *, marker: str, overwrite: bool = False, sources: Sequence[Path] = ()
) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    An existing folder is set aside first and removed last: it survives every failure before the final rename.

    Args:
        target: Where the folder shall be; parents are made.
        marker: A file that every folder of this kind holds; one without it is somebody's, and never replaced.
        overwrite: Replace a folder of this kind that is there.
        sources: Folders that are read meanwhile; none may be in what is replaced.

    Yields:
        The staging folder, on the same file system as `target`.

    Raises:
        InputError: `target` is a file, a non-empty folder and `overwrite` is false, a folder of something
            else, or holds a source.
        RelsdkError: The file system refused.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        if not (target / marker).is_file():
            raise InputError(
                f"{target} is a folder with other things in it (no {marker}); nothing was touched; name "
                f"another folder"
            )
        if not overwrite:
            raise InputError(f"{target} exists and is not empty; pass --overwrite to replace it")
        for source in sources:
            if source.resolve().is_relative_to(target.resolve()):
                raise InputError(f"{target} holds {source}, which is read; name another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.new-"))
    except OSError as error:
        raise RelsdkError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    try:
        yield staging
        os.chmod(staging, 0o755)
        _move_into_place(staging, target)
    except OSError as error:
        raise RelsdkError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_into_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`, putting what was there back if that fails."""
    if not target.exists():
        staging.rename(target)
        return
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old-"))
    try:
        target.rename(aside / "folder")
        staging.rename(target)
    except BaseException:
        if not target.exists():
            (aside / "folder").rename(target)
        raise
    finally:
        if target.exists():  # else what was there is in `aside` only
            shutil.rmtree(aside, ignore_errors=True)
