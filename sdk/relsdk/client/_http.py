"""The one place where httpx is imported, and what its two clients have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from relsdk.client._exchange import Attempt, Lost
from relsdk.errors import InputError, MissingExtraError

__all__ = ["HttpxClient", "too_slow"]


class HttpxClient:
    """An httpx client, and a new one after a fork: on one connection, processes read each other's answers.

    Args:
        kind: "Client" or "AsyncClient" of httpx.
        url: The server's address.
        headers: Of every request.
        transport: See `Client`.

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
        self._make: Callable[[], Any] = partial(
            make, headers=headers, transport=transport, verify=_trusted_certificates()
        )
        self._opened, self._process = self._make(), os.getpid()

    def opened(self, *, closing: bool = False) -> Any:
        """Return the client of this process.

        Raises:
            InputError: It was closed, and is not to be closed now.
        """
        if self._opened.is_closed and not closing:
            raise InputError(f"the client of {self._url} is closed; make a new one")
        if self._process != os.getpid():
            self._opened, self._process = self._make(), os.getpid()
        return self._opened

    def stream(self, attempt: Attempt) -> Any:
        """Send a request; a context manager of the response, whose body is not read yet."""
        request = attempt.request
        headers = None if request.body is None else {"content-type": "application/json"}
        return self.opened().stream(
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
