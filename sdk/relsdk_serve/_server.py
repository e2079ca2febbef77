"""The server process: sockets, time limits of connections, signals, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from relsdk.errors import InputError
from relsdk_serve._connection import KEEP_ALIVE_SECONDS, Connection, Unread
from relsdk_serve._routes import make_app
from relsdk_serve._service import Phase, Service
from relsdk_serve._settings import Settings

__all__ = ["bind", "run_server"]

_LOG = logging.getLogger(__name__)
_BACKLOG = 2048
_OPEN_FILES = 65_536
_SWITCH_SECONDS = 0.0005
_ALLOWED_HEADERS = ["authorization", "api-key", "x-api-key", "content-type", "x-request-id"]
_SHOWN_HEADERS = ["retry-after", "retry-after-ms", "server-timing", "x-request-id"]


def bind(settings: Settings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror}; choose another --host or "
            "--port"
        ) from None
    return listener


def run_server(
    settings: Settings,
    service: Service,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    on_made: Callable[[uvicorn.Server], None] = lambda _: None,
) -> None:
    """Serve until a signal comes.

    Args:
        settings: What to serve.
        service: Made of them.
        listener: A socket that listens.
        on_ready: Called once requests are answered.
        on_made: Called with the server, whose `handle_exit` ends it, before it starts.

    Raises:
        RelsdkError: A model or an index cannot be served.
    """
    made = make_app(service)
    app: Any = made
    if settings.cors:
        app = CORSMiddleware(
            app,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_SHOWN_HEADERS,
        )
    config = uvicorn.Config(
        app,
        http=partial(  # type: ignore[arg-type]
            Connection,
            limits=settings.limits,
            unread=Unread(),
            # A page of another origin reads no answer without the headers that the application adds.
            refusal=None if settings.cors else made.refusal,
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what goes wrong is ours to tell
    server = _Server(config, service)
    on_made(server)
    config.load()
    _allow_many_connections()
    # A worker between two products asks for the interpreter; it should not wait for a busy event loop as long
    # as Python's 5 ms.
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop = _new_event_loop()
    try:
        loop.run_until_complete(server.serve_all(listener, on_ready))
    finally:
        sys.setswitchinterval(before)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _allow_many_connections() -> None:
    """Raise the number of files that this process may open to what it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _Server(uvicorn.Server):
    """uvicorn's server: unready first at SIGTERM, and exit code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at_once = asyncio.Event()

    async def serve_all(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Answer /livez at once, load, serve, and end."""
        self._loop = asyncio.get_running_loop()
        loading = asyncio.ensure_future(self._load(on_ready))
        with self.capture_signals():
            try:
                await self.serve([listener])
            finally:
                if not loading.done():
                    loading.cancel()
                await self._service.stop(self._at_once)
                await _cancel_others()
        if not loading.cancelled() and loading.done() and (error := loading.exception()) is not None:
            raise error

    async def _load(self, on_ready: Callable[[], None]) -> None:
        try:
            await self._service.start()
            on_ready()
        except BaseException:
            self.should_exit = True
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take those who have connected, and nobody after them; end when all are answered."""
        # Whoever still waited in the listener's queue would be reset with it.
        waiting = [taken for listener in sockets or [] for taken in _accept_all(listener)]
        for server in self.servers:
            server.close()
        make_protocol: Any = self.config.http_protocol_class
        protocol = partial(
            make_protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        for taken in waiting:
            with contextlib.suppress(OSError):  # it has gone again
                await asyncio.get_running_loop().connect_accepted_socket(protocol, taken)
        await asyncio.sleep(0.01)  # what the event loop accepted itself becomes a connection
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP; they are not raised again, since ending is what they ask for."""
        if threading.current_thread() is not threading.main_thread():  # no other may
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second signal ends at once what still runs."""
        if self._service.phase is Phase.DRAINING:
            self.should_exit = self.force_exit = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._at_once.set)
            return
        at_once = sig == signal.SIGINT or self._service.phase is Phase.STARTING
        self._service.phase = Phase.DRAINING
        if at_once or self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(
                self._loop.call_later, self._service.settings.drain_seconds, self._stop_accepting
            )

    def _stop_accepting(self) -> None:
        self.should_exit = True


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait in the queue of a socket that listens and does not block."""
    taken = []
    with contextlib.suppress(OSError):  # as many as there are, or as this process may open
        while True:
            taken.append(listener.accept()[0])
    return taken


async def _cancel_others() -> None:
    """Cancel what still runs, such as the requests that a second signal cuts off."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=1.0)
