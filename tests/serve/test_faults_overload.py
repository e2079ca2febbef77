"""More than the server can bear: the rest is refused with the time to come again, and nobody waits long."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from relsdk import Embedder
from relsdk_serve._jobs import Lane
from relsdk_serve._settings import Limits
from tests.serve.servers import KEY, Raw, post, request, served


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


def test_what_would_wait_too_long_is_refused_and_the_rest_is_quick(slow):
    def ask(number):
        began = time.monotonic()
        answer = slow.http.post("/v1/embeddings", json={"input": f"问{number}"})
        return answer, time.monotonic() - began

    with ThreadPoolExecutor(80) as pool:
        outcomes = list(pool.map(ask, range(400)))
    statuses = [answer.status_code for answer, _ in outcomes]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) > 20
    for answer, _ in outcomes:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert 1 <= int(answer.headers["retry-after-ms"]) <= 5000
            assert answer.json()["error"]["code"] == "overloaded"
            assert answer.json()["error"]["type"] == "OverloadedError"
            assert "x-request-id" in answer.headers
    assert max(seconds for answer, seconds in outcomes if answer.status_code == 200) < 3
    # It recovers at once.
    assert post(slow.http, "/v1/embeddings", {"input": "danach"})["data"]
    rejected = next(
        line
        for line in slow.http.get("/metrics").text.splitlines()
        if 'rejected_total{reason="overloaded"}' in line
    )
    assert float(rejected.split()[-1]) == statuses.count(429)


def test_health_and_refusals_are_quick_under_load(slow):
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            slow.http.post("/v1/embeddings", json={"input": f"问{time.monotonic()}"})

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    seconds = []
    with Raw(slow.url) as connection:
        for _ in range(50):
            began = time.monotonic()
            connection.send(request("/livez", method="GET"))
            assert connection.answer()[0] == 200
            seconds.append(time.monotonic() - began)
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_a_budget_that_cannot_be_met_is_refused_at_once(slow):
    with ThreadPoolExecutor(25) as pool:
        waiting = [pool.submit(slow.http.post, "/v1/embeddings", json={"input": f"前{n}"}) for n in range(20)]
        while sum(slow.service.engine.waiting.values()) < 20:
            time.sleep(0.001)
        began = time.monotonic()
        answer = slow.http.post("/v1/search", json={"query": "红烧肉", "budget_ms": 1, "scorer": False})
        took = time.monotonic() - began
        for one in waiting:
            one.result()
    assert answer.status_code == 429
    assert "retry-after-ms" in answer.headers
    assert took < 0.2
    answer = slow.http.post("/v1/search", json={"query": "红烧肉", "budget_ms": 500, "scorer": False})
    assert answer.status_code == 200


def test_a_short_request_does_not_wait_for_a_bulk_one(slow):
    with ThreadPoolExecutor(1) as pool:
        bulk = pool.submit(slow.http.post, "/v1/embeddings", json={"input": [f"批{n}" for n in range(200)]})
        while slow.service.engine.waiting[1] < 100:
            time.sleep(0.001)
        began = time.monotonic()
        for n in range(5):
            post(slow.http, "/v1/embeddings", {"input": f"短{n}"})
        took = time.monotonic() - began
        assert not bulk.done()
        assert bulk.result().status_code == 200
    # Each waits for a slice at most, of about 20 ms or the least batch: 32 tokens of about ten texts.
    assert took / 5 < 0.4


def test_a_bulk_request_that_would_wait_is_refused_with_one_that_runs(slow):
    body = {"input": [f"批{n}" for n in range(150)]}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow.http.post, "/v1/embeddings", json=body)
        while slow.service.engine.waiting[1] < 100:
            time.sleep(0.001)
        second = slow.http.post("/v1/embeddings", json=body)
        assert second.status_code == 429
        assert int(second.headers["retry-after-ms"]) > 100
        assert post(slow.http, "/v1/embeddings", {"input": "kurz"})
        assert first.result().status_code == 200


@contextmanager
def full(server):
    """A server whose queue is full until the body ends."""
    go_on, began = threading.Event(), threading.Event()
    loop, engine = server.server._loop, server.service.engine

    async def fill():
        await engine.call("gate", lambda: (began.set(), go_on.wait(20)))

    gates = [asyncio.run_coroutine_threadsafe(fill(), loop)]
    assert began.wait(10)
    engine._seconds_per_unit[("call", "gate")] = 1.0
    gates += [asyncio.run_coroutine_threadsafe(fill(), loop) for _ in range(3)]
    try:
        while engine.wait(Lane.INTERACTIVE) <= 0.3:
            time.sleep(0.001)
        yield
    finally:
        go_on.set()
        for gate in gates:
            gate.result(30)


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
