"""A memory of files whose hash was right: the next check of the same file costs microseconds.

What is remembered is no path but the file itself: device, inode, size, times of change, and its hash. A copy,
a restored or a changed file is another one, and is hashed. A file that was changed in the last moment before
it was hashed is not remembered: the clock of the file system could not tell a further change. What a program
changes in a file that it has mapped into memory may leave the times alone: such a change is not seen.

The memory is of this process and, as empty files, in the user's cache (`$XDG_CACHE_HOME/relsdk/intact`, or
where the system keeps caches), so that it serves the next process too. Where that cannot be written, nothing
is lost but time. It protects against accidents; who may write to that folder may as well change a manifest.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from pathlib import Path

from relsdk.files.folders import file_sha256

__all__ = ["hash_and_remember", "is_intact"]

# How long a file must have been left alone before it is hashed: some ticks of the kernel's coarse clock, or
# of a file system whose times are whole seconds or two (FAT).
_TICK_NS, _COARSE_TICK_NS = 100_000_000, 3_000_000_000
# Files in the cache: when there are more, the oldest half goes.
_MOST_MARKS = 2000
# Files that one process remembers; then it begins anew.
_MOST_KEPT = 100_000

_seen: set[str] = set()


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a file has a hash; it is read only when this file has not been found right before.

    Args:
        path: The file.
        sha256: The hex SHA-256 that it must have.

    Raises:
        OSError: It cannot be read.
    """
    return _is_known(_key(os.stat(path), sha256)) or hash_and_remember(path) == sha256


def hash_and_remember(path: Path) -> str:
    """Return the hex SHA-256 of a file; `is_intact` need not read it again.

    Raises:
        OSError: It cannot be read.
    """
    began, before = time.time_ns(), os.stat(path)
    sha256 = file_sha256(path)
    if _key(before, sha256) == _key(os.stat(path), sha256) and _was_still(before, began):
        _remember(_key(before, sha256))
    return sha256


def _key(status: os.stat_result, sha256: str) -> str:
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _was_still(status: os.stat_result, now: int) -> bool:
    # Nobody can set the time of status change; on Windows that field is the time of creation.
    changed = status.st_mtime_ns if os.name == "nt" else status.st_ctime_ns
    return now - changed > (_TICK_NS if changed % 1_000_000_000 else _COARSE_TICK_NS)


def _is_known(key: str) -> bool:
    if key in _seen:
        return True
    if len(_seen) > _MOST_KEPT:  # of a server that lives long
        _seen.clear()
    folder = _cache_folder()
    if folder is None:
        return False
    try:
        status = os.lstat(folder / key)
    except OSError:
        return False
    if stat.S_ISREG(status.st_mode) and _is_ours(status):
        _seen.add(key)
    return key in _seen


def _remember(key: str) -> None:
    _seen.add(key)
    folder = _cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(os.stat(folder)):
            os.close(os.open(folder / key, os.O_CREAT | os.O_WRONLY, 0o600))
            _prune(folder)
    except OSError:
        pass  # read-only, full, not ours: the next process hashes again


def _prune(folder: Path) -> None:
    names = os.listdir(folder)
    if len(names) > _MOST_MARKS:
        for name in sorted(names, key=lambda name: os.lstat(folder / name).st_mtime_ns)[: len(names) // 2]:
            os.unlink(folder / name)


def _is_ours(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _cache_folder() -> Path | None:
    """Return where marks go, or None when there is no such place."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # others are to be ignored, says the XDG specification
        return Path(chosen, "relsdk", "intact")
    try:
        home = Path.home()
        if not _is_ours(home.stat()):  # as after sudo: no file of ours in a folder of somebody else
            return None
    except (RuntimeError, OSError):
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = home / ".cache"
    return base / "relsdk" / "intact"
