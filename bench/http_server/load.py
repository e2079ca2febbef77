"""Load over keep-alive connections: closed loops, and open loops whose latency counts from the due time.

One thread and `epoll`, so that a core of its own keeps up with any server on another one. In an open loop a
request that cannot be sent when it is due (the server is slow, or this program is) waits, and its latency has
this wait: a slow server does not thin out its own load ("coordinated omission").
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_ANSWER", "Caller", "Lane", "Outcome", "constant", "poisson", "run_load"]

# The status of a request whose connection ended, or that had no answer when waiting for it ended.
NO_ANSWER = 0
Address = tuple[str, int]
Message = Callable[[int], bytes]
# Connections of an open loop; a request that finds all of them busy waits.
_MOST_CONNECTIONS = 4000
# Nearer to the next request than this, the loop does not sleep: epoll's clock has milliseconds.
_SPIN_S = 0.002
_PART = 1 << 18


@dataclass(frozen=True)
class Lane:
    """A source of requests; several run at the same time.

    Attributes:
        name: Of the lane.
        message: The whole request of a number, from 0 on.
        clients: Of a closed loop: each sends its next request when it has the answer.
        arrivals: Of an open loop: seconds after the start.
    """

    name: str
    message: Message
    clients: int = 0
    arrivals: NDArray[np.float64] | None = None


@dataclass
class Outcome:
    """Of the requests of a lane, in the order in which they ended.

    Attributes:
        number: As given to the lane's `message`.
        due: When each was to be sent, in seconds after the start.
        sent: When it was.
        ended: When its answer was complete.
        status: Of HTTP, or `NO_ANSWER`.
    """

    number: list[int] = field(default_factory=list)
    due: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)

    def seconds(self, status: int | None = None) -> NDArray[np.float64]:
        """Return latencies from the due time on, of all answers or of those with a status."""
        taken = np.array(self.ended) - np.array(self.due)
        return taken if status is None else taken[np.array(self.status, dtype=int) == status]

    def late_s(self) -> NDArray[np.float64]:
        """Return how long after its due time each was sent."""
        return np.array(self.sent) - np.array(self.due)


def poisson(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Return arrivals at random, so many a second on average."""
    random = np.random.default_rng(seed)
    count = int(rate * seconds + 6 * (rate * seconds) ** 0.5 + 10)
    times = np.cumsum(random.exponential(1.0 / rate, count))
    return times[times < seconds]


def constant(rate: float, seconds: float) -> NDArray[np.float64]:
    """Return arrivals at equal distances."""
    return np.arange(0.0, seconds, 1.0 / rate)


def run_load(
    address: Address,
    lanes: Sequence[Lane],
    seconds: float,
    *,
    patience_s: float = 30.0,
    every_s: float = 1.0,
    observe: Callable[[float], object] | None = None,
) -> list[Outcome]:
    """Run all lanes for some seconds, wait for what is on its way, and return an outcome for each.

    Args:
        address: Of the server.
        lanes: The sources of requests.
        seconds: Closed loops send until then; arrivals after it are left out.
        patience_s: How long to wait for answers after the end.
        every_s: How often to call `observe`.
        observe: Called with the seconds since the start, between two events.
    """
    loop = _Loop(address, lanes, seconds)
    gc.collect()
    gc.disable()
    try:
        loop.run(patience_s, every_s, observe)
    finally:
        gc.enable()
        loop.close()
    return [running.outcome for running in loop.lanes]


class _Running:
    """A lane while it runs."""

    def __init__(self, lane: Lane, seconds: float) -> None:
        self.lane, self.outcome, self.next = lane, Outcome(), 0
        self.idle: list[_Connection] = []
        self.waiting: deque[float] = deque()  # due times
        self.connections = 0
        arrivals = lane.arrivals if lane.arrivals is not None else np.empty(0)
        self.arrivals = deque(arrivals[arrivals < seconds].tolist())


class _Connection:
    __slots__ = ("buffer", "due", "lane", "number", "sent", "socket", "unsent", "whole")

    def __init__(self, address: Address, lane: _Running) -> None:
        self.lane = lane
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)  # a server that does not accept must not hold up the others
        self.buffer = bytearray()
        self.unsent: memoryview | None = None
        self.whole = 0  # bytes of the answer; 0 while they are not known
        self.number = self.due = self.sent = -1.0


