"""The folder of an index: segments, generations that name them, and a pointer that is moved in one step.

    INDEX/CURRENT                      the name of the committed generation
    INDEX/gen-000042/                  manifest.json, dead-SEGMENT.bits
    INDEX/segments/seg-000041/         vectors.npy, documents.sqlite, graph.hnsw, twins.npy, ...
    INDEX/.tmp-gen-000043-<pid>/       a generation being written
    INDEX/.tmp-part-<random>/          documents being written; beside it, its lock
    INDEX/profiles.json                see _profiles_file.py; no part of a generation
    INDEX/.lock, INDEX/.writer         held by the writer that commits; who that is

Neither a segment nor a generation changes once its folder has its name. A crash at any point leaves CURRENT
naming a complete one; what else it left is removed by the next writer, under the lock, before it begins: also
on a full disk. The generation before the current one stays, with its segments.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from relsdk.errors import IndexFolderError, InputError, LockedError, RelsdkError
from relsdk.files.atomic import HeldLock, hold_lock, remove, sync, sync_tree
from relsdk.files.folders import write_file_atomically
from relsdk.index._manifest import read_manifest
from relsdk.index._profiles_file import PROFILES_FILE
from relsdk.index._writing import writing

__all__ = [
    "CURRENT",
    "Commit",
    "committing",
    "earlier_segments",
    "new_index",
    "new_part",
    "open_current",
    "read_current",
]

CURRENT = "CURRENT"
_LOCK, _OWNER, _SEGMENTS = ".lock", ".writer", "segments"
_GENERATION = re.compile(r"gen-[0-9]{6,12}")
_SEGMENT = re.compile(r"seg-[0-9]{6,12}")
_PART = re.compile(r"\.tmp-part-[0-9a-f]{8}")
_LEFTOVER = re.compile(r"\.tmp-gen-[0-9]{6,12}-[0-9]+|\.CURRENT\..*|\.\.writer\..*")
_OURS = re.compile(
    rf"{CURRENT}|\.lock|\.writer|segments|{_GENERATION.pattern}|{_LEFTOVER.pattern}|{_PART.pattern}(\.lock)?"
    rf"|{re.escape(PROFILES_FILE)}|\.{re.escape(PROFILES_FILE)}\..*"
)
# How long a change waits for another writer's commit, and how often it looks.
_PATIENCE_SECONDS, _LOOK_SECONDS = 30.0, 0.01
Content = TypeVar("Content")


def read_current(path: Path) -> str:
    """Return the name of the committed generation.

    Raises:
        IndexFolderError: There is no index, none that was finished, or the pointer is damaged.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise IndexFolderError(f"{path} {what}; an index is a folder, made with: relsdk index build")
    try:
        text = _read_name(path / CURRENT)
    except FileNotFoundError:
        if os.path.lexists(path / CURRENT):
            raise IndexFolderError(
                f"{path / CURRENT} is damaged: a link to nothing; build the index again"
            ) from None
        if _kind(path) == "unfinished":
            raise IndexFolderError(
                f"{path} holds no finished index: its first build runs or was interrupted; build it again"
            ) from None
        raise IndexFolderError(f"{path} is not an index: it has no file {CURRENT}; name another") from None
    except OSError as error:
        raise IndexFolderError(f"cannot read {path / CURRENT}: {error.strerror or error}") from error
    if not _GENERATION.fullmatch(text):
        raise IndexFolderError(
            f"{path / CURRENT} is damaged: it holds {text!r}, not a name such as gen-000001; build the index "
            f"again"
        )
    return text


