"""One line a request on stderr, and a file of queries for those who ask for it.

A line about a request has no text, no header and no path, and no line has a character that ends it early or
moves a cursor. Nobody who writes a line waits: a thread hands it to the kernel, and what a slow reader leaves
no room for is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from io import FileIO
from logging.handlers import RotatingFileHandler
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from relsdk.errors import InputError

__all__ = ["LogFormat", "QueryLog", "RequestEntry", "RequestLog"]

LogFormat = Literal["plain", "json"]
Report = Callable[[int], None]

_LOGGER = logging.getLogger(__name__)
_MAX_WAITING_BYTES = 8 << 20
# Lines of so many seconds become one write: a thread that woke for each would take the GIL as often.
_GATHER_SECONDS = 0.05
_CLOSE_SECONDS = 2.0
_PLAIN_NAMES = ("tokens", "inputs", "truncated", "level", "index", "model", "code")
_PLAIN_VALUES = attrgetter(*_PLAIN_NAMES)
_ROTATE_BYTES, _ROTATED_FILES = 64 << 20, 10


class RequestEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is logged of a request. None stands for what a route does not have, and is left out.

    Attributes:
        time: Set when it is written: UTC, to the millisecond.
        request_id: As the answer has it.
        method: Of HTTP.
        route: The template, such as /v1/documents/{id}; never the path.
        status: Of the answer.
        ms: From the first byte of the request to the last of the answer.
        queue_ms: How much of it the request waited for a worker.
        tokens: Read by a model.
        inputs: Texts, queries, pairs or documents.
        truncated: How many of them were cut.
        level: Of the best hit.
        index: Its name.
        model: Its name.
        code: Of the error.
    """

    time: str = ""
    request_id: str
    method: str
    route: str
    status: int
    ms: float
    queue_ms: float | None = None
    tokens: int | None = None
    inputs: int | None = None
    truncated: int | None = None
    level: int | None = None
    index: str | None = None
    model: str | None = None
    code: str | None = None


class _QueryEntry(msgspec.Struct, kw_only=True):
    time: str
    request_id: str
    index: str
    order: str
    query: str
    hits: list[tuple[str, int | None]]


