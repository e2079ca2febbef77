"""The folder of an index: generations, and a pointer that is moved in one step.

    INDEX/CURRENT                      the name of the committed generation
    INDEX/gen-000001/                  manifest.json, vectors.npy, documents.sqlite, graph.hnsw, twins.npy
    INDEX/.tmp-gen-000002-<pid>/       a generation being written
    INDEX/.lock, INDEX/.writer         held by the writer; who that is

A generation never changes once its folder has its name. A crash at any point leaves CURRENT naming a complete
one; what else it left is removed by the next writer, under the lock, before it begins: also on a full disk.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from relsdk.errors import IndexFolderError, InputError, LockedError, RelsdkError
from relsdk.files.atomic import hold_lock, remove, sync, sync_tree
from relsdk.files.folders import write_file_atomically

__all__ = [
    "CURRENT",
    "new_generation",
    "open_current",
    "read_current",
    "writing",
]

CURRENT = "CURRENT"
_LOCK, _OWNER = ".lock", ".writer"
_GENERATION = re.compile(r"gen-[0-9]{6,12}")
_LEFTOVER = re.compile(r"\.tmp-gen-[0-9]{6,12}-[0-9]+|\.CURRENT\..*|\.\.writer\..*")
_OURS = re.compile(rf"{CURRENT}|\.lock|\.writer|{_GENERATION.pattern}|{_LEFTOVER.pattern}")
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


class _Staging:
    """A generation that is being written.

    Attributes:
        folder: Where its files go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        numbers = [int(name[4:]) for name in os.listdir(path) if _GENERATION.fullmatch(name)]
        try:
            numbers.append(int(read_current(path)[4:]))
        except IndexFolderError:
            pass  # no index yet, or a damaged one
        self.name = f"gen-{max(numbers, default=0) + 1:06d}"
        self.folder = path / f".tmp-{self.name}-{os.getpid()}"
        self.folder.mkdir()

    def commit(self) -> None:
        """Make the generation durable, then current, then delete what it replaces.

        Raises:
            RelsdkError: The file system refused; what was current still is.
        """
        with writing(self._path):
            sync_tree(self.folder)
            os.rename(self.folder, self._path / self.name)
            sync(self._path)
            write_file_atomically(self._path / CURRENT, self.name + "\n")
        with suppress(OSError):  # the next writer tries again
            _remove_leftovers(self._path)

    def discard(self) -> None:
        """Delete what was written, unless it has become current."""
        remove(self.folder)
        try:
            current = read_current(self._path)
        except IndexFolderError:
            current = None
        if current != self.name:
            remove(self._path / self.name)


@contextmanager
def new_generation(path: Path, *, overwrite: bool) -> Iterator[_Staging]:
    """Lock the folder, making it if need be, and yield a generation to write and commit.

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
        with _lock(path):
            _check_target(path, overwrite)  # again: another writer may just have finished
            with writing(path):
                _remove_leftovers(path)
                # Only now: on a full disk there may have been no room for it.
                write_file_atomically(path / _OWNER, f"process {os.getpid()} on {socket.gethostname()}\n")
                staging = _Staging(path)
            try:
                yield staging
            except BaseException:
                staging.discard()
                raise
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds an index, or what somebody else put there
                folder.rmdir()
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error for people.

    Raises:
        RelsdkError: With path and reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RelsdkError(f"cannot write {path}: {reason}; check space and permissions there") from error
    except sqlite3.Error as error:
        raise RelsdkError(
            f"cannot write {path}: SQLite: {error}; check space and permissions there"
        ) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the writer's lock; the kernel drops it when the process dies."""
    try:
        lock = hold_lock(path / _LOCK)
    except LockedError:
        raise LockedError(
            f"{path} is being written by {_owner(path)}; wait until it has finished, or build to another "
            f"folder"
        ) from None
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


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left, and the generations before the current one; the lock must be held."""
    try:
        current = read_current(path)
        known = (path / current).is_dir()
    except (
        IndexFolderError
    ):  # there is none yet, or the pointer is damaged: a generation may be what is wanted
        known = not os.path.lexists(path / CURRENT)
        current = ""
    for name in os.listdir(path):
        if _LEFTOVER.fullmatch(name) or (known and _GENERATION.fullmatch(name) and name != current):
            remove(path / name)


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
