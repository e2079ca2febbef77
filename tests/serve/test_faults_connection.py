"""Clients that are slow, silent, huge, rude or gone: each gets its answer, and the others theirs."""

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

import pytest

from relsdk import Embedder
from relsdk_serve import _connection
from relsdk_serve._jobs import Lane
from relsdk_serve._settings import Limits
from tests.serve.servers import Raw, post, request, resident, served
from tests.threads import PATIENCE, at_once, wait_for

LIMIT = 2.0  # seconds; by default they are 10 and 30
QUERY = request("/v1/embeddings", {"input": "红烧肉", "input_type": "query"})


@pytest.fixture(scope="module")
def quick(settings):
    """A server that waits for nobody for long."""
    limits = Limits(header_seconds=LIMIT, body_seconds=LIMIT, send_seconds=LIMIT)
    with served(replace(settings, limits=limits), send_buffer=16384) as server:
        yield server


@pytest.fixture
def others(quick):
    """Asks all the while; where it waits for the slow ones, or fails, the test fails at its end."""
    stop, statuses, seconds = threading.Event(), set(), []

    def ask():
        while not stop.is_set():
            began = time.monotonic()
            statuses.add(quick.http.post("/v1/embeddings", json={"input": "别人的查询"}).status_code)
            seconds.append(time.monotonic() - began)
            time.sleep(0.02)

    with at_once(ask, until=stop):
        yield
    assert statuses == {200}
    assert median(seconds) < LIMIT / 2, seconds


def drip(connection, content, pause=0.02):
    """Send a byte at a time until the server ends it; return how long it bore that."""
    began = time.monotonic()
    connection.socket.settimeout(pause)
    for at in range(len(content)):
        if not connection.send(content[at : at + 1]):
            break
        try:
            connection.socket.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            assert time.monotonic() - began < PATIENCE
        except ConnectionError:
            break
    connection.socket.settimeout(PATIENCE / 2)
    return time.monotonic() - began


def test_a_head_that_comes_a_byte_at_a_time(quick, others):
    with Raw(quick.url) as connection:
        took = drip(connection, b"POST /v1/embeddings HTTP/1.1\r\nx-a: " + b"a" * 1000)
        assert LIMIT * 0.8 <= took < LIMIT + 6
        status, headers, body = connection.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "timeout"
        connection.ended()


def test_a_later_head_that_comes_a_byte_at_a_time(quick):
    """After an answer, and behind a request that is not answered yet, too."""
    with Raw(quick.url) as connection:
        connection.send(QUERY)
        assert connection.answer()[0] == 200
        assert drip(connection, b"\r\n" * 1000) < LIMIT + 6
    with Raw(quick.url) as connection:
        connection.send(QUERY + b"GET /livez HT")
        assert connection.answer()[0] == 200
        assert drip(connection, b"TP/1.1\r\nx-a: " + b"a" * 1000) < LIMIT + 6
        assert connection.answer()[0] == 408


def test_a_body_that_comes_a_byte_at_a_time(quick, others):
    whole = request("/v1/embeddings", {"input": "字" * 500})
    head, _, body = whole.partition(b"\r\n\r\n")
    with Raw(quick.url) as connection:
        connection.send(head + b"\r\n\r\n")
        assert LIMIT * 0.8 <= drip(connection, body) < LIMIT + 6
        status, headers, content = connection.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert "did not arrive within" in json.loads(content)["message"]
        connection.ended()


def test_the_rest_of_a_refused_body_that_comes_a_byte_at_a_time(quick):
    with Raw(quick.url) as connection:
        connection.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n")
        assert connection.answer()[0] == 413
        assert drip(connection, b"a" * 1000) < LIMIT + 6
        connection.ended()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_a_gigabyte(quick, others, chunked):
    kind = b"transfer-encoding: chunked" if chunked else b"content-length: 1073741824"
    before = resident()
    part = bytes(1 << 20)
    if chunked:
        part = b"%x\r\n" % len(part) + part + b"\r\n"
    sent = 0
    with Raw(quick.url) as connection:
        connection.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n" + kind + b"\r\n\r\n")
        while sent < 1024 and connection.send(part):
            sent += 1
        status, _, body = connection.answer()
    assert status == 413
    assert "at most 8,388,608" in json.loads(body)["error"]["message"]
    assert sent < 128, "the whole body was taken"
    assert resident() - before < 80


