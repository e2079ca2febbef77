"""The one place where httpx is imported, and what its two clients have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from relsdk.client._exchange import Attempt, Lost
from relsdk.errors import InputError, MissingExtraError

__all__ = ["HttpxClient", "too_slow"]


# Connections of an asynchronous client; of a blocking one those that are kept while no thread uses them.
_MOST_CONNECTIONS, _MOST_FREE = 100, 20


class HttpxClient:
    """httpx clients of one server: the only one of an event loop, or one for each request of a thread.

    Of threads that share an httpx client, one may close the connection that another was just given, whose
    request then waits until its time is up (encode/httpcore#1110). After a fork there are new ones: on one
    connection, processes read each other's answers.

    Args:
        kind: "Client" or "AsyncClient" of httpx.
        url: The server's address.
        headers: Of every request.
        transport: See `Client`; requests share it.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(self, kind: str, url: str, headers: dict[str, str], transport: Any) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("the client of a server", "client") from error
        self.request_error = httpx.RequestError
        self._never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
        self._url = url
        headers = {"accept": "application/json", "user-agent": f"relsdk/{_version()}", **headers}
        make = getattr(httpx, kind)
        # With as many kept as there may be, httpx closes none to have fewer: see the class.
        limits = httpx.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS)
        self._make: Callable[[], Any] = partial(
            make, headers=headers, transport=transport, verify=_trusted_certificates(), limits=limits
        )
        self._shared = kind == "AsyncClient" or transport is not None
        self._free, self._process = [self._make()], os.getpid()
        self._closed = False

    @contextmanager
    def taken(self) -> Iterator[Any]:
        """Lend an httpx client of this process, which no other thread uses meanwhile.

        Raises:
            InputError: They were closed.
        """
        if self._closed:
            raise InputError(f"the client of {self._url} is closed; make a new one")
        if self._process != os.getpid():
            self._free, self._process = [self._make()], os.getpid()
        if self._shared:
            yield self._free[0]
            return
        try:
            client = self._free.pop()
        except IndexError:
            client = self._make()
        try:
            yield client
        finally:
            self._free.append(client)
            if self._closed or len(self._free) > _MOST_FREE:
                with suppress(IndexError):  # another thread took it
                    self._free.pop(0).close()

    def closing(self) -> Iterator[Any]:
        """Take no more requests; yield the httpx clients to close. One that is lent is closed afterwards."""
        self._closed = True
        if self._shared:
            yield self._free[0]
            return
        with suppress(IndexError):  # there is none any more
            while True:
                yield self._free.pop()

    def stream(self, client: Any, attempt: Attempt) -> Any:
        """Send a request by a client that was lent; a context manager of the unread response."""
        request = attempt.request
        headers = None if request.body is None else {"content-type": "application/json"}
        return client.stream(
            request.method,
            self._url + request.path,
            content=request.body,
            headers=headers,
            timeout=attempt.timeout,
        )

    def lost(self, error: Exception) -> Lost:
        """Return what an error of httpx's means."""
        return Lost(f"{type(error).__name__}: {error}", sent=not isinstance(error, self._never_sent))


def too_slow(attempt: Attempt) -> Lost:
    """Return that the time was up before the whole answer was there."""
    return Lost(f"no whole answer within {attempt.timeout:.3g} s", sent=True)


@cache
def _trusted_certificates() -> Any:
    """Return what httpx trusts, read once a process: each of its clients would read it, in 20 ms."""
    import httpx

    return httpx.create_ssl_context()


def _version() -> str:
    try:
        return version("relsdk")
    except PackageNotFoundError:
        return "unknown"
