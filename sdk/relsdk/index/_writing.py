"""What the file system or SQLite refuses while an index is written, as an error for people."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relsdk.errors import RelsdkError

__all__ = ["writing"]


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