def test_a_body_that_is_a_little_too_large_is_passed_over_and_the_connection_stays(quick):
    with Raw(quick.url) as connection:
        connection.send(request("/v1/embeddings", b" " * (9 << 20)))
        assert connection.answer()[0] == 413
        connection.send(QUERY)
        assert connection.answer()[0] == 200


LARGE = {"input": ["a"] * 2000}  # an answer of more than a megabyte


@contextmanager
def silent(server, count, content):
    """Connections that send and never read."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Raw(server.url, SO_RCVBUF=4096)) for _ in range(count)]
        for connection in connections:
            connection.send(content)
        yield connections


def unread(server):
    return [one.unread_bytes for one in list(server.server.server_state.connections) if one.unread_bytes]


def test_a_client_that_never_reads_its_answer(quick, others):
    before = resident()
    with silent(quick, 4, request("/v1/embeddings", LARGE) * 2):
        began, most = time.monotonic(), 0
        while time.monotonic() - began < PATIENCE:
            held = sum(unread(quick))
            most = max(most, held)
            if most and not held and not quick.server.server_state.tasks:
                break
            time.sleep(0.01)
        # A time by its size, for as many answers as there are: a megabyte has 4 s more.
        assert LIMIT < time.monotonic() - began
        assert most > 2 << 20
        assert not unread(quick), "somebody's answer is still held"
        assert resident() - before < 100


def test_a_short_answer_that_nobody_reads(quick):
    closing = request("/livez", method="GET", headers=["connection: close"])
    with silent(quick, 2, QUERY * 40 + closing):
        wait_for(lambda: len(quick.server.server_state.connections) <= 1, 20)


def test_all_that_is_unread_is_bounded(quick, monkeypatch):
    monkeypatch.setattr(_connection, "_UNREAD_BYTES", 3 << 20)
    with silent(quick, 8, request("/v1/embeddings", LARGE)):
        state, most = quick.server.server_state, 0
        while not most or state.tasks:
            # What is written between two turns of the event loop is there at once; whoever is ended for it
            # has lost it by the next turn.
            staying = [one for one in list(state.connections) if not one.transport.is_closing()]
            most = max(most, sum(one.unread_bytes for one in staying))
            time.sleep(0.002)
        assert 1 << 20 < most < 7 << 20  # the bound, and the answers that were being written
        wait_for(lambda: sum(unread(quick)) <= 3 << 20)


def test_a_slow_reader_gets_its_whole_answer(quick):
    with Raw(quick.url, SO_RCVBUF=65536) as connection:
        connection.send(request("/v1/embeddings", LARGE))
        content = b""
        while True:
            part = connection.socket.recv(20_000)
            content += part
            if content.endswith(b"}") and b'"truncated":0' in content[-20:]:
                break
            time.sleep(0.01)
    assert len(json.loads(content.partition(b"\r\n\r\n")[2])["data"]) == 2000


def test_a_thousand_idle_connections(settings, monkeypatch):
    monkeypatch.setattr(_connection, "KEEP_ALIVE_SECONDS", 1.5)
    monkeypatch.setattr("relsdk_serve._server.KEEP_ALIVE_SECONDS", 1)
    with served(replace(settings, workers=1)) as server:
        before = resident()
        idle = [Raw(server.url) for _ in range(1000)]
        for connection in idle[:500]:  # half of them have asked once
            connection.send(request("/livez", method="GET"))
        for _ in range(20):
            post(server.http, "/v1/embeddings", {"input": "别人的查询"})
        assert resident() - before < 60
        for connection in idle:
            connection.ended()
            connection.__exit__()
        wait_for(lambda: len(server.server.server_state.connections) <= 1)


@pytest.mark.parametrize("when", ["waits in the queue", "is accepted", "has sent half of its head"])
def test_who_has_connected_when_the_server_ends_is_answered(settings, monkeypatch, when):
    """Its request comes, or goes on, while the server stops to accept; after it nobody is let in."""
    with served(replace(settings, workers=1)) as server:
        state, shutdown, late = server.server.server_state, server.server.shutdown, []
        server.http.close()
        wait_for(lambda: not state.connections)
        if when != "waits in the queue":
            late.append(Raw(server.url))
            wait_for(lambda: state.connections)
        half = len(QUERY) // 4 if when == "has sent half of its head" else 0
        if half:
            late[0].send(QUERY[:half])
            (connection,) = state.connections
            wait_for(lambda: connection._in_head)

        async def at_this_moment(sockets):
            if not late:
                late.append(Raw(server.url))
            late[0].send(QUERY[half:])
            await shutdown(sockets)

        monkeypatch.setattr(server.server, "shutdown", at_this_moment)
        server.stop()
        with late[0] as connection:
            status, headers, _ = connection.answer()
            assert (status, headers["connection"]) == (200, "close")
            connection.ended()
        with pytest.raises(ConnectionRefusedError):
            Raw(server.url)


def test_who_has_connected_and_asks_nothing_is_not_waited_for_long(settings):
    with served(replace(settings, workers=1)) as server:
        with Raw(server.url) as connection:
            wait_for(lambda: len(server.server.server_state.connections) >= 1)
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 20  # the grace is 25 s
            connection.ended()


def test_pipelined_requests_are_answered_in_order(quick):
    inputs = [f"查询{n}" for n in range(8)]
    with Raw(quick.url) as connection:
        connection.send(b"".join(request("/v1/embeddings", {"input": text}) for text in inputs))
        answers = [connection.answer() for _ in inputs]
    for text, (status, _, body) in zip(inputs, answers, strict=True):
        assert status == 200
        assert json.loads(body)["data"] == post(quick.http, "/v1/embeddings", {"input": text})["data"]


def test_pipelined_requests_with_a_bad_one_among_them(quick):
    with Raw(quick.url) as connection:
        connection.send(QUERY + request("/v1/embeddings", b"{") + request("/nowhere", {}) + QUERY)
        assert [connection.answer()[0] for _ in range(4)] == [200, 400, 404, 200]


def test_the_head_behind_a_slow_request_is_bounded_in_size(quick):
    big = request("/v1/embeddings", {"input": ["a"] * 2000})
    with Raw(quick.url) as connection:
        connection.send(big + b"GET /livez HTTP/1.1\r\nx: ")
        sent = 0
        while sent < 200 and connection.send(b"a" * 65536):
            sent += 1
        connection.ended()
    assert sent < 100


@pytest.mark.parametrize("first", ["connection: close", "upgrade: h2c\r\nconnection: upgrade"])
def test_headers_of_other_protocols(quick, first):
    """Java's client offers HTTP/2 with its first request, and goes on with HTTP/1.1."""
    with Raw(quick.url) as connection:
        connection.send(request("/v1/embeddings", {"input": "一"}, headers=[first]))
        assert connection.answer()[0] == 200
        if "close" in first:
            connection.ended()
        else:
            connection.send(QUERY)
            assert connection.answer()[0] == 200


