"""One process at a time in a run's folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from relsdk.errors import InputError, LockedError

__all__ = ["LOCK_FILE", "lock_run"]

LOCK_FILE = ".lock"


def lock_run(folder: Path) -> FileLock:
    """Make a run's folder and hold its lock, which the kernel drops when the process dies.

    Args:
        folder: Of the run.

    Returns:
        The lock; release it when the run has ended.

    Raises:
        LockedError: Another process runs there.
        InputError: The folder cannot be made.
    """
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"{folder} is in use by another process; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise InputError(f"{folder} cannot be used as a run folder: {error.strerror or error}") from error
    return lock
