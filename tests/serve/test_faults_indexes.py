"""Indexes that others change, damage or replace while they are served; and several by name."""

import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from relsdk import Document, Embedder, Index
from tests.serve.servers import documents, post, served
from tests.threads import at_once, wait_for
from tests.toys import copy_bundle

FIND = {"query": "红烧肉怎么做才不腻", "k": 3}


@pytest.fixture
def server(settings, own_index):
    """A server of an index that may be changed."""
    with served(replace(settings, indexes={"own": str(own_index)}, scorers={})) as server:
        yield server


@contextmanager
def asked(server, body=None):
    """Ask all the while; whatever is not answered fails the test at the end."""
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answer = server.http.post("/v1/search", json=body or FIND)
            answers.append((answer.status_code, answer.json()))
            time.sleep(0.01)

    with at_once(ask, ask, until=stop):
        yield answers
        wait_for(lambda: len(answers) > 10)
    assert {status for status, _ in answers} == {200}
    assert all(len(answer["results"][0]["hits"]) == 3 for _, answer in answers)


def metric(server, name):
    lines = server.http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"relsdk_{name}{{")).split()[-1])


def test_a_damaged_generation_that_is_moved_into_place_under_load(server, own_index, encoder, tmp_path):
    damaged = tmp_path / "damaged.idx"
    Index.build(damaged, documents(30), Embedder(encoder)).close()
    vectors = next(damaged.rglob("vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-64] + bytes(64))
    good = tmp_path / "good.idx"
    Index.build(good, documents(40), Embedder(encoder)).close()
    failures = metric(server, "reload_failures_total")
    with asked(server) as answers:
        before = server.http.get("/info").json()["relsdk"]["indexes"][0]["generation"]
        own_index.rename(tmp_path / "before.idx")
        damaged.rename(own_index)
        wait_for(lambda: metric(server, "reload_failures_total") > failures)
        time.sleep(1.2)  # between the two names there was none, which may have been seen as well
        told = metric(server, "reload_failures_total")
        assert failures + 1 <= told <= failures + 2
        time.sleep(1.2)  # it is looked at again, and told once
        assert metric(server, "reload_failures_total") == told
        assert server.http.get("/info").json()["relsdk"]["indexes"][0]["generation"] == before
        assert server.http.get("/readyz").status_code == 200
        write = post(server.http, "/v1/documents", {"documents": [{"id": "a", "text": "a"}]}, 503)
        assert write["error"]["code"] == "unavailable"
        assert str(own_index) not in str(write)
        seen = len(answers)
        own_index.rename(tmp_path / "damaged.idx")
        good.rename(own_index)
        wait_for(lambda: server.http.get("/v1/documents/d50").status_code == 404)
        wait_for(lambda: len(answers) > seen + 10)
    wait_for(lambda: metric(server, "index_documents") == 40)  # after it was warmed up
    assert post(server.http, "/v1/documents", {"documents": [{"id": "a", "text": "a"}]})["written"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        "gone",
        "no manifest",
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("no CURRENT", "a hostile CURRENT")),
    ],
)
def test_other_damage_under_load(server, own_index, damage):
    with asked(server):
        current = own_index / "CURRENT"
        if damage == "no CURRENT":
            current.unlink()
        elif damage == "a hostile CURRENT":
            current.write_text("../../etc\n")
        elif damage == "no manifest":
            shutil.copytree(own_index / current.read_text().strip(), own_index / "gen-000009")
            (own_index / "gen-000009" / "manifest.json").unlink()
            current.write_text("gen-000009\n")
        else:
            shutil.rmtree(own_index)
        wait_for(lambda: metric(server, "reload_failures_total") >= 1)
        time.sleep(0.3)
    assert server.http.get("/livez").status_code == 200


def test_another_encoders_index_in_its_place(server, own_index, tmp_path):
    """The old one answers; nothing is written into what these vectors do not fit."""
    other = Embedder(copy_bundle("tower-bundle-v1", tmp_path / "other"))
    with asked(server):
        Index.build(own_index, documents(20), other, overwrite=True).close()
        wait_for(lambda: metric(server, "reload_failures_total") >= 1)
        write = post(server.http, "/v1/documents", {"documents": [{"id": "a", "text": "a"}]}, 503)
        assert "was built by" in write["message"]
        assert str(own_index) not in str(write)
        delete = post(server.http, "/v1/documents/delete", {"ids": ["d1"]}, 503)
        assert "was built by" in delete["message"]
        assert server.http.get("/v1/documents/d50").status_code == 200
    with Index.open(own_index) as index:
        assert len(index) == 20
        index.check_encoder(other)


def test_an_add_does_not_mix_the_vectors_of_two_encoders(own_index, encoder, tmp_path):
    """As long as a folder was looked at before it was replaced, its vectors were taken."""
    other = Embedder(copy_bundle("tower-bundle-v1", tmp_path / "other"))
    with Index.open(own_index) as index:
        Index.build(own_index, documents(20), other, overwrite=True).close()
        with pytest.raises(Exception, match="was built by"):
            index.upsert([Document("a", "b")], Embedder(encoder))
        assert len(index) == 66
    with Index.open(own_index) as index:
        assert len(index) == 20


