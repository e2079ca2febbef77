"""Mixed load for a while: nothing grows, and nothing is left open."""

import asyncio
import os
import random
import statistics
import threading
import time
from dataclasses import replace
from functools import partial

import httpx
import pytest

from tests.serve.servers import Raw, request, resident, running, served
from tests.threads import PATIENCE, at_once, end_of, wait_for

QUERIES = ["红烧肉怎么做", "大理旅游", "手机黑屏", "bread at home", "感冒咳嗽", "健身计划"]


def search(rng):
    body = {"query": f"{rng.choice(QUERIES)}{rng.randrange(50)}", "k": rng.choice([1, 5, 20])}
    body.update(
        rng.choice([{}, {"mode": "hybrid"}, {"where": {"duration": {"lt": 30}}}, {"facets": ["author"]}])
    )
    return "/v1/search", body


def embed(rng):
    count = rng.choice([1, 1, 1, 8, 40])
    return "/v1/embeddings", {"input": [f"{rng.choice(QUERIES)}{rng.random()}" for _ in range(count)]}


def rank(rng):
    return "/v1/rerank", {"query": rng.choice(QUERIES), "documents": rng.sample(QUERIES, 4), "top_n": 3}


def write(rng):
    ids = [f"soak{rng.randrange(40)}" for _ in range(rng.choice([1, 3]))]
    if rng.random() < 0.2:
        return "/v1/documents/delete", {"ids": ids}
    content = [{"id": i, "text": rng.choice(QUERIES), "duration": 5} for i in ids]
    return "/v1/documents", {"documents": content, "wait": rng.random() < 0.7}


def mistake(rng):
    return rng.choice(
        [
            ("/v1/search", {"query": ""}),
            ("/v1/embeddings", {"input": "a", "model": f"m{rng.random()}"}),
            (f"/nowhere/{rng.random()}", {}),
            ("/v1/search", {"query": "a", f"field{rng.random()}": 1}),
        ]
    )


KINDS = [search] * 5 + [embed] * 4 + [rank, write, mistake]
STATUSES = {200, 202, 400, 404, 429}


class Load:
    """Clients that ask for a mixture, some of whom go away in the middle."""

    def __init__(self, url, clients=4, pause=0.02):
        self.url, self.pause = url, pause
        self.statuses = {}
        self._stop = threading.Event()
        works = [partial(self._run, number) for number in range(clients)]
        self._running = at_once(*works, self._be_rude, until=self._stop)

    def __enter__(self):
        self._running.__enter__()
        return self

    def __exit__(self, *error):
        return self._running.__exit__(*error)

    def _run(self, number):
        rng = random.Random(number)
        with httpx.Client(base_url=self.url, timeout=PATIENCE / 2) as http:
            while not self._stop.is_set():
                path, body = rng.choice(KINDS)(rng)
                status = http.post(path, json=body).status_code
                self.statuses[status] = self.statuses.get(status, 0) + 1
                if rng.random() < 0.02:
                    http.get("/metrics")
                    http.get("/info")
                time.sleep(self.pause)

    def _be_rude(self):
        """Half requests, bodies that nobody waits for, bytes that are no HTTP."""
        rng = random.Random(99)
        whole = request("/v1/embeddings", {"input": [f"走{n}" for n in range(300)]})
        while not self._stop.is_set():
            with Raw(self.url) as connection:
                connection.send(rng.choice([whole[:100], whole, whole[:-10], b"\x16\x03\x01" + bytes(50)]))
                time.sleep(self.pause * 2)


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "growth"), [(5, 0.12), (300, 0.05)], ids=["short", "long"])
def test_a_process_does_not_grow(own_index, encoder, scorer, seconds, growth):
    arguments = (own_index, "--model", encoder, "--scorer", scorer, "--query-cache", 50, "--workers", 2)
    with running(*arguments, "--log", "json") as process:
        with Load(process.url) as load:
            time.sleep(seconds / 3)
            early = [open_files(process.pid), threads(process.pid)]
            samples = []
            for _ in range(20):
                samples.append(resident(process.pid))
                time.sleep(seconds / 30)
        time.sleep(1.0)
        late = [open_files(process.pid), threads(process.pid)]
        with httpx.Client(base_url=process.url) as http:
            metrics = http.get("/metrics").text
            assert http.get("/readyz").status_code == 200
    assert set(load.statuses) <= STATUSES, load.statuses
    assert load.statuses[200] > 20 * seconds
    first, last = statistics.median(samples[:5]), statistics.median(samples[-5:])
    assert last <= first * (1 + growth), samples
    # A few more connections to the index's database, of workers that had not asked it yet.
    assert late[0] <= early[0] + 6, (early, late)
    assert late[1] <= early[1] + 2, (early, late)
    # Nothing that a client makes up becomes a series of its own.
    assert len(metrics.splitlines()) < 800
    assert "nowhere" not in metrics


def test_no_task_is_left(settings, own_index):
    """Of the event loop: each request's is gone with it, and so are those of clients that went away."""

    def tasks(server):
        future = asyncio.run_coroutine_threadsafe(count(), server.server._loop)
        return future.result(PATIENCE)

    async def count():
        return len(asyncio.all_tasks())

    others = set(threading.enumerate())
    with served(replace(settings, indexes={"own": str(own_index)}, workers=2)) as server:
        server.http.get("/livez")
        before = tasks(server)
        with Load(server.url, pause=0.01) as load:
            time.sleep(2.5)
        wait_for(lambda: tasks(server) <= before)
        wait_for(lambda: len(server.server.server_state.connections) <= 1)
        assert sum(server.service.engine.waiting.values()) == 0
        assert not any(server.service.engine._lanes.values())
    assert set(load.statuses) <= STATUSES
    # The server has ended, and its threads have.
    assert not any(state.thread.is_alive() for state in server.service.engine.workers)
    # A dummy stands for a thread that Python did not start, as pytest-xdist's, and stays for ever.
    left = set(threading.enumerate()) - others
    end_of(*(thread for thread in left if not isinstance(thread, threading._DummyThread)))