def _read_name(path: Path) -> str:
    """Return the start of a small file, which may be hostile: a FIFO, a device without end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no regular file")
        return os.read(handle, 64).decode("ascii", "replace").removesuffix("\n")
    finally:
        os.close(handle)


def open_current(path: Path, load: Callable[[str, Path], Content]) -> Content:
    """Load the committed generation, or its successor when a writer replaces it meanwhile.

    Args:
        path: The index.
        load: Takes the generation's name and folder.

    Raises:
        IndexFolderError: `load` raised it, and CURRENT still names the same generation.
    """
    name = read_current(path)
    while True:
        try:
            return load(name, path / name)
        except IndexFolderError:
            latest = read_current(path)
            if latest == name:
                raise
            name = latest


def _check_target(path: Path, overwrite: bool) -> None:
    """Refuse to build where an index, or anything else, would be lost.

    Raises:
        InputError: A file, a folder that is no index, or an index and `overwrite` is false.
    """
    with writing(path):
        kind = _kind(path)
    if kind == "file":
        raise InputError(f"{path} is a file; name a folder for the index")
    if kind == "foreign":
        raise InputError(
            f"{path} is a folder with other things in it and no index; nothing was touched; name another "
            f"folder"
        )
    if kind == "index" and not overwrite:
        raise InputError(f"{path} is an index already; pass --overwrite to replace it")


class Commit:
    """A writer that holds the lock.

    Attributes:
        path: The folder of the index.
        name: Of the generation that `commit` makes.
        segment: The folder of the segment that it makes, from the folder of the index.

    Args:
        path: See above.
        keeps: Whether segments that are there belong to the new generation, too.
    """

    def __init__(self, path: Path, *, keeps: bool) -> None:
        self.path = path
        self._keeps = keeps
        names = [*os.listdir(path), *_names_in(path / _SEGMENTS)]
        numbers = [int(name[4:]) for name in names if _GENERATION.fullmatch(name) or _SEGMENT.fullmatch(name)]
        try:
            numbers.append(int(read_current(path)[4:]))
        except IndexFolderError:
            pass  # no index yet, or a damaged one
        number = max(numbers, default=0) + 1
        self.name = f"gen-{number:06d}"
        self.segment = f"{_SEGMENTS}/seg-{number:06d}"

    def commit(
        self, write: Callable[[Path], None], *, part: Path | None = None, synced: list[Path] | None = None
    ) -> None:
        """Make a generation durable, then current, then delete what nobody needs any more.

        Args:
            write: Writes the generation's files into the folder that it is given.
            part: The folder that becomes `segment`.
            synced: Folders that were written without waiting for the disk, and must be on it first; None does
                not wait for anything: a power cut may then leave an index that has to be built again.

        Raises:
            RelsdkError: The file system refused; what was current still is.
        """
        staging = self.path / f".tmp-{self.name}-{os.getpid()}"
        moved = False
        try:
            with writing(self.path):
                staging.mkdir()
                write(staging)
                if part is not None:
                    self._place(part, wait=synced is not None)
                    moved = True
                if synced is not None:
                    for folder in (*synced, staging):
                        sync_tree(folder)
                    if synced:  # the names of these segments, too
                        sync(self.path / _SEGMENTS)
                os.rename(staging, self.path / self.name)
                if synced is not None:
                    sync(self.path)
                write_file_atomically(self.path / CURRENT, self.name + "\n", durable=synced is not None)
        except BaseException:
            self._discard(staging, moved)
            raise
        with suppress(OSError):  # the next writer tries again
            _remove_leftovers(self.path)

    def _place(self, part: Path, wait: bool) -> None:
        """Give a finished part its name."""
        segments = self.path / _SEGMENTS
        if not segments.is_dir() or segments.is_symlink():
            if self._keeps and os.path.lexists(segments):
                raise RelsdkError(
                    f"{segments} is a link or no folder; nothing was changed: put the folder itself there"
                )
            remove(segments)
            segments.mkdir()
        if wait:
            sync_tree(part)
        os.rename(part, self.path / self.segment)
        if wait:
            sync(segments)

    def _discard(self, staging: Path, moved: bool) -> None:
        """Delete what was written, unless it has become current."""
        remove(staging)
        current = ""
        if os.path.lexists(self.path / CURRENT):
            try:
                current = read_current(self.path)
            except IndexFolderError:
                return  # it may be this one, when no more files may be opened: the next writer looks again
        if current != self.name:
            remove(self.path / self.name)
            if moved:
                remove(self.path / self.segment)
            _remove_if_empty(self.path / _SEGMENTS)


@contextmanager
def new_index(path: Path, *, overwrite: bool) -> Iterator[Commit]:
    """Lock the folder, making it if need be, and yield what commits the first generation, or a new beginning.

    Without a commit, also when interrupted, nothing of it stays.

    Raises:
        InputError: See `_check_target`.
        LockedError: Another writer is at work.
        RelsdkError: The file system refused.
    """
    _check_target(path, overwrite)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                with suppress(PermissionError):  # names may be added that may not be read
                    sync(folder.parent)
        with _lock(path, patience=0.0):
            _check_target(path, overwrite)  # again: another writer may just have finished
            yield _begin(path, keeps=False)
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds an index, or what somebody else put there
                folder.rmdir()
        raise


@contextmanager
def committing(path: Path) -> Iterator[Commit]:
    """Lock an index that is there, waiting for another writer's commit, and yield what commits a change.

    Raises:
        LockedError: Another writer is at work for too long.
        RelsdkError: The file system refused.
    """
    read_current(path)
    with _lock(path, patience=_PATIENCE_SECONDS):
        yield _begin(path, keeps=True)


def _begin(path: Path, *, keeps: bool) -> Commit:
    with writing(path):
        _remove_leftovers(path)
        # Only now: on a full disk there may have been no room for it.
        owner = f"process {os.getpid()} on {socket.gethostname()}\n"
        write_file_atomically(path / _OWNER, owner, durable=False)
        return Commit(path, keeps=keeps)


@contextmanager
def new_part(path: Path) -> Iterator[Path]:
    """Yield a new folder inside an index, for documents that are being written; it is gone in the end.

    No lock of the index is needed: the folder has one of its own, which tells it from what a killed writer
    left.

    Raises:
        RelsdkError: The file system refused.
    """
    folder = path / f".tmp-part-{secrets.token_hex(4)}"
    with writing(path):
        # Another writer may take it for a leftover, and remove it, before it is locked: then it is made anew.
        lock = hold_lock(_part_lock(folder), wait=True)
        try:
            folder.mkdir()
        except BaseException:
            lock.release(remove=True)
            raise
    with lock:  # is released also when Ctrl-C comes while the folder is removed
        try:
            yield folder
        finally:
            remove(folder)
            lock.release(remove=True)


def _part_lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def _lock(path: Path, patience: float) -> Iterator[None]:
    """Hold the writer's lock; the kernel drops it when the process dies."""
    lock = _wait_for_lock(path, patience)
    with lock:
        if not lock.exclusive:
            raise RelsdkError(
                f"{path} is on a file system that has no locks; build on another one and copy the folder"
            )
        try:
            yield
        except BaseException:
            if not os.path.lexists(path / CURRENT):  # no index: nothing of its build stays
                remove(path / _OWNER)
                lock.release(remove=True)
            raise