def test_others_change_the_index(server, own_index, encoder, tmp_path, relsdk):
    """By the commands, of which one is a process of its own. Answers follow, and none fails."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"_id": "extern", "text": "红烧肉怎么做才不腻"}\n', encoding="utf-8")
    add = ("index", "add", own_index, "--input", rows, "--model", encoder)
    steps = [
        (("index", "delete", own_index, "extern"), lambda: not shown("extern")),
        *[(("index", "compact", own_index, "--full"), lambda: True)] * 2,
        (
            ("index", "build", own_index, "-i", rows, "--model", encoder, "--overwrite"),
            lambda: shown("extern") and not shown("d1"),
        ),
    ]

    def shown(identifier):
        return server.http.get(f"/v1/documents/{identifier}").status_code == 200

    failures = metric(server, "reload_failures_total")
    with ask_without_counting(server) as statuses:
        command = [sys.executable, "-m", "relsdk", *map(str, add)]
        subprocess.run(command, capture_output=True, check=True)
        wait_for(lambda: shown("extern"))
        for command, visible in steps:
            code, _, err = relsdk(*command)
            assert code == 0, err
            wait_for(visible)
    assert set(statuses) == {200}
    assert metric(server, "reload_failures_total") == failures
    assert post(server.http, "/v1/documents", {"documents": [{"id": "own", "text": "b"}]})["written"] == 1
    wait_for(lambda: metric(server, "index_documents") == 2)


@contextmanager
def ask_without_counting(server):
    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(server.http.post("/v1/search", json=FIND).status_code)
            time.sleep(0.02)

    with at_once(ask, until=stop):
        yield statuses


def test_two_writers_beside_each_other(server, own_index, encoder):
    """The server and another program write at once; both have all of theirs."""
    embedder = Embedder(encoder)

    def other():
        with Index.open(own_index) as index:
            for n in range(12):
                index.upsert([Document(f"o{n}", "drüben")], embedder)

    with at_once(other):
        for n in range(12):
            post(server.http, "/v1/documents", {"documents": [{"id": f"s{n}", "text": "hier"}]})
    with Index.open(own_index) as index:
        assert len(index.get([f"o{n}" for n in range(12)] + [f"s{n}" for n in range(12)])) == 24
        assert index.verify().ok


def test_several_models_and_indexes_by_name(settings, encoder, tmp_path):
    tower = copy_bundle("tower-bundle-v1", tmp_path / "tower")
    first, second = Embedder(encoder), Embedder(tower)
    Index.build(tmp_path / "a.idx", documents(20), first).close()
    Index.build(tmp_path / "b.idx", documents(66)[20:], second).close()
    several = replace(
        settings,
        models={"one": str(encoder), "two": str(tower)},
        indexes={"a": str(tmp_path / "a.idx"), "b": str(tmp_path / "b.idx")},
    )
    with served(several) as server:
        http = server.http
        for name, embedder in (("one", first), ("two", second)):
            answer = post(http, "/v1/embeddings", {"input": "红烧肉", "input_type": "query", "model": name})
            vector = np.float32(answer["data"][0]["embedding"])
            np.testing.assert_allclose(vector, embedder.encode_query("红烧肉"), atol=1e-6)
        for name, model, ids in (("a", "one", range(20)), ("b", "two", range(20, 66))):
            for body in ({"index": name}, {"model": model}, {"index": name, "model": model}):
                answer = post(http, "/v1/search", {**FIND, **body})
                assert (answer["index"], answer["model"]) == (name, model)
                assert {int(hit["id"][1:]) for hit in answer["results"][0]["hits"]} <= set(ids)
        assert post(http, "/v1/search", {**FIND, "index": "a", "model": "two"}, 400)
        assert "a, b" in post(http, "/v1/search", {**FIND, "index": "c"}, 404)["message"]
        post(http, "/v1/documents", {"index": "b", "documents": [{"id": "new", "text": "a"}]})
        assert http.get("/v1/documents/new", params={"index": "a"}).status_code == 404
        assert http.get("/v1/documents/new", params={"index": "b"}).status_code == 200


@pytest.mark.parametrize("back", [3600, -3600 * 24 * 400])
def test_the_clock_is_set(server, monkeypatch, back):
    """Nothing is negative, nothing hangs: durations go by a clock that cannot be set."""
    wall, wall_ns = time.time, time.time_ns
    post(server.http, "/v1/search", FIND)
    monkeypatch.setattr(time, "time", lambda: wall() - back)
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - back * 10**9)
    answer = server.http.post("/v1/search", json=FIND)
    parts = (part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    times = {name: float(value) for name, value in parts}
    assert all(0 <= value < 5000 for value in times.values()), times
    assert all(0 <= value < 5000 for value in answer.json()["results"][0]["steps"].values())
    assert post(server.http, "/v1/documents", {"documents": [{"id": "a", "text": "a"}]})["written"] == 1
    assert server.http.get("/readyz").status_code == 200
    assert server.http.get("/v1/documents/a").status_code == 200
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith("relsdk_"):
            assert float(line.rpartition(" ")[2]) >= 0, line