class _Lines:
    """Hands lines to a sink in a thread of its own; nobody who adds one waits.

    Args:
        sink: Takes whole lines, and returns how many of them it lost.
        on_loss: Told how many lines were lost; called in either thread.
    """

    def __init__(self, sink: Callable[[list[bytes]], int], on_loss: Report) -> None:
        self._sink, self._on_loss = sink, on_loss
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._closed = False
        # A daemon: a reader of stderr that never reads must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="relsdk-log", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Add a line, or drop it where too much waits already."""
        with self._changed:
            dropped = self._closed or self._bytes + len(line) > _MAX_WAITING_BYTES
            if not dropped:
                self._waiting.append(line)
                self._bytes += len(line)
                if len(self._waiting) == 1:
                    self._changed.notify()
        if dropped:
            self._on_loss(1)

    def close(self) -> bool:
        """Write what waits, for two seconds at most; return whether all of it went."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                lines, self._waiting = self._waiting, []
            if not lines:
                return
            if lost := self._sink(lines):
                self._on_loss(lost)
            with self._changed:
                self._bytes -= sum(map(len, lines))
                self._changed.wait_for(lambda: self._closed, timeout=_GATHER_SECONDS)


class RequestLog:
    """The log of requests.

    Args:
        style: "plain" for people, "json" for programs: a JSON object a line, of `RequestEntry`'s fields.
        on_loss: Told how many lines were dropped.
        handle: Where it goes; stderr.
    """

    def __init__(self, style: LogFormat, on_loss: Report, *, handle: int = 2) -> None:
        self._as_json = style == "json"
        self._handle = handle
        self._lines = _Lines(self._write, on_loss)

    def write(self, entry: RequestEntry) -> None:
        """Log a request, at the time of the call."""
        entry.time, entry.ms = _now(), round(entry.ms, 3)
        self._lines.add(_json_line(entry) if self._as_json else _plain_line(entry))

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        self._lines.close()

    def _write(self, lines: list[bytes]) -> int:
        # The handle and not sys.stderr, whose lock would stop an exit while its reader does not read.
        try:
            _write_all(self._handle, b"".join(lines))
        except OSError:  # closed, full, or left by its reader: nobody can be told
            return len(lines)
        return 0


class QueryLog:
    """A file of what was searched and found, a JSON object a line; only its owner can read it.

    It rotates: FILE, FILE.1, ... FILE.10, of 64 MiB each. A line that cannot be written is counted, the first
    is warned of, and no request fails.

    Args:
        path: The file; lines are added to one that is there.
        on_loss: Told how many lines were lost.

    Raises:
        InputError: It cannot be written.
    """

    def __init__(self, path: Path, on_loss: Report) -> None:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file; queries are logged to one that can be rotated")
        try:
            self._file = _RotatedFile(path, maxBytes=_ROTATE_BYTES, backupCount=_ROTATED_FILES)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot write the query log {path}: {reason}; name another file") from None
        self._on_loss = on_loss
        self._warned = False
        self._lines = _Lines(self._write, on_loss)

    def write(
        self,
        *,
        request_id: str,
        index: str,
        order: str,
        query: str,
        hits: Sequence[tuple[str, int | None]],
    ) -> None:
        """Log a query.

        Args:
            request_id: As the answer has it.
            index: Its name.
            order: See `SearchResult.order`.
            query: Its text.
            hits: Id and level of each.
        """
        entry = _QueryEntry(
            time=_now(), request_id=request_id, index=index, order=order, query=query, hits=list(hits)
        )
        self._lines.add(_json_line(entry))

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        if self._lines.close():
            self._file.close()

    def _write(self, lines: list[bytes]) -> int:
        written = 0
        try:
            for line in lines:
                self._file.write(line)
                written += 1
        except (OSError, ValueError) as error:
            if not self._warned:
                self._warned = True
                _LOGGER.warning(
                    "cannot write the query log %s: %s; its lines are lost until that changes",
                    self._file.baseFilename,
                    getattr(error, "strerror", None) or error,
                )
        return len(lines) - written


class _RotatedFile(RotatingFileHandler):
    """The standard library's rotation, of a file of bytes that only its owner can read."""

    def write(self, line: bytes) -> None:
        """Add a line, whole or not at all."""
        if self.stream is None:  # it could not be opened after the last rotation
            self.stream = self._open()
        handle = self.stream.fileno()
        size = os.fstat(handle).st_size
        if size and size + len(line) > self.maxBytes:
            self.doRollover()
            handle, size = self.stream.fileno(), 0
        try:
            _write_all(handle, line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise

    def _open(self) -> Any:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:  # it was there before
            with suppress(OSError):
                os.fchmod(handle, 0o600)
        return FileIO(handle, "ab")


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _now() -> str:
    """Return the time in UTC, to the millisecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1_000_000:03}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _json_line(entry: RequestEntry | _QueryEntry) -> bytes:
    try:
        line = msgspec.json.encode(entry)
        if line.decode().isprintable():
            return line + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name and UTF-8 cannot
        pass
    # JSON lets through what moves a cursor or ends a line elsewhere: U+007F, U+0085, U+2028, U+202E.
    return json.dumps(msgspec.to_builtins(entry)).replace("\x7f", "\\u007f").encode() + b"\n"


def _plain_line(entry: RequestEntry) -> bytes:
    parts = [entry.time, entry.method, entry.route, str(entry.status), f"{entry.ms:.1f}ms"]
    if entry.queue_ms is not None:
        parts.append(f"queue={entry.queue_ms:.1f}ms")
    for name, value in zip(_PLAIN_NAMES, _PLAIN_VALUES(entry), strict=True):
        if value is not None:
            parts.append(f"{name}={value}")
    parts.append(f"id={entry.request_id}")
    line = " ".join(parts)
    if not line.isprintable():
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return line.encode("utf-8", "backslashreplace") + b"\n"