def _wait_for_lock(path: Path, patience: float) -> HeldLock:
    waited = 0.0
    while True:
        try:
            return hold_lock(path / _LOCK)
        except LockedError:
            if waited >= patience:
                raise LockedError(
                    f"{path} is being written by {_owner(path)}; wait until it has finished, or build to "
                    f"another folder"
                ) from None
        time.sleep(_LOOK_SECONDS)
        waited += _LOOK_SECONDS


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left, and what no generation that is kept names; the lock must be held."""
    kept = _kept(path)
    for name in os.listdir(path):
        part = _PART.match(name)
        if part:
            _remove_part(path / part.group())
        elif _LEFTOVER.fullmatch(name) or (
            kept is not None and _GENERATION.fullmatch(name) and name not in kept
        ):
            remove(path / name)
        if name == _SEGMENTS and kept is not None:
            for one in _names_in(path / name):
                if f"{name}/{one}" not in kept and _SEGMENT.fullmatch(one):
                    remove(path / name / one)
            _remove_if_empty(path / name)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _remove_part(folder: Path) -> None:
    """Remove a part that nobody writes any more."""
    with suppress(RelsdkError), hold_lock(_part_lock(folder)) as lock:
        if lock.exclusive:
            remove(folder)
            lock.release(remove=True)


def _kept(path: Path) -> set[str] | None:
    """Return the folders that stay: the current generation, the one before it, and their segments.

    None where nothing may be removed: the pointer is damaged, and any generation may be what is wanted.
    """
    if not os.path.lexists(path / CURRENT):
        return set()
    try:
        current = read_current(path)
        kept = {current, *(segment.folder for segment in read_manifest(path / current).segments)}
    except IndexFolderError:
        return None
    name, segments = _generation_before(path, current)
    return kept | {name} | segments if name else kept


def earlier_segments(path: Path) -> set[str]:
    """Return the segments that the generation before the current one has and the current one has not.

    Raises:
        IndexFolderError: There is no index, or it is damaged.
    """
    current = read_current(path)
    _, segments = _generation_before(path, current)
    return segments - {segment.folder for segment in read_manifest(path / current).segments}


def _generation_before(path: Path, current: str) -> tuple[str, set[str]]:
    """Return the latest generation before the current one that is whole, and its segments; "" for none."""
    numbers = [int(name[4:]) for name in os.listdir(path) if _GENERATION.fullmatch(name)]
    earlier = sorted((number for number in numbers if number < int(current[4:])), reverse=True)
    for name in (f"gen-{number:06d}" for number in earlier):
        try:
            segments = {segment.folder for segment in read_manifest(path / name).segments}
        except IndexFolderError:
            continue  # the home of an older segment, or damaged
        if all((path / folder).is_dir() for folder in segments):
            return name, segments
    return "", set()


def _names_in(folder: Path) -> list[str]:
    """Return what is in a folder; nothing of a link's target."""
    try:
        return [] if folder.is_symlink() else os.listdir(folder)
    except OSError:  # there is none, or something else has its name
        return []


def _owner(path: Path) -> str:
    try:
        return _read_name(path / _OWNER).strip() or "another process"
    except OSError:
        return "another process"


def _kind(path: Path) -> str:
    """Return "absent", "file", "empty", "index", "unfinished" or "foreign"."""
    if not path.is_dir():
        return "file" if path.exists() or path.is_symlink() else "absent"
    names = os.listdir(path)
    if not names:
        return "empty"
    if CURRENT in names:
        try:
            if (path / read_current(path)).is_dir():
                return "index"
        except IndexFolderError:
            pass  # damaged, or of another program
    if not all(_OURS.fullmatch(name) for name in names):
        return "foreign"
    return "index" if CURRENT in names else "unfinished"
