"""More than the server can bear: the rest is refused with the time to come again, and nobody waits long."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

import pytest

from relsdk import Embedder
from relsdk_serve._engine import OverloadedError
from relsdk_serve._jobs import Lane
from relsdk_serve._settings import Limits
from tests.serve.servers import KEY, Raw, post, request, served
from tests.threads import PATIENCE, at_once, wait_for


@pytest.fixture
def slow(settings, monkeypatch):
    """A server of one worker that takes ten milliseconds a text."""
    encode = Embedder.encode_tokens

    def slowly(self, tokens, **options):
        time.sleep(0.01 * len(tokens.ids))
        return encode(self, tokens, **options)

    with served(replace(settings, workers=1, query_cache=0, limits=Limits(wait=0.3))) as server:
        monkeypatch.setattr(Embedder, "encode_tokens", slowly)
        for n in range(30):  # what a token costs by now
            post(server.http, "/v1/embeddings", {"input": f"第{n}"})
        yield server


def queued(answer):
    """Seconds that a request waited, by the server's account: the clients here wait for the CPU besides."""
    return float(re.search(r"queue;dur=([0-9.]+)", answer.headers["server-timing"])[1]) / 1e3


def test_what_would_wait_too_long_is_refused_and_the_rest_is_quick(slow):
    def ask(number):
        return slow.http.post("/v1/embeddings", json={"input": f"问{number}"})

    with ThreadPoolExecutor(80) as pool:
        answers = list(pool.map(ask, range(400)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) > 20
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert 1 <= int(answer.headers["retry-after-ms"]) <= 5000
            assert answer.json()["error"]["code"] == "overloaded"
            assert answer.json()["error"]["type"] == "OverloadedError"
            assert "x-request-id" in answer.headers
    assert max(queued(answer) for answer in answers if answer.status_code == 200) < 3
    # It recovers at once.
    assert post(slow.http, "/v1/embeddings", {"input": "danach"})["data"]
    rejected = next(
        line
        for line in slow.http.get("/metrics").text.splitlines()
        if 'rejected_total{reason="overloaded"}' in line
    )
    assert float(rejected.split()[-1]) == statuses.count(429)


def test_health_is_quick_under_load(slow):
    """Forty that ask again at once, on one thread: more of them would take the CPU from the server."""
    stop, embedded = threading.Event(), []

    def ask():
        with ExitStack() as stack:
            clients = [stack.enter_context(Raw(slow.url)) for _ in range(40)]
            while not stop.is_set():
                began = time.monotonic()
                for client in clients:
                    client.send(request("/v1/embeddings", {"input": f"问{time.monotonic()}"}))
                statuses = set()
                for client in clients:
                    statuses.add(status := client.answer()[0])
                    if status == 200:
                        embedded.append(time.monotonic() - began)
                assert statuses <= {200, 429}

    seconds = []
    with at_once(ask, until=stop), Raw(slow.url) as connection:
        for _ in range(20):
            began = time.monotonic()
            connection.send(request("/livez", method="GET"))
            assert connection.answer()[0] == 200
            seconds.append(time.monotonic() - began)
            time.sleep(0.01)
        wait_for(lambda: embedded)
    assert median(seconds) < median(embedded) / 2


def test_a_short_request_does_not_wait_for_a_bulk_one(slow):
    with ThreadPoolExecutor(1) as pool:
        bulk = pool.submit(slow.http.post, "/v1/embeddings", json={"input": [f"批{n}" for n in range(400)]})
        wait_for(lambda: slow.service.engine.waiting[1] >= 100)
        answers = [slow.http.post("/v1/embeddings", json={"input": f"短{n}"}) for n in range(5)]
        assert not bulk.done()
        assert bulk.result().status_code == 200
    # Each waits for a slice at most, of about 20 ms or the least batch: 32 tokens of about ten texts.
    assert median(queued(answer) for answer in answers) < 1
    assert queued(bulk.result()) < 1  # until its first one


def test_a_bulk_request_that_would_wait_is_refused_with_one_that_runs(slow):
    body = {"input": [f"批{n}" for n in range(150)]}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow.http.post, "/v1/embeddings", json=body)
        wait_for(lambda: slow.service.engine.waiting[1] >= 100)
        second = slow.http.post("/v1/embeddings", json=body)
        assert second.status_code == 429
        assert int(second.headers["retry-after-ms"]) > 100
        assert post(slow.http, "/v1/embeddings", {"input": "kurz"})
        assert first.result().status_code == 200


