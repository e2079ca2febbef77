"""Connections to Qdrant, and what it raises told as relsdk tells it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException

from relsdk.errors import IndexFolderError, InputError, LockedError, RelsdkError, StoreError
from relsdk.index.store_uri import StoreUri

__all__ = ["check_folder", "open_folder", "open_server", "told_as_ours"]

_TIMEOUT = 120  # seconds for one call


def open_server(uri: StoreUri) -> QdrantClient:
    """Return a client of a server; nothing is sent yet."""
    key = os.environ.get("QDRANT_API_KEY") or None
    return QdrantClient(url=uri.address, api_key=key, timeout=_TIMEOUT, check_compatibility=False)


def open_folder(uri: StoreUri) -> QdrantClient:
    """Open a folder of the client's local mode, or make it.

    Raises:
        IndexFolderError: It is damaged.
        LockedError: It is open elsewhere.
    """
    try:
        return QdrantClient(path=uri.address, force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise LockedError(
            f"{uri} is open in another process, or twice in this one; a folder has one user at a time: close "
            "it there, or run a Qdrant server"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, sqlite3.Error) as error:
        raise IndexFolderError(f"{uri} is no folder of Qdrant's, or damaged ({error})") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder of something else.

    Raises:
        InputError: There is a file, or a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and no folder of Qdrant's; name another folder, or a new one")


@contextmanager
def told_as_ours(uri: StoreUri) -> Iterator[None]:
    """Raise what Qdrant raises inside as a `StoreError`."""
    try:
        yield
    except RelsdkError:
        raise
    except ResponseHandlingException as error:
        raise StoreError(f"{uri} does not answer ({error.source}); is Qdrant running there?") from error
    except (ApiException, ValueError, OSError, sqlite3.Error) as error:
        raise StoreError(f"{uri}: Qdrant refused ({_said(error):.500})") from error


def _said(error: Exception) -> str:
    """Return what a server said, in one line."""
    content = getattr(error, "content", b"")
    try:
        return str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(str(error).split())
