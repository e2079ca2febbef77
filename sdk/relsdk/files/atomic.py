"""Write files whole or not at all and never through a link; lock them by the kernel.

A file is written aside, flushed to the disk and renamed. Whoever writes holds a lock on what is aside, so
that the next writer can tell what a killed one left: a lock dies with its process, a process id does not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from relsdk.errors import LockedError, RelsdkError

try:
    import fcntl
except ImportError:  # on Windows, where models are served but no index is built
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "HeldLock",
    "exchange",
    "hold_lock",
    "output_file",
    "remove",
    "replaced_file",
    "sync",
    "sync_tree",
]

# Neither waits for a FIFO nor opens what a link points to.
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
# Some network file systems have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # of Linux: man 2 renameat2
# So many characters of a name are in the name of what is aside: with the rest they fit into 255 bytes.
_NAME_CHARACTERS = 50


class HeldLock:
    """A lock that is held until `release`, the end of the block, or the death of the process.

    Args:
        path: Its file.
        handle: Of the open file.
        exclusive: Whether it keeps others out: not where the file system has no locks.
    """

    def __init__(self, path: Path, handle: int, exclusive: bool) -> None:
        self.exclusive = exclusive
        self._path = path
        self._handle = handle

    def release(self, *, remove: bool = False) -> None:
        """Let others in, and perhaps remove the file; more than once is fine."""
        if self._handle < 0:
            return
        handle, self._handle = self._handle, -1
        try:
            if remove and self.exclusive:  # while it is held: nobody else has the file of this name
                with suppress(OSError):
                    os.unlink(self._path)
        finally:  # also when Ctrl-C comes meanwhile
            if self.exclusive:  # closing alone would not do: a forked child may have the file open, too
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def hold_lock(path: Path, *, wait: bool = False) -> HeldLock:
    """Lock a file, which is made if it is not there; the kernel drops the lock when the process dies.

    Args:
        path: The file; never a link, and nothing is written to it.
        wait: For another holder, instead of raising.

    Raises:
        LockedError: Another process, or another holder in this one, has it.
        RelsdkError: It is no regular file, or the file system refused.
    """
    try:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666)
            try:
                exclusive = _lock(handle, wait)
                if not exclusive or _is_at(handle, path):
                    return HeldLock(path, handle, exclusive)
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # the holder before us removed it: another one may have its name now
    except BlockingIOError:
        raise LockedError(f"{path} is locked by another process; wait until it has finished") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL):
            raise RelsdkError(
                f"{path} is a link or no regular file, where a lock belongs; remove it"
            ) from None
        raise RelsdkError(f"cannot write {path}: {error.strerror or error}") from error


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file; return whether the file system can."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has the name by which it was opened."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


@contextmanager
def replaced_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a stream; what is written to it takes the place of `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part, also after a power cut. A link at `path` is
    replaced, not followed. What killed writers of the same file left is removed first.

    Args:
        path: The file.
        durable: Wait until it is on the disk; without that a power cut may leave an empty file.

    Raises:
        OSError: The file system refused; what was there still is.
    """
    path = path.absolute()
    _remove_leftovers(path)
    temporary, stream = _open_aside(path)
    with stream:
        try:
            yield stream
            stream.flush()
            with suppress(FileNotFoundError):
                replaced = os.lstat(path)
                if stat.S_ISREG(replaced.st_mode):
                    os.fchmod(stream.fileno(), stat.S_IMODE(replaced.st_mode))
            if durable:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    if durable:
        sync(path.parent)


def _open_aside(path: Path) -> tuple[Path, BinaryIO]:
    """Make a file beside `path` under a name that nobody can guess, and lock it."""
    while True:
        aside = path.with_name(f"{_aside_prefix(path)}{secrets.token_hex(4)}.tmp")
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666)
        stream = os.fdopen(handle, "wb")
        try:
            _lock(handle, wait=True)
            if _is_at(handle, aside):
                return aside, stream
        except BaseException:
            stream.close()
            with suppress(OSError):
                os.unlink(aside)
            raise
        stream.close()  # another writer took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left: that is what nobody has locked."""
    prefix = _aside_prefix(path)
    for name in os.listdir(path.parent):
        if not (name.startswith(prefix) and name.endswith(".tmp") and len(name) == len(prefix) + 12):
            continue
        with suppress(OSError):
            handle = os.open(path.with_name(name), os.O_RDWR | _SAFELY)
            try:
                if _lock(handle, wait=False):
                    os.unlink(path.with_name(name))
            finally:
                os.close(handle)


def _aside_prefix(path: Path) -> str:
    return f".{path.name[:_NAME_CHARACTERS]}."


@contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a stream for a result that a user has named.

    A regular file appears, or replaces the old one, when the block ends without an error; a link is followed
    to its file. Pipes and devices are written as they are.

    Raises:
        OSError: The file system refused; what was there still is.
    """
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        special = False
    if special:
        with open(path, "wb") as stream:  # a pipe or a device; a folder fails here
            yield stream
    else:
        with replaced_file(Path(os.path.realpath(path))) as stream:
            yield stream


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have no fsync of a folder: their names are as durable as they ever get.
        if error.errno != errno.EINVAL or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk, the innermost first; links are not followed."""
    for inside, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(inside, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                sync(path)
        sync(Path(inside))


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders swap their names in one step; return False where that is not possible."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)  # for whatever reason: two plain renames say what is the matter


def remove(path: Path) -> None:
    """Delete a folder, a file or a link, as far as possible: the next writer tries again."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
