"""Write a folder aside, check it, then move it into place: nobody ever sees a half-written one.

    PARENT/.NAME.lock              held by the writer of NAME while it works
    PARENT/.NAME.new-<random>      what it writes; after the exchange for a moment what was replaced
    PARENT/.NAME.old-<random>      what was replaced, where the file system cannot exchange two folders

All three go when the writer ends. What a killed one left is put back or removed by the next writer, under the
lock, before it begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, LockedError, RelsdkError
from relsdk.files.atomic import HeldLock, exchange, hold_lock, remove, replaced_file, sync, sync_tree

__all__ = [
    "FileStamp",
    "check_file_target",
    "file_sha256",
    "json_sha256",
    "remove_leftovers",
    "restore_folder",
    "staged_folder",
    "write_file_atomically",
]

# How long a reader waits for a folder that is being replaced, and how often it looks.
_PATIENCE_SECONDS, _LOOK_SECONDS = 2.0, 0.02


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
        try:
            resolved = Path(os.path.realpath(path))
        except (OSError, ValueError):  # ValueError: a NUL in it
            return cls(path, None)
        return cls(resolved, _status(resolved))

    @property
    def holds(self) -> bool:
        """Whether the file is still the same."""
        return self.status is not None and _status(self.path) == self.status

    @property
    def written_over(self) -> bool:
        """Whether the file is the same one with other content; another file may be in its place."""
        now = _status(self.path)
        return (
            now is not None and self.status is not None and now[:2] == self.status[:2] and now != self.status
        )


def _status(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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


def check_file_target(path: Path, *, overwrite: bool = False, endings: Sequence[str] = ()) -> None:
    """Find out before the work whether its result could be written.

    Args:
        path: The file, or a pipe or a device.
        overwrite: Whether a file that is there is replaced.
        endings: Which ones a file's name may have, such as ".json", in lower case: those of the format that
            is written. ".gz" may stand behind another one. A name without an ending, a pipe and a device may
            always be; none given allows all.

    Raises:
        InputError: `path` is a folder, a file and `overwrite` is false, or its folder is missing or closed;
            or its name has another ending, so that its content would not be what the name says.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
        if path.exists() and not path.is_file():
            return  # a pipe or a device
        _check_ending(path, endings)
        if path.is_file() and not overwrite:
            raise InputError(f"{path} exists; pass --overwrite to replace it")
        folder = Path(os.path.realpath(path)).parent  # where the file is that a link points to
        if not folder.is_dir():
            raise InputError(
                f"{path} cannot be written: {folder} is no folder; make it, or name another file"
            )
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; name another file") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission in {folder}; name another file")


def _check_ending(path: Path, endings: Sequence[str]) -> None:
    ending = path.suffix.lower()
    if ending == ".gz" and ending in endings:
        ending = path.with_suffix("").suffix.lower()
    if ending and endings and ending not in endings:
        raise InputError(
            f"{path}: {ending} is not the format that is written; end the name with {', '.join(endings)}"
        )


def write_file_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a UTF-8 text file in one step: see `replaced_file`.

    Raises:
        RelsdkError: The file system refused (read-only, full, no permission).
    """
    try:
        with replaced_file(path, durable=durable) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise RelsdkError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def staged_folder(
    target: Path, *, marker: str, overwrite: bool = False, sources: Sequence[Path] = ()
) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    Where Linux can exchange two folders there is no moment without one; elsewhere the old one is set aside
    for the moment between two renames, and `restore_folder` finds it. Everything is on the disk before it
    takes its place.

    Args:
        target: Where the folder shall be; parents are made.
        marker: A file that every folder of this kind holds; one without it is somebody's, and never replaced.
        overwrite: Replace a folder of this kind that is there.
        sources: Folders that are read meanwhile; none may be in what is replaced.

    Yields:
        The staging folder, on the same file system as `target`.

    Raises:
        InputError: `target` is a file, a mount point, a non-empty folder and `overwrite` is false, a folder
            of something else, or holds a source.
        LockedError: Another process writes the same folder.
        RelsdkError: The file system refused.
    """
    target = _whole_name(target)  # whoever fills it may go to another folder
    with _writing(target):
        _check_target(target, marker, overwrite, sources)
        parents = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(target)
    try:
        with _writing(target):
            if lock.exclusive:  # else what is there may be of a writer at work
                _clear(target)
                _check_target(target, marker, overwrite, sources)  # again: what was there may be back
            staging = _beside(target, f"new-{secrets.token_hex(4)}")
            staging.mkdir()
        try:
            yield staging
            with _writing(target):
                sync_tree(staging)
                _move_into_place(staging, target)
                for folder in (target.parent, *(one.parent for one in parents)):
                    sync(folder)
        except OSError as error:  # of the block
            raise RelsdkError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            remove(staging)
    finally:
        lock.release(remove=True)


