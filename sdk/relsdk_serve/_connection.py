"""A connection: uvicorn's protocol with bounds on what a client sends and on what it leaves unread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from relsdk_serve._faults import RequestError, fault_of
from relsdk_serve._settings import Limits

__all__ = ["KEEP_ALIVE_SECONDS", "Connection", "Unread"]

# Longer than gateways keep theirs: they must not send a request into a connection that ends.
KEEP_ALIVE_SECONDS = 75
_HEAD_BYTES = 64 << 10
_LARGE_HEAD = f"the head of a request has more than {_HEAD_BYTES >> 10} KiB; send less"
# A body that nobody reads any more, since it was refused, is passed over up to here.
_PASSED_OVER_BYTES = 64 << 20
# Of all answers together that clients have not read.
_UNREAD_BYTES = 256 << 20
# A client that reads more slowly, after `Limits.send_seconds`, is left.
_SLOWEST_BYTES_A_SECOND = 256 << 10
# Where the server ends: who has connected has sent a request by then, or sends none.
_LAST_REQUEST_SECONDS = 0.5
# Java's client offers HTTP/2 with a request's head. The parser would drop the body of such a request, and a
# server may pass over the offer (RFC 9110, 7.8). Both names are as long.
_UPGRADES, _PASSED_OVER = (b"\r\nUpgrade:", b"\r\nupgrade:"), b"\r\nx-grade:"


Refusal = Callable[[bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]


class Unread:
    """The connections whose clients have not read everything, the longest first; of one event loop."""

    def __init__(self) -> None:
        self._connections: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Add a connection; where all of them hold too much, those that have waited longest are ended."""
        self._connections[connection] = None
        held = sum(one.unread_bytes for one in self._connections)
        while held > _UNREAD_BYTES and len(self._connections) > 1:
            longest = next(iter(self._connections))
            held -= longest.unread_bytes
            self.remove(longest)
            longest.transport.abort()

    def remove(self, connection: Connection) -> None:
        """Remove a connection, which has nothing unread or has ended."""
        self._connections.pop(connection, None)


class Connection(HttpToolsProtocol):
    """One connection.

    A head must come as a whole within a time and a size, and so must the rest of a body whose request was
    answered before. An answer must be read within a time that its size allows.

    Args:
        limits: Of the server.
        unread: The connections whose clients have not read everything.
        refusal: Takes method, target and headers, and returns the whole answer to a request that is refused
            before anything is made of it, or nothing.
        arguments: uvicorn's.
    """

    def __init__(
        self, *, limits: Limits, unread: Unread, refusal: Refusal | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._unread = unread
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = False
        self._is_large = False  # what has just come
        self._heads = 0
        self._head_bytes = 0
        self._passed_over = 0
        self._refusal = refusal
        self._refused = b""
        self._is_last = False  # what it has begun with; the server ends

    @property
    def unread_bytes(self) -> int:
        """What the client has not read, as far as the kernel did not take it."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(KEEP_ALIVE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._was_read()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = (self._in_head, self._in_body, self._heads)
        self._is_large = len(data) > _HEAD_BYTES
        if not self._in_body:
            self._in_head = True
        super().data_received(_without_upgrade(data) if self._in_head else data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(431, _LARGE_HEAD)
                return
        # Most requests come whole, and no time is set for them. A head or a body that began before goes on
        # with the time that it has.
        if (self._in_head, self._in_body, self._heads) != before:
            self._wait_for_the_rest()

    def _wait_for_the_rest(self) -> None:
        """Set a time for what has begun to arrive; none where nothing has."""
        if self._in_head:
            self._wait(self._limits.header_seconds)
        elif self._in_body:
            self._wait(self._limits.body_seconds)
        else:
            self._wait(None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        in_pieces = self._is_large or self._head_bytes  # or it is too short to be too large
        if in_pieces and len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > _HEAD_BYTES:
            self._head_bytes = _HEAD_BYTES + 1
            raise ValueError(_LARGE_HEAD)  # the parser ends; see `send_400_response`
        self._in_head, self._in_body = False, True
        self._head_bytes = self._passed_over = 0
        self._heads += 1
        self._unset_keepalive_if_required()  # of a refusal before it, in the same bytes
        if self._refusal is not None and not self.pipeline and not self.expect_100_continue:
            answered = self.cycle is None or self.cycle.response_complete
            if answered and (refusal := self._refusal(self.parser.get_method(), self.url, self.headers)):
                self._refused = refusal
                return
        super().on_headers_complete()
        if self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        if self.cycle.response_complete:
            self._passed_over += len(body)
            if self._passed_over > _PASSED_OVER_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = self._in_body = False
        if not self._refused:
            super().on_message_complete()
            return
        keep = self.parser.should_keep_alive() and not self._is_last
        self.transport.write(self._refused)
        self._refused = b""
        if keep:
            self.timeout_keep_alive_task = self.loop.call_later(
                KEEP_ALIVE_SECONDS, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._wait(self._limits.body_seconds)
        if self.transport.is_closing():
            self._must_be_read()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._must_be_read()

    def resume_writing(self) -> None:
        self._was_read()
        super().resume_writing()

    def shutdown(self) -> None:
        """End it after the request that it has begun with.

        Of a client that has just connected the request is on its way: an end now would be a reset.
        """
        self._is_last = True
        if not self._heads and not self._in_head:
            self._wait(_LAST_REQUEST_SECONDS)
        elif not self._in_head and not self._refused:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if self.unread_bytes:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(431, _LARGE_HEAD)
        else:
            self._refuse(400, "this is no HTTP/1.1 request")

    def _wait(self, seconds: float | None) -> None:
        """Wait so long for what the client must send; None waits no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self.flow.read_paused:  # it was not the client who waited
            self._wait(self._limits.header_seconds)
        elif self._in_head:
            self._refuse(
                408, f"the head of the request did not arrive within {self._limits.header_seconds:g} s"
            )
        elif self._in_body and not self._refused and not self.cycle.response_complete:
            self._refuse(408, f"the request did not arrive within {self._limits.body_seconds:g} s")
        else:
            self.transport.abort()

    def _must_be_read(self) -> None:
        self._was_read()
        seconds = self._limits.send_seconds + self.unread_bytes / _SLOWEST_BYTES_A_SECOND
        self._reader_timer = self.loop.call_later(seconds, self.transport.abort)
        self._unread.add(self)

    def _was_read(self) -> None:
        self._unread.remove(self)
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and end the connection; an answer that is due before it is lost."""
        self._wait(None)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.pipeline or not self._in_body or self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # it was this request's body
            self.cycle.message_event.set()
        body = fault_of(RequestError(status, message)).body(tei=False)
        length = b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + b"content-type: application/json\r\n" + length + body)
        self.transport.close()
        self._must_be_read()


def _without_upgrade(data: bytes) -> bytes:
    """Return the bytes of a head, and what follows it, without the offer of another protocol."""
    end = data.find(b"\r\n\r\n")
    for name in _UPGRADES:
        at = data.find(name, 0, end if end >= 0 else len(data))
        if at >= 0:
            data = data[:at] + _PASSED_OVER + data[at + len(name) :]
    return data
