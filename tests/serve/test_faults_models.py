"""Models that fail: a text, a worker, a batch that never ends; each costs what it must and no more."""

import asyncio
import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from relsdk import Embedder
from relsdk_serve import _runner
from relsdk_serve._engine import Engine
from relsdk_serve._http import encoded
from relsdk_serve._settings import Limits
from tests.serve.servers import post, served
from tests.threads import PATIENCE, wait_for

POISON = "9876543210"


@pytest.fixture
def server(settings):
    """A server of its own, since its workers are hurt."""
    with served(replace(settings, workers=2, limits=Limits(worker_seconds=1.0))) as server:
        yield server


class Died(BaseException):
    """Ends a thread."""


@pytest.fixture
def poison(monkeypatch, encoder):
    """Make the encoder fail at texts that hold POISON; returns what it raises, which may be replaced."""
    wanted = Embedder(encoder, threads=1).tokenize([POISON]).ids[0][1:-1]
    encode, raised = Embedder.encode_tokens, [RuntimeError("the node Gather_3 does not like this")]

    def poisoned(self, tokens, **options):
        text = [",".join(map(str, ids)) for ids in tokens.ids]
        if any(",".join(map(str, wanted)) in ids for ids in text):
            raise raised[0]
        return encode(self, tokens, **options)

    monkeypatch.setattr(Embedder, "encode_tokens", poisoned)
    return raised


@pytest.mark.parametrize("error", [RuntimeError("no"), Died("no")])
def test_a_poisoned_text_among_2047_good_ones(server, poison, error):
    poison[0] = error
    texts = [f"好文{n}" for n in range(2048)]
    texts[1234] = POISON
    answer = post(server.http, "/v1/embeddings", {"input": texts}, 422)
    assert answer["error"]["param"] == "input[1234]"
    assert answer["error"]["code"] == "input_failed"
    assert "input 1234" in answer["message"]
    texts[1234] = "好"
    assert len(post(server.http, "/v1/embeddings", {"input": texts})["data"]) == 2048
    assert server.http.get("/livez").status_code == 200


def test_a_poisoned_text_costs_the_others_of_its_batch_nothing(server, poison, encoder):
    """Many requests share batches with it."""
    expected = Embedder(encoder, threads=1)
    texts = [f"{n}号好文" if n % 10 else f"{POISON} {n}" for n in range(200)]

    def ask(text):
        return text, server.http.post("/v1/embeddings", json={"input": text, "input_type": "document"})

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, texts))
    for text, answer in answers:
        if POISON in text:
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "input[0]")
        else:
            assert answer.status_code == 200, answer.text
            vector = np.float32(answer.json()["data"][0]["embedding"])
            np.testing.assert_allclose(vector, expected.encode_document([text])[0], atol=1e-6)
    assert server.http.get("/livez").status_code == 200


def test_what_the_model_said_is_logged_and_not_told(server, poison, caplog):
    answer = post(server.http, "/v1/embeddings", {"input": [POISON]}, 422)
    assert "Gather_3" not in str(answer)
    assert "Gather_3" in caplog.text
    assert POISON not in caplog.text


@pytest.mark.parametrize("part", ["_measure", "_take", "_resolve"])
def test_a_worker_that_dies_is_replaced(server, monkeypatch, part, caplog):
    before, deaths = getattr(Engine, part), threading.Semaphore(3)

    def dies(self, *arguments):
        if deaths.acquire(blocking=False):
            raise Died("the worker's own loop")
        return before(self, *arguments)

    monkeypatch.setattr(Engine, part, dies)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.http.post, "/v1/embeddings", json={"input": f"第{n}"}) for n in range(40)]
        statuses = [one.result().status_code for one in asked]
    assert not deaths.acquire(blocking=False)
    # What it held is answered with an error; a batch may hold some requests.
    assert statuses.count(200) >= 40 - 3 * 8
    assert set(statuses) <= {200, 500}
    # The last of them is told of after the answers.
    wait_for(lambda: caplog.text.count("another one takes its place") >= 3)
    assert caplog.text.count("another one takes its place") == 3
    assert server.http.get("/livez").json()["status"] == "ok"
    assert "relsdk_worker_restarts_total 3.0" in server.http.get("/metrics").text
    assert "relsdk_workers_alive 2.0" in server.http.get("/metrics").text