def _check_target(target: Path, marker: str, overwrite: bool, sources: Sequence[Path]) -> None:
    """Raise `InputError` where a folder must not, or cannot, be written."""
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError:  # found out by a library at the end of the work otherwise
        raise InputError(f"{target}: this name is not UTF-8; name another folder") from None
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; name a folder that does not exist yet")
    if os.path.ismount(target):
        raise InputError(f"{target} is a mount point, which cannot be replaced; name a folder inside it")
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


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error for people."""
    try:
        yield
    except OSError as error:
        raise RelsdkError(f"cannot write {target}: {error.strerror or error}") from error


def _whole_name(target: Path) -> Path:
    return target.resolve() if target.name in ("", "..") else target.absolute()


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.{ending}")


def _lock(target: Path) -> HeldLock:
    try:
        return hold_lock(_beside(target, "lock"))
    except LockedError:
        raise LockedError(
            f"{target} is being written by another process; wait until it has finished, or name another one"
        ) from None


def _move_into_place(staging: Path, target: Path) -> None:
    """Give `staging` the name `target`; what was there is then in `staging`."""
    if not os.path.lexists(target):
        os.rename(staging, target)
        return
    if exchange(staging, target):
        return
    aside = _beside(target, f"old-{secrets.token_hex(4)}")
    try:
        os.rename(target, aside)
        os.rename(staging, target)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            os.rename(aside, target)
        raise
    sync(target.parent)
    os.rename(aside, staging)  # what is half deleted is never put back


def restore_folder(target: Path) -> None:
    """Put back a folder that is not there because its writer was killed between two renames.

    Nothing happens when there is none that could be put back. A reader calls this before it says that a
    folder is missing.

    Raises:
        RelsdkError: It cannot be put back: the message names the folder that was set aside.
    """
    target = _whole_name(target)
    waited = 0.0
    while not os.path.lexists(target) and (old := _set_aside(target)):
        try:
            with hold_lock(_beside(target, "lock")) as lock:
                _put_back(target)
                lock.release(remove=True)
        except (OSError, RelsdkError) as error:
            if isinstance(error, LockedError) and waited < _PATIENCE_SECONDS:
                time.sleep(_LOOK_SECONDS)
                waited += _LOOK_SECONDS
                continue
            raise RelsdkError(
                f"{target} is not there: its writer was stopped, and what was there before is in {old}; "
                f"rename that to {target}"
            ) from error


def remove_leftovers(target: Path) -> None:
    """Put back or remove what killed writers of a folder left, unless one is at work.

    Raises:
        RelsdkError: The old folder cannot be put back.
    """
    target = _whole_name(target)
    with suppress(LockedError), _writing(target):
        lock = hold_lock(_beside(target, "lock"))
        try:
            if lock.exclusive:
                _clear(target)
        finally:
            lock.release(remove=True)


def _clear(target: Path) -> None:
    """Put back or remove what killed writers left; the lock must be held."""
    _put_back(target)
    for left in (*_leftovers(target, "new"), *_leftovers(target, "old")):
        remove(left)


def _put_back(target: Path) -> None:
    if not os.path.lexists(target) and (old := _set_aside(target)):
        os.rename(old, target)
        sync(target.parent)


def _set_aside(target: Path) -> Path | None:
    """Return where the newest folder is that was set aside, None where there is none."""
    for aside in sorted(_leftovers(target, "old"), key=lambda path: path.lstat().st_mtime, reverse=True):
        # A version before this one set aside into a folder of its own.
        inside = aside / "folder"
        content = inside if inside.is_dir() and os.listdir(aside) == ["folder"] else aside
        if content.is_dir() and any(content.iterdir()):
            return content
    return None


def _leftovers(target: Path, kind: str) -> list[Path]:
    """Return what is beside a folder under the names of its writers."""
    names = re.compile(re.escape(f".{target.name}.{kind}-") + "[a-z0-9_]{8}")
    try:
        return [target.with_name(name) for name in os.listdir(target.parent) if names.fullmatch(name)]
    except OSError:  # no such folder, or a closed one
        return []