@contextmanager
def full(server, cost=1.0, calls=3):
    """A server whose worker stands still until the body ends, with calls in its queue of so many seconds."""
    go_on, began = threading.Event(), threading.Event()
    loop, engine = server.server._loop, server.service.engine

    async def fill():
        await engine.call("gate", lambda: (began.set(), go_on.wait(PATIENCE)))

    gates = [asyncio.run_coroutine_threadsafe(fill(), loop)]
    assert began.wait(PATIENCE)
    engine._seconds_per_unit[("call", "gate")] = cost
    gates += [asyncio.run_coroutine_threadsafe(fill(), loop) for _ in range(calls)]
    try:
        wait_for(lambda: engine.wait(Lane.INTERACTIVE) > cost * (calls - 0.5))
        yield
    finally:
        go_on.set()
        for gate in gates:
            gate.result(PATIENCE)


def test_a_budget_that_cannot_be_met_is_refused_at_once(slow):
    body = {"query": "红烧肉", "scorer": False}
    with full(slow, 0.02, 3):  # that is 0.06 s, and nothing moves
        answer = slow.http.post("/v1/search", json={**body, "budget_ms": 1})
        assert answer.status_code == 429
        assert "retry-after-ms" in answer.headers
    assert slow.http.post("/v1/search", json={**body, "budget_ms": 60_000}).status_code == 200


def test_refusals_keep_their_place_among_pipelined_requests(slow):
    """Whole, in chunks, with a slow body, with one that is larger than any: each has its one answer."""
    one = request("/v1/embeddings", {"input": "zu viel"})
    live = request("/livez", method="GET")
    head, _, body = one.partition(b"\r\n\r\n")
    chunked = re.sub(rb"content-length: \d+", b"transfer-encoding: chunked", head) + b"\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with full(slow), Raw(slow.url) as connection:
        connection.send(live + one + live + one + chunked + chunks + live)
        statuses = [connection.answer()[0] for _ in range(6)]
        assert statuses == [200, 429, 200, 429, 429, 200]
        for at in range(0, len(one), 7):
            connection.send(one[at : at + 7])
        status, headers, content = connection.answer()
        assert (status, json.loads(content)["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after-ms"]) > 0
        connection.send(chunked + b"zz\r\n")
        assert connection.answer()[0] == 400
        assert connection.answer() is None
    assert post(slow.http, "/v1/embeddings", {"input": "danach"})["data"]


def test_a_refusal_does_not_end_the_connection_under_the_request_behind_it(slow, monkeypatch):
    """The time of an idle connection begins after each answer, and ends where another request is there."""
    monkeypatch.setattr("relsdk_serve._connection.KEEP_ALIVE_SECONDS", 0.1)
    admit, refused = slow.service.engine.admit, []

    def refuse_two(lane, deadline=None):
        if len(refused) < 2:
            refused.append(lane)
            raise OverloadedError(1.0, 0.3)
        admit(lane, deadline)

    monkeypatch.setattr(slow.service.engine, "admit", refuse_two)
    with Raw(slow.url) as connection:
        some = request("/v1/embeddings", {"input": [f"批{n}" for n in range(40)]})  # 0.4 s
        connection.send(request("/v1/embeddings", {"input": "a"}) * 2 + some)
        answers = [connection.answer() for _ in range(3)]
    assert [answer and answer[0] for answer in answers] == [429, 429, 200]


def test_a_stranger_is_not_told_of_the_load(settings, monkeypatch):
    keys = {"RELSDK_SERVE_KEYS": KEY}
    with served(replace(settings, workers=1, limits=Limits(wait=0.3)), keys) as server:
        server.http.headers["x-api-key"] = KEY
        with full(server):
            asked = server.http.post("/v1/embeddings", json={"input": "a"})
            stranger = server.http.post(
                "/v1/embeddings", json={"input": "a"}, headers={"x-api-key": "x" * 20}
            )
    assert (asked.status_code, stranger.status_code) == (429, 401)
