"""The load generator against servers whose latency is known, and the figures that are made of it."""

import asyncio
import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from bench.http_server.__main__ import STAGES, measure
from bench.http_server.api import embed_queries, get, list_vectors, openai_vectors, post
from bench.http_server.load import NO_ANSWER, Caller, Lane, Outcome, constant, poisson, run_load
from bench.http_server.models import Folders, Texts
from bench.http_server.peers import NOT_HERE, AbsentError, Peer, start
from bench.http_server.processes import Cpus
from bench.http_server.run import TOY, Run, latency
from bench.http_server.stages_load import growth
from bench.http_server.stages_single import by_turns
from bench.pages.serve import serve_parts
from relsdk import Embedder, Index
from relsdk.formats import read_documents
from tests.threads import PATIENCE, at_once
from tests.toys import copy_bundle

BODY = b'{"data":[{"embedding":[1.0,0.0]}]}'


class Scripted(asyncio.Protocol):
    """A server of one thread that does what `script(number)` says: (seconds to wait, what to send or None).

    With `queue` it works on one request at a time, as a model does.
    """

    def __init__(self, script, queue):
        self.script, self.queue, self.buffer = script, queue, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.work()

    def work(self):
        number = self.queue["number"]
        self.queue["number"] += 1
        seconds, answer = self.script(number)
        loop = asyncio.get_running_loop()
        begin = max(loop.time(), self.queue.get("free", 0.0)) if "free" in self.queue else loop.time()
        if "free" in self.queue:
            self.queue["free"] = begin + seconds
        loop.call_at(begin + seconds, self.send, answer)

    def send(self, answer):
        if answer is None:
            self.transport.abort()
            return
        self.transport.write(answer)
        if b"connection: close" in answer.lower():
            self.transport.close()


def answer(status=200, body=BODY, more=""):
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def scripted(script, *, one_at_a_time=False):
    """Run a server in a thread; yield its address."""
    loop, started, found = asyncio.new_event_loop(), threading.Event(), {}
    queue = {"number": 0, **({"free": 0.0} if one_at_a_time else {})}

    async def serve():
        server = await loop.create_server(lambda: Scripted(script, queue), "127.0.0.1", 0)
        found["address"] = server.sockets[0].getsockname()[:2]
        found["stop"] = asyncio.Event()
        started.set()
        await found["stop"].wait()
        server.close()

    with at_once(lambda: loop.run_until_complete(serve())):
        assert started.wait(PATIENCE)
        try:
            yield found["address"]
        finally:
            loop.call_soon_threadsafe(found["stop"].set)
    loop.close()


def message(number):
    return embed_queries([f"第{number}条"])


def test_percentiles_are_those_of_the_server():
    def script(number):  # one request in twenty takes long
        return (0.6 if number % 20 == 19 else 0.1), answer()

    with scripted(script) as address:
        (outcome,) = run_load(address, [Lane("texts", message, clients=8)], 3.0)
    found = latency(outcome.seconds(200))
    assert set(outcome.status) == {200}
    assert found["count"] == len(outcome.ended) > 50
    assert 100 <= found["p50_ms"] < 300  # other work may have the CPU, so upper bounds are wide
    assert 100 <= found["p90_ms"] < 500
    assert 600 <= found["p99_ms"] < 1500
    assert sorted(outcome.number) == list(range(len(outcome.number)))


def test_an_open_loop_shows_the_queue_that_a_closed_loop_hides():
    """A server that takes 5 ms a request gets 400 a second for half a second: the last one waits for it."""
    with scripted(lambda number: (0.005, answer()), one_at_a_time=True) as address:
        (closed,) = run_load(address, [Lane("texts", message, clients=1)], 0.3)
        (opened,) = run_load(address, [Lane("texts", message, arrivals=constant(400, 0.5))], 0.5)
    assert len(opened.ended) == 200
    taken = latency(opened.seconds(200))
    assert 420 < taken["max_ms"] < 5000  # 200 requests need a second, and came in half of one
    assert 200 < taken["p50_ms"] < 2500
    assert latency(closed.seconds())["p50_ms"] < taken["p50_ms"] / 2
    assert latency(opened.late_s())["p50_ms"] < taken["p50_ms"] / 2