class _Loop:
    def __init__(self, address: Address, lanes: Sequence[Lane], seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self.lanes = [_Running(lane, seconds) for lane in lanes]
        self.epoll = select.epoll()
        self.busy: dict[int, _Connection] = {}
        self.start = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.start

    def run(self, patience_s: float, every_s: float, observe: Callable[[float], object] | None) -> None:
        opened = [self._open(running) for running in self.lanes for _ in range(running.lane.clients)]
        self.start = time.perf_counter()
        for connection in opened:
            self._send(connection, self.now())
        look = 0.0
        while True:
            now = self.now()
            if observe is not None and now >= look:
                observe(now)
                look += every_s
            due = self._send_due(now)
            pending = self.busy or any(running.waiting or running.arrivals for running in self.lanes)
            if now > self.seconds and (not pending or now > self.seconds + patience_s):
                break
            self._receive(self._timeout(now, due, look if observe is not None else now + 1.0))
        for connection in list(self.busy.values()):
            self._ended(connection, NO_ANSWER)
        for running in self.lanes:
            for at in running.waiting:
                _note(running.outcome, -1, at, at, now, NO_ANSWER)

    def close(self) -> None:
        for running in self.lanes:
            for connection in running.idle:
                connection.socket.close()
        self.epoll.close()

    def _timeout(self, now: float, due: float, look: float) -> float:
        """Return for how long to sleep, 0 for not at all; `due` and `look` are times."""
        left = min(due, look, now + 1.0 if now > self.seconds else max(self.seconds, now)) - now
        return 0.0 if left < _SPIN_S else left - _SPIN_S / 2

    def _send_due(self, now: float) -> float:
        """Send what is due; return the time of the next request."""
        following = float("inf")
        for running in self.lanes:
            arrivals, waiting = running.arrivals, running.waiting
            while arrivals and arrivals[0] <= now:
                waiting.append(arrivals.popleft())
            while waiting and (running.idle or running.connections < _MOST_CONNECTIONS):
                connection = running.idle.pop() if running.idle else self._open(running)
                self._send(connection, waiting.popleft())
            if arrivals and arrivals[0] < following:
                following = arrivals[0]
        return following

    def _open(self, running: _Running) -> _Connection:
        connection = _Connection(self.address, running)
        running.connections += 1
        self.epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _send(self, connection: _Connection, due: float) -> None:
        running = connection.lane
        connection.number, running.next = running.next, running.next + 1
        message = running.lane.message(connection.number)
        connection.due, connection.sent = due, self.now()
        self.busy[connection.socket.fileno()] = connection
        try:
            done = connection.socket.send(message)
        except BlockingIOError:
            done = 0
        except OSError:
            self._ended(connection, NO_ANSWER)
            return
        if done < len(message):
            connection.unsent = memoryview(message)[done:]
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _receive(self, timeout: float) -> None:
        for number, event in self.epoll.poll(timeout):
            connection = self.busy.get(number)
            if connection is None:
                self._forget(number)
                continue
            if event & select.EPOLLOUT and connection.unsent is not None:
                self._send_more(connection)
            if event & ~select.EPOLLOUT:
                self._read(connection)

    def _send_more(self, connection: _Connection) -> None:
        rest = connection.unsent
        if rest is None:
            return
        try:
            rest = rest[connection.socket.send(rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._ended(connection, NO_ANSWER)
            return
        connection.unsent = rest or None
        if connection.unsent is None:
            self.epoll.modify(connection.socket.fileno(), select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        if connection.socket.fileno() < 0:  # it ended while the rest of its request was sent
            return
        try:
            part = connection.socket.recv(_PART)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._ended(connection, NO_ANSWER)
            return
        buffer = connection.buffer
        buffer += part
        if not connection.whole:
            connection.whole = _answer_length(buffer)
        if connection.whole and len(buffer) >= connection.whole:
            self._ended(connection, int(buffer[9:12]))

    def _ended(self, connection: _Connection, status: int) -> None:
        """Note an answer, and let a closed loop go on."""
        running, now = connection.lane, self.now()
        _note(running.outcome, int(connection.number), connection.due, connection.sent, now, status)
        del self.busy[connection.socket.fileno()]
        closing = status == NO_ANSWER or _closes(connection.buffer)
        connection.buffer.clear()
        connection.whole, connection.unsent = 0, None
        if closing:
            self._drop(connection)
            if not running.lane.clients or now >= self.seconds:
                return
            connection = self._open(running)
        if running.lane.clients and now < self.seconds:
            self._send(connection, self.now())
        else:
            running.idle.append(connection)

    def _forget(self, number: int) -> None:
        """Drop an idle connection that the server closed."""
        for running in self.lanes:
            for connection in running.idle:
                if connection.socket.fileno() == number:
                    running.idle.remove(connection)
                    self._drop(connection)
                    return

    def _drop(self, connection: _Connection) -> None:
        connection.lane.connections -= 1
        connection.socket.close()  # epoll forgets it


class Caller:
    """One client that waits for each answer, over one connection; a context manager."""

    def __init__(self, address: Address, timeout_s: float = 60.0) -> None:
        self._socket = _connect(address)
        self._socket.settimeout(timeout_s)

    def call(self, message: bytes) -> tuple[float, int, bytes]:
        """Send a request; return the seconds until its answer was there, its status and its body.

        Raises:
            ConnectionError: The server closed the connection.
        """
        buffer, whole = bytearray(), 0
        begin = time.perf_counter()
        self._socket.sendall(message)
        while not whole or len(buffer) < whole:
            part = self._socket.recv(_PART)
            if not part:
                raise ConnectionError("the server closed the connection")
            buffer += part
            whole = whole or _answer_length(buffer)
        seconds = time.perf_counter() - begin
        return seconds, int(buffer[9:12]), bytes(buffer[buffer.index(b"\r\n\r\n") + 4 :])

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _connect(address: Address) -> socket.socket:
    made = socket.create_connection(address, timeout=30.0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _answer_length(buffer: bytearray) -> int:
    """Return the bytes of the whole answer, 0 while its head is not complete.

    Raises:
        ValueError: It does not say its length; no server that is measured here leaves it out.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = bytes(buffer[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without its length: {head[:200]!r}")
    return end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])


def _closes(buffer: bytearray) -> bool:
    end = buffer.find(b"\r\n\r\n")
    return b"\r\nconnection: close" in bytes(buffer[: max(end, 0)]).lower()


def _note(outcome: Outcome, number: int, due: float, sent: float, ended: float, status: int) -> None:
    outcome.number.append(number)
    outcome.due.append(due)
    outcome.sent.append(sent)
    outcome.ended.append(ended)
    outcome.status.append(status)
