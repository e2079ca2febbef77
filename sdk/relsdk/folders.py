"""Write a folder aside, check it, then move it into place: nobody ever sees a half-written one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, RelsdkError

__all__ = ["file_sha256", "json_sha256", "staged_folder", "write_file_atomically"]


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
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    An existing folder is set aside first and removed last: it survives every failure before the final rename.

    Args:
        target: Where the folder shall be; parents are made.
        overwrite: Replace a folder that is there and not empty.

    Yields:
        The staging folder, on the same file system as `target`.

    Raises:
        InputError: `target` is a file, or a non-empty folder and `overwrite` is false.
        RelsdkError: The file system refused.
    """
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target} exists and is not empty; pass --overwrite to replace it")
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
    target.rename(aside / "folder")
    try:
        staging.rename(target)
    except OSError:
        (aside / "folder").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
