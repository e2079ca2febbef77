"""Servers for tests: in this process, on a thread of its own, or as a process that can be killed."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import httpx

from relsdk import Document
from tests.threads import PATIENCE, end_of
from tests.toys import CORPUS

__all__ = [
    "KEY",
    "READ_KEY",
    "Raw",
    "Served",
    "documents",
    "post",
    "request",
    "resident",
    "running",
    "served",
]

KEY, READ_KEY = "write-key-0123456789", "read-key-0123456789"


def documents(count=66):
    """Return documents of the corpus; ids d0, d1, ..., an author each, a duration."""
    return [
        Document(f"d{n}", CORPUS[n % len(CORPUS)], f"第{n}条", {"author": f"a{n % 5}", "duration": n})
        for n in range(count)
    ]


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would make one for each transport, in 3 ms


class _OneEach(httpx.BaseTransport):
    """Connections for threads that share a client, each for one request at a time.

    Of threads that share httpx's own, one may close the connection that another was just given, whose request
    then waits until its time is up (encode/httpcore#1110).
    """

    def __init__(self):
        self._free = []

    def handle_request(self, request):
        try:
            transport = self._free.pop()
        except IndexError:
            transport = httpx.HTTPTransport(verify=_NO_TLS)
        try:
            answer = transport.handle_request(request)
            answer.read()
        finally:
            self._free.append(transport)
        return answer

    def close(self):
        while self._free:
            self._free.pop().close()


class Served:
    """A server of this process.

    Attributes:
        url: Its address.
        service: What answers.
        http: A client of it, which threads may share.
    """

    def __init__(self, url, service, server):
        self.url, self.service, self.server = url, service, server
        self.http = httpx.Client(base_url=url, timeout=PATIENCE, transport=_OneEach())
        self.thread = None

    def stop(self, number=signal.SIGINT):
        """End it, as a signal does; return when it has ended."""
        self.server.handle_exit(number, None)
        end_of(self.thread)


@contextmanager
def served(settings, environment=None, *, send_buffer=None):
    """Serve on a thread until the body ends; the kernel holds `send_buffer` bytes of an answer."""
    from relsdk_serve._routes import route_paths
    from relsdk_serve._server import bind, run_server
    from relsdk_serve._service import Service

    settings = replace(settings, port=0)
    listener = bind(settings)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    service = Service(settings, environment=environment or {}, routes=route_paths())
    ready, failed, servers = threading.Event(), [], []

    def run():
        try:
            run_server(settings, service, listener, ready.set, on_made=servers.append)
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="served")
    thread.start()
    assert ready.wait(PATIENCE)
    if failed:
        thread.join()
        raise failed[0]
    made = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", service, servers[0])
    made.thread = thread
    try:
        yield made
    finally:
        made.http.close()
        if thread.is_alive():
            made.stop()
    if failed:
        raise failed[0]


_ON_SMALL_DISK = """
import resource, signal, sys
from relsdk.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = sys.argv[2:]
main()
"""


@contextmanager
def running(*arguments, environment=None, ready=True, file_limit=None, inside=()):
    """Run `relsdk serve` as a process; yield it, with its address as `url` and what it said as `said`.

    Args:
        arguments: Of the command.
        environment: Further variables.
        ready: Whether it must become ready.
        file_limit: Bytes that no file may exceed, as on a full disk.
        inside: A command that runs it.
    """
    python = ["-m", "relsdk"] if file_limit is None else ["-c", _ON_SMALL_DISK, str(file_limit)]
    command = [*inside, sys.executable, *python, "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    process.said = []
    found = threading.Event()

    def read():
        for line in process.stderr:
            process.said.append(line)
            if match := re.search(r"relsdk serve: (http://\S+)", line):
                process.url = match[1]
                found.set()
        found.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert found.wait(PATIENCE)
        if ready:
            assert hasattr(process, "url"), process.said
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        end_of(reader)
        process.stderr.close()


class Raw:
    """A connection that sends bytes as a test wants them."""

    def __init__(self, url, **options):
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE / 2)
        for option, value in options.items():
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        self._rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, content):
        """Send bytes; return whether the connection took them."""
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def answer(self):
        """Read one answer; return (status, headers, body), or None where the connection ended before it."""
        try:
            while b"\r\n\r\n" not in self._rest:
                self._more()
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(":")[::2] for line in lines)
            headers = {name.lower(): value.strip() for name, value in pairs}
            while len(self._rest) < int(headers["content-length"]):
                self._more()
        except OSError:
            return None
        length = int(headers["content-length"])
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(first.split()[1]), headers, body

    def ended(self):
        """Read until the server ends the connection."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass

    def _more(self):
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionResetError
        self._rest += part


def request(path, body=b"", *, method="POST", headers=()):
    """Return the bytes of a request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: test", "content-type: application/json"]
    lines += [f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def resident(pid="self"):
    """Return the MiB that a process holds."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def post(http, path, body, status=200, **options):
    """Send JSON and return JSON; the status must be the expected one."""
    answer = http.post(
        path, content=json.dumps(body), headers={"content-type": "application/json"}, **options
    )
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    return answer.json()