def test_a_stall_of_the_server_counts_for_all_who_came_meanwhile():
    """Coordinated omission: one client that waits would see one slow answer of many."""

    def script(number):
        return (2.0 if number == 10 else 0.0), answer()

    with scripted(script, one_at_a_time=True) as address:
        (outcome,) = run_load(address, [Lane("texts", message, arrivals=constant(20, 3.0))], 3.0)
    taken = outcome.seconds()
    assert 30 <= np.count_nonzero(taken > 0.4) <= 45  # of 60: those of 1.6 s, and a few by other work


def test_lanes_run_beside_each_other_and_statuses_are_kept():
    def script(number):
        return 0.0, answer(429 if number % 2 else 200)

    seen = []
    with scripted(script) as address:
        texts, probes = run_load(
            address,
            [
                Lane("texts", message, arrivals=poisson(200, 0.5, seed=1)),
                Lane("probes", lambda number: get("/livez"), arrivals=constant(20, 0.5)),
            ],
            0.5,
            every_s=0.1,
            observe=seen.append,
        )
    assert 60 < len(texts.status) < 140
    assert len(probes.status) == 10
    both = Counter(texts.status + probes.status)
    assert set(both) == {200, 429}
    assert abs(both[200] - both[429]) <= 1
    assert len(seen) >= 2


def test_answers_that_do_not_come_and_connections_that_close():
    """The generator goes on with new connections, and says what had no answer."""

    def script(number):
        if number % 10 == 3:
            return 0.0, None
        return 0.0, answer(more="Connection: close\r\n" if number % 10 == 7 else "")

    with scripted(script) as address:
        (outcome,) = run_load(address, [Lane("texts", message, clients=2)], 1.0)
        (stuck,) = run_load(address, [Lane("texts", message, arrivals=np.array([0.0, 0.1]))], 0.2)
    count = Counter(outcome.status)
    assert set(count) == {200, NO_ANSWER}
    assert abs(count[NO_ANSWER] - len(outcome.status) / 10) <= 2
    assert len(stuck.status) == 2
    with scripted(lambda number: (30.0, answer())) as address:
        (outcome,) = run_load(address, [Lane("texts", message, clients=2)], 0.1, patience_s=0.1)
    assert outcome.status == [NO_ANSWER] * 2


def test_a_large_request_and_a_large_answer_arrive_whole():
    body = b"[" + b"1.0," * 400_000 + b"1.0]"
    with scripted(lambda number: (0.0, answer(body=body))) as address:
        large = [Lane("texts", lambda number: post("/", "x" * 5_000_000), clients=2)]
        (outcome,) = run_load(address, large, 0.2)
        with Caller(address) as caller:
            seconds, status, received = caller.call(get("/"))
    assert set(outcome.status) == {200}
    assert (status, received) == (200, body)
    assert seconds > 0


def test_arrivals():
    random = poisson(1000, 10, seed=0)
    assert 9_600 < len(random) < 10_400
    assert np.all(np.diff(random) > 0)
    assert random[-1] < 10
    gaps = np.diff(random)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1
    assert constant(10, 0.5).tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_no_text_comes_twice(tmp_path):
    texts = Texts(tmp_path)
    assert not texts.real
    many = [texts.one(number) for number in range(3000)]
    assert len(set(many)) == 3000
    assert texts.some(2, 3) == many[6:9]


def test_contenders_have_the_same_texts():
    calls = []
    contenders = {name: lambda number, name=name: calls.append((name, number)) or 0.5 for name in "ab"}
    seconds = by_turns(contenders, 7, 3, lambda: calls.append("before"))
    assert seconds == {"a": [0.5] * 3, "b": [0.5] * 3}
    assert calls.count("before") == 6
    assert sorted(call for call in calls if call != "before") == [(n, i) for n in "ab" for i in (7, 8, 9)]


def test_vectors_of_each_dialect():
    assert openai_vectors(BODY).tolist() == [[1.0, 0.0]]
    assert openai_vectors(b'{"data":[{"embedding":"AACAPwAAAAA="}]}').tolist() == [[1.0, 0.0]]
    assert list_vectors(b"[1.0, 2.0]").shape == (1, 2)


def test_growth_is_of_what_has_settled():
    views = [
        {"resident_mb": mb, "anonymous_mb": 50.0, "threads": 3, "files": 9}
        for mb in [10.0] * 10 + [100.0] * 80 + [110.0] * 10
    ]
    found = growth(views)
    assert found["resident_mb"] == {"start": 100.0, "end": 110.0, "percent": pytest.approx(10.0)}
    assert found["threads"]["percent"] == 0.0


