"""Connections to Milvus, to a server or to milvus-lite in this process, and its errors told as relsdk's."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from pymilvus import MilvusClient, MilvusException

from relsdk.errors import IndexFolderError, LockedError, MissingExtraError, RelsdkError, StoreError
from relsdk.index.store_uri import StoreUri

__all__ = ["Connection", "check_file"]

_TIMEOUT = 60.0  # seconds for one call; the slow ones of a load wait as long as it takes
_CONNECT_TIMEOUT = 15.0
# The server of milvus-lite, in this process, complains of pymilvus' pings every ten seconds.
_LITE_OPTIONS = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": False}
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

# pymilvus logs what it raises, with a traceback; relsdk's error says it already.
_calling: contextvars.ContextVar[bool] = contextvars.ContextVar("relsdk_calls_milvus", default=False)
_log = logging.getLogger("pymilvus.decorators")
_lite_log = logging.getLogger("milvus_lite.server_manager")


def _not_ours(_: logging.LogRecord) -> bool:
    return not _calling.get()


def _not_missing(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError))


_log.addFilter(_not_ours)
# pymilvus asks for a call that milvus-lite has not, and goes on without; its server, in a thread, logs that.
logging.getLogger("grpc._server").addFilter(_not_missing)

# milvus-lite has one server for each file of a process: how many connections of ours use it.
_users: dict[str, int] = {}
_users_lock = threading.Lock()


class Connection:
    """A client of one server, or of the file of milvus-lite, which has one process at a time.

    Args:
        uri: Where.

    Raises:
        MissingExtraError: milvus-lite is not installed.
        LockedError: Another process has the file.
        IndexFolderError: The file is no folder of milvus-lite's, or damaged.
        StoreError: The server does not answer, or refuses.
    """

    def __init__(self, uri: StoreUri) -> None:
        self._uri = uri
        self._token = os.environ.get("MILVUS_TOKEN") or ""
        self._file = uri.address if uri.is_local else None
        address = uri.address if self._file is None else _acquire(uri, self._file)
        try:
            with self._told_as_ours():
                self._client = MilvusClient(
                    address,
                    token="" if uri.is_local else self._token,
                    timeout=_CONNECT_TIMEOUT,
                    grpc_options=_LITE_OPTIONS if uri.is_local else {},
                )
        except BaseException:
            self._release()
            raise

    def call(self, method: str, *arguments: Any, slow: bool = False, **options: Any) -> Any:
        """Call a method of the client.

        Raises:
            StoreError: Milvus does not answer, or refuses.
        """
        timeout = None if slow or self._uri.is_local else _TIMEOUT  # milvus-lite works in this process
        with self._told_as_ours():
            return getattr(self._client, method)(*arguments, timeout=timeout, **options)

    def close(self) -> None:
        """Close it; more than once is fine."""
        with self._told_as_ours():
            self._client.close()
        self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            _give_back(file)

    @contextmanager
    def _told_as_ours(self) -> Iterator[None]:
        calling = _calling.set(True)
        try:
            yield
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, ValueError, TypeError) as error:
            # Not "from error": what pymilvus says may hold the token.
            raise self._as_ours(error) from None
        finally:
            _calling.reset(calling)

    def _as_ours(self, error: Exception) -> RelsdkError:
        text = error.message if isinstance(error, MilvusException) else str(error)
        if self._token:
            text = text.replace(self._token, "***")
        status = error.code() if isinstance(error, grpc.RpcError) and hasattr(error, "code") else None
        if status in _UNREACHABLE or isinstance(error, grpc.FutureTimeoutError) or _says_unreachable(text):
            return StoreError(f"{self._uri} does not answer ({text:.300}); is Milvus running there?")
        hint = ""
        if "auth" in text.lower():
            hint = (
                "; set MILVUS_TOKEN to USER:PASSWORD or a key" if not self._token else "; check MILVUS_TOKEN"
            )
        return StoreError(f"{self._uri}: Milvus refused ({text:.500}){hint}")


def _says_unreachable(text: str) -> bool:
    return any(part in text for part in ("Fail connecting to server", "server unavailable", "UNAVAILABLE"))


def check_file(uri: StoreUri) -> None:
    """Refuse a path that is there and is no folder of milvus-lite's; nothing is changed.

    Raises:
        IndexFolderError: It is something else.
    """
    path = Path(uri.address)
    if path.is_file():
        raise IndexFolderError(
            f"{path} is a file; milvus-lite 3 keeps its data in a folder of that name (version 2 wrote a "
            "file): name another path"
        )
    if path.is_dir() and any(path.iterdir()) and not (path / "collections").is_dir():
        raise IndexFolderError(f"{path} is a folder of something else than milvus-lite; name another path")


def _acquire(uri: StoreUri, file: str) -> str:
    """Start milvus-lite on a file in this process, or use the one that runs; return its address."""
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError as error:
        raise MissingExtraError("a file of milvus-lite", "milvus-lite") from error
    check_file(uri)
    raised: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            raised.append(record.exc_info[1])
        return False

    with _users_lock:
        ours = _users.get(file, 0)
        foreign = not ours and file in server_manager_instance._servers
        _lite_log.addFilter(keep)
        try:
            address = server_manager_instance.start_and_get_uri(file)
        finally:
            _lite_log.removeFilter(keep)
        if address is not None:
            if not foreign:  # else somebody else in this process started it, and will stop it
                _users[file] = ours + 1
            return str(address)
    if any(type(error).__name__ == "DataDirLockedError" for error in raised):
        raise LockedError(
            f"{uri} is open in another process; milvus-lite has one at a time: close it there, or run a "
            "Milvus server"
        )
    reason = f" ({raised[0]!s:.300})" if raised else ""
    raise IndexFolderError(f"{uri}: milvus-lite cannot open its folder{reason}; build it again elsewhere")


def _give_back(file: str) -> None:
    """Stop milvus-lite on a file when nobody of ours uses it any more: other processes can open it."""
    from milvus_lite.server_manager import server_manager_instance

    with _users_lock:
        left = _users.get(file, 0) - 1
        if left > 0:
            _users[file] = left
        elif left == 0:
            del _users[file]
            server_manager_instance.release_server(file)
