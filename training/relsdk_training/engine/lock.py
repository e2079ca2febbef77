"""The lock of a run's folder: two processes would overwrite each other's checkpoints."""

from __future__ import annotations

from pathlib import Path

from relsdk.errors import InputError, LockedError, RelsdkError
from relsdk.files.atomic import HeldLock, hold_lock

__all__ = ["LOCK_FILE", "lock_run"]

LOCK_FILE = ".lock"


def lock_run(folder: Path) -> HeldLock:
    """Make a run's folder and hold its lock, which the kernel drops when the process dies.

    Args:
        folder: Of the run.

    Returns:
        The lock; release it when the run has ended.

    Raises:
        LockedError: Another process runs there.
        InputError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return hold_lock(folder / LOCK_FILE)
    except LockedError:
        raise LockedError(
            f"{folder} is in use by another process; wait for it, or name another folder"
        ) from None
    except (OSError, RelsdkError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{folder} cannot be used as a run folder: {reason or error}") from error