def test_expect_100_continue(quick):
    body = json.dumps({"input": "一"}).encode()
    with Raw(quick.url) as connection:
        head = request("/v1/embeddings", body, headers=["expect: 100-continue"]).partition(b"\r\n\r\n")[0]
        connection.send(head + b"\r\n\r\n")
        assert connection.socket.recv(25).startswith(b"HTTP/1.1 100 Continue")
        connection.send(body)
        assert connection.answer()[0] == 200


def test_a_client_that_goes_away_in_the_middle_of_its_work(quick, others, monkeypatch):
    texts = []
    encode = Embedder.encode_tokens

    def slowly(self, tokens, **options):
        texts.append(len(tokens.ids))
        time.sleep(0.02)
        return encode(self, tokens, **options)

    monkeypatch.setattr(Embedder, "encode_tokens", slowly)
    engine = quick.service.engine
    with Raw(quick.url) as connection:
        connection.send(request("/v1/embeddings", {"input": [f"字{n}" + "长" * 60 for n in range(2000)]}))
        wait_for(lambda: engine.waiting[Lane.BULK] >= 5000)
        del texts[:]
    wait_for(lambda: engine.waiting[Lane.BULK] == 0)
    assert sum(texts) < 1500, "the work of a client that went away is still done"


def test_many_clients_that_go_away_leave_nothing_behind(quick):
    state, engine = quick.server.server_state, quick.service.engine
    for n in range(60):
        connection = Raw(quick.url)
        connection.send(request("/v1/embeddings", {"input": [f"走{n}"] * (1 + n * 7)})[: 10 + n * n])
        connection.__exit__()
    wait_for(lambda: not (state.tasks or sum(engine.waiting.values()) or len(state.connections) > 1))