def test_an_outcome_counts_from_the_due_time():
    outcome = Outcome([0, 1], [0.0, 0.1], [0.0, 0.3], [0.2, 0.4], [200, 429])
    assert outcome.seconds().tolist() == pytest.approx([0.2, 0.3])
    assert outcome.seconds(429).tolist() == pytest.approx([0.3])
    assert outcome.late_s().tolist() == pytest.approx([0.0, 0.2])


# The whole measurement at toy size, with real servers.


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    pytest.importorskip("uvicorn", reason="the server needs relsdk[serve]")
    work = tmp_path_factory.mktemp("work")
    names = {"encoder": "encoder-bundle-v1", "tower": "tower-bundle-v1", "scorer": "scorer-bundle-v1"}
    folders = {name: copy_bundle(folder, work / name) for name, folder in names.items()}
    titles = work / "titles.jsonl"
    titles.write_text("".join(f'{{"id": "{n}", "title": "第{n}集在线观看"}}\n' for n in range(40)))
    index = work / "titles.idx"
    Index.build(index, read_documents(titles), Embedder(folders["encoder"])).close()
    folders |= {"checkpoint": work, "checkpoint32": work, "unfused": work, "titles": titles, "index": index}
    cpus = Cpus.choose()
    return Run(work, work, Folders(**folders), cpus, TOY, peers=())


def stage(toy_run, tmp_path, name):
    measure(toy_run, tmp_path / "serve.json", (name,), toy=True)
    return json.loads((tmp_path / "serve.json").read_text())["stages"][name]["result"]


@pytest.mark.slow
def test_what_http_adds(toy_run, tmp_path):
    found = stage(toy_run, tmp_path, "added")
    assert set(found) == {"tower", "encoder"}
    for cases in found.values():
        for contenders in cases.values():
            assert set(contenders) == {"library", "library, again", "HTTP"}
            assert contenders["HTTP"]["count"] == TOY.calls
            assert contenders["HTTP"]["p50_ms"] > 0


@pytest.mark.slow
def test_every_stage_and_its_page(toy_run, tmp_path):
    output = tmp_path / "serve.json"
    measure(toy_run, output, toy=True)
    content = json.loads(output.read_text())
    results = {name: found["result"] for name, found in content["stages"].items()}
    assert list(results) == list(STAGES)
    counts = {name: cases["by turns"]["HTTP"]["count"] for name, cases in results["routes"].items()}
    assert counts == {"search, dense": 4, "search, lexical": 4, "search, hybrid": 4, "rerank of 3": 2}
    for found in results["memory"].values():
        assert 20 < found["server"]["resident_mb"] < 1000
        more = found["server"]["resident_mb"] - found["library"]["resident_mb"]
        assert found["server_over_library"]["resident_mb"] == pytest.approx(more, abs=0.1)
    for found in results["throughput"].values():
        assert found["ratio"] > 0
        assert len(found["ratios"]) == TOY.rounds
    for found in results["overload"].values():
        assert set(found["overload"]["statuses"]) <= {"200", "429"}
        assert set(found["overload"]["health"]) == {"/livez", "/readyz"}
        assert found["moderate"]["accepted"]["count"] > 0
    assert results["peers"]["absent"].keys() == NOT_HERE.keys()
    assert len(results["peers"]["contenders"]) == 2
    assert set(results["soak"]["growth"]) == {"resident_mb", "anonymous_mb", "threads", "files"}
    assert "500" not in results["soak"]["statuses"]
    parts = serve_parts(content)
    assert set(parts) == {"serve-targets", "serve-routes", "serve-peers"}
    assert parts["serve-targets"].count("at most 0.4 ms") == 2
    measure(toy_run, output, toy=True)  # what is there is not run again
    assert json.loads(output.read_text()) == content


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_or_started_is_absent(tmp_path):
    peer = Peer("nobody", "nobody", ("--no-index", "no-such-package"), ("python", "-c", "1"), embed_queries)
    with pytest.raises(AbsentError, match=r"not installable: ERROR: .*no-such-package"):
        start(peer, tmp_path, Cpus.choose().server)
    nothing = replace(peer, packages=("--no-index", "pip"))
    with pytest.raises(AbsentError, match="nobody ended before it was ready"):
        start(nothing, tmp_path, Cpus.choose().server)