def test_a_worker_that_hangs_makes_the_server_unhealthy(server, monkeypatch):
    go_on, hung = threading.Event(), threading.Event()
    encode = Embedder.encode_tokens

    def hangs(self, tokens, **options):
        if any(len(ids) > 10 for ids in tokens.ids) and not hung.is_set():
            hung.set()
            go_on.wait(PATIENCE)
        return encode(self, tokens, **options)

    monkeypatch.setattr(Embedder, "encode_tokens", hangs)
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(post, server.http, "/v1/embeddings", {"input": "三天两夜大理旅游攻略" * 3})
        assert hung.wait(PATIENCE)
        assert server.http.get("/livez").status_code == 200
        began = time.monotonic()
        while server.http.get("/livez").status_code == 200:
            post(server.http, "/v1/embeddings", {"input": "短"})  # the other worker answers
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.02)
        assert time.monotonic() - began > 0.5
        assert server.http.get("/readyz").json()["status"] == "broken"
        assert "has been running" in server.http.get("/livez").json()["checks"]["batches"]
        go_on.set()
        assert stuck.result(PATIENCE)["data"]
    assert server.http.get("/livez").status_code == 200


@pytest.mark.slow
def test_an_end_with_a_worker_that_hangs_waits_for_nobody(settings, monkeypatch):
    go_on, hung = threading.Event(), threading.Event()

    def hangs(self, tokens, **options):
        hung.set()
        go_on.wait(PATIENCE)

    with served(replace(settings, workers=1, grace_seconds=0.5)) as server:
        monkeypatch.setattr(Embedder, "encode_tokens", hangs)
        with ThreadPoolExecutor(2) as pool:
            stuck = [
                pool.submit(server.http.post, "/v1/embeddings", json={"input": "长"}),
                pool.submit(
                    server.http.post, "/v1/documents", json={"documents": [{"id": "a"}], "index": "toy"}
                ),
            ]
            assert hung.wait(PATIENCE)
            began = time.monotonic()
            server.stop()
            took = time.monotonic() - began
            go_on.set()
            statuses = [one.exception() or one.result().status_code for one in stuck]
    assert took < 60  # and the worker would hang for longer
    assert 200 not in statuses


def test_prompts_share_no_batch(settings, monkeypatch):
    """A query's prompt may run another model, so a batch has texts of one prompt."""
    keys = []
    rows = Engine.rows

    async def noted(self, key, *arguments):
        keys.append(key)
        return await rows(self, key, *arguments)

    monkeypatch.setattr(Engine, "rows", noted)
    with served(replace(settings, workers=1)) as server:
        keys.clear()
        for prompt in ("query", "document", None):
            post(server.http, "/embed", {"inputs": "一", "prompt_name": prompt})
    assert len(set(keys)) == 3


def test_a_field_that_the_model_cannot_follow_is_no_fault_of_the_text(server):
    answer = post(server.http, "/embed", {"inputs": ["一", "二"], "normalize": False}, 400)
    assert "normalize_embeddings=False is not possible" in answer["error"]


def test_a_large_answer_holds_nobody_up():
    """Its parts are written between the turns of other requests, not before them."""
    turns = []

    async def others():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    def slowly(number):
        time.sleep(0.002)
        return {"number": number}

    async def main():
        task = asyncio.ensure_future(others())
        parts = await encoded(range(60), slowly)
        task.cancel()
        return parts

    parts = asyncio.run(main())
    assert msgspec.json.decode(msgspec.json.encode(parts)) == [{"number": n} for n in range(60)]
    assert len(turns) >= 10


def test_the_tokens_of_a_large_request_are_made_in_turns_with_those_of_others(server, monkeypatch, encoder):
    """There is one thread for them: a request of megabytes kept it for seconds."""
    calls, tokenize = [], Embedder.tokenize

    def noted(self, texts, **options):
        if len(texts[0]) > 500:
            calls.append("ab"["红" in texts[0]])
            time.sleep(0.005)
        return tokenize(self, texts, **options)

    monkeypatch.setattr(Embedder, "tokenize", noted)
    monkeypatch.setattr(_runner, "_AT_A_TIME", 1 << 13)
    large = ["大宅门演员表" * 200 for _ in range(300)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            post, server.http, "/v1/embeddings", {"input": large, "encoding_format": "base64"}
        )
        wait_for(lambda: len(calls) >= 3)
        post(server.http, "/v1/embeddings", {"input": "红烧肉" * 800})
        between = calls.index("b")
        answer = asked.result(PATIENCE)
    assert between < len(calls) - 5, calls
    assert answer["truncated"] == 300
    one = post(server.http, "/v1/embeddings", {"input": large[0], "encoding_format": "base64"})
    assert answer["usage"]["total_tokens"] == 300 * one["usage"]["total_tokens"]
    first, last = (
        np.frombuffer(base64.b64decode(answer["data"][row]["embedding"]), "<f4") for row in (0, 299)
    )
    np.testing.assert_allclose(first, last, atol=1e-6)
