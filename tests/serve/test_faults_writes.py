"""Writes that fail, crowd, race or are left: what was acknowledged is there, in order, and nothing else."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relsdk import Embedder, Index
from relsdk_serve import _writer
from relsdk_serve._settings import Limits
from tests.serve.servers import Raw, post, request, served
from tests.threads import PATIENCE, wait_for

POISON = "9876543210"


@pytest.fixture
def server(settings_of_own):
    """A server of an index that may be changed."""
    with served(settings_of_own) as server:
        yield server


@pytest.fixture
def settings_of_own(settings, own_index):
    return replace(settings, indexes={"own": str(own_index)}, scorers={})


@contextmanager
def held_writer(monkeypatch):
    """Hold the next commit until the body ends, so that what comes meanwhile is written together."""
    upsert, began, go_on, groups = Index.upsert, threading.Event(), threading.Event(), []

    def waiting(self, documents, *arguments, **options):
        groups.append([document.id for document in documents])
        began.set()
        go_on.wait(PATIENCE)
        return upsert(self, documents, *arguments, **options)

    monkeypatch.setattr(Index, "upsert", waiting)
    waiting.began, waiting.groups = began, groups
    try:
        yield waiting
    finally:
        go_on.set()


def put(http, *ids, text="红烧肉", **options):
    return http.post("/v1/documents", json={"documents": [{"id": i, "text": text} for i in ids], **options})


def shown(http, identifier):
    answer = http.get(f"/v1/documents/{identifier}")
    return answer.json() if answer.status_code == 200 else None


def test_requests_that_arrive_while_one_is_written_are_one_commit(server, monkeypatch):
    with ThreadPoolExecutor(8) as pool:
        with held_writer(monkeypatch) as writer:
            first = pool.submit(put, server.http, "n0")
            assert writer.began.wait(PATIENCE)
            rest = [pool.submit(put, server.http, f"n{n}") for n in range(1, 6)]
            wait_for(lambda: len(server.service.writers["own"]._waiting) == 5)
        answers = [one.result().json() for one in [first, *rest]]
    assert [len(group) for group in writer.groups] == [1, 5]
    assert all(answer["written"] == 1 for answer in answers)
    assert len({answer["generation"] for answer in answers}) == 2


def test_a_poisoned_document_costs_only_its_own_request(server, monkeypatch, encoder):
    wanted = Embedder(encoder, threads=1).tokenize([POISON]).ids[0][1:-1]
    encode = Embedder.encode_tokens

    def poisoned(self, tokens, **options):
        for ids in tokens.ids:
            if ",".join(map(str, wanted)) in ",".join(map(str, ids)):
                raise RuntimeError("poison")
        return encode(self, tokens, **options)

    monkeypatch.setattr(Embedder, "encode_tokens", poisoned)
    with ThreadPoolExecutor(8) as pool:
        with held_writer(monkeypatch) as writer:
            first = pool.submit(put, server.http, "n0")
            assert writer.began.wait(PATIENCE)
            rest = [
                pool.submit(put, server.http, f"n{n}", text=POISON if n == 3 else "好") for n in range(1, 6)
            ]
            wait_for(lambda: len(server.service.writers["own"]._waiting) == 5)
        statuses = [one.result().status_code for one in [first, *rest]]
    assert sorted(statuses) == [200] * 5 + [422]
    assert {n for n in range(6) if shown(server.http, f"n{n}")} == {0, 1, 2, 4, 5}
    assert len(writer.groups[1]) == 5, "they were not one group"


class Died(BaseException):
    """Ends a thread."""


@pytest.mark.parametrize(
    "error", [ValueError("no"), Died("no"), SystemExit(1), StopIteration(), MemoryError()]
)
def test_nothing_ends_the_writer(server, monkeypatch, error):
    upsert, failed = Index.upsert, []

    def fails_once(self, *arguments, **options):
        if not failed:
            failed.append(1)
            raise error
        return upsert(self, *arguments, **options)

    monkeypatch.setattr(Index, "upsert", fails_once)
    assert put(server.http, "a").status_code == 500
    assert put(server.http, "b").status_code == 200
    assert (shown(server.http, "a"), shown(server.http, "b")["id"]) == (None, "b")


def test_what_follows_a_commit_may_fail(server, monkeypatch):
    def fails(*_):
        raise OSError("a broken disk")

    monkeypatch.setattr(Index, "stats", fails)
    assert [put(server.http, f"n{n}").status_code for n in range(3)] == [200] * 3


def test_an_accepted_write_of_a_client_that_goes_away_is_done(server, monkeypatch):
    many = [{"id": f"gone{n}", "text": "走" * 50} for n in range(100)]
    with held_writer(monkeypatch) as writer:
        with Raw(server.url) as connection:
            connection.send(request("/v1/documents", {"documents": many}))
            assert writer.began.wait(PATIENCE)
        time.sleep(0.1)
    wait_for(lambda: shown(server.http, "gone99"))
    assert shown(server.http, "gone0")


@pytest.mark.parametrize("kind", ["documents", "deletions", "bytes"])
def test_what_waits_to_be_written_is_bounded(server, monkeypatch, kind):
    monkeypatch.setattr(_writer, "_MOST_WAITING", 1000 if kind == "bytes" else 20)
    monkeypatch.setattr(_writer, "_MOST_WAITING_BYTES", 200_000)
    with ThreadPoolExecutor(1) as pool, held_writer(monkeypatch) as writer:
        first = pool.submit(put, server.http, "first")
        assert writer.began.wait(PATIENCE)
        statuses = []
        for n in range(60):
            if kind == "deletions":
                body = {"ids": [f"d{n}"], "wait": False}
                answer = server.http.post("/v1/documents/delete", json=body)
            else:
                text = "长" * 20_000 if kind == "bytes" else "短"
                answer = put(server.http, f"x{n}", text=text, wait=False)
            statuses.append(answer.status_code)
        assert answer.headers["retry-after"] >= "1"
        assert int(answer.headers["retry-after-ms"]) > 0
        assert answer.json()["error"]["code"] == "overloaded"
    assert set(statuses) == {202, 429}
    accepted = statuses.count(202)
    assert accepted < 30
    assert statuses[:accepted] == [202] * accepted
    assert first.result().status_code == 200
    wait_for(lambda: put(server.http, "last").status_code == 200)
    if kind != "deletions":
        assert shown(server.http, f"x{accepted - 1}"), "what was accepted is not there"
        assert not shown(server.http, "x59")
    else:
        assert not shown(server.http, f"d{accepted - 1}")


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(0, 99)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 7), min_size=1, max_size=4)),
        st.tuples(st.just("where"), st.integers(0, 99)),
        st.tuples(st.just("delete one"), st.integers(0, 7)),
    ),
    min_size=1,
    max_size=12,
)


def apply(state, operation):
    """Do to a dict what a server must do to its index; return what it must answer."""
    kind, *rest = operation
    if kind == "put":
        state.update((f"m{n}", rest[1]) for n in rest[0])
        return {"written": len(rest[0])}
    if kind == "where":
        gone = [key for key, value in state.items() if value == rest[0]]
    else:
        wanted = rest[0] if kind == "delete" else [rest[0]]
        gone = [f"m{n}" for n in dict.fromkeys(wanted) if f"m{n}" in state]
    for key in gone:
        del state[key]
    return {"deleted": len(gone)}


def send(http, operation, *, wait=True):
    kind, *rest = operation
    if kind == "put":
        content = [{"id": f"m{n}", "text": f"值{rest[1]}", "value": rest[1]} for n in rest[0]]
        return http.post("/v1/documents", json={"documents": content, "wait": wait})
    if kind == "delete one":
        return http.delete(f"/v1/documents/m{rest[0]}")
    body = {"ids": [f"m{n}" for n in rest[0]]} if kind == "delete" else {"where": {"value": rest[0]}}
    return http.post("/v1/documents/delete", json={**body, "wait": wait})


def state_of(http):
    found = {f"m{n}": shown(http, f"m{n}") for n in range(8)}
    return {key: value["metadata"]["value"] for key, value in found.items() if value}


@pytest.fixture(scope="module")
def changed_server(settings, index_folder, tmp_path_factory):
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("model") / "own.idx")
    with served(replace(settings, indexes={"own": str(folder)}, scorers={}, workers=1)) as server:
        put(server.http, "keep")
        yield server


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_acknowledged_changes_are_a_dicts(changed_server, operations):
    http = changed_server.http
    post(http, "/v1/documents/delete", {"ids": [f"m{n}" for n in range(8)]})
    state = {}
    for operation in operations:
        answer, expected = send(http, operation), apply(state, operation)
        if operation[0] == "delete one" and expected["deleted"] == 0:
            assert answer.status_code == 404
        else:
            assert answer.status_code == 200, answer.text
            assert {**answer.json(), **expected} == answer.json()
    assert state_of(http) == state


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_changes_that_nobody_waits_for_keep_their_order(changed_server, operations):
    """They are sent one after the other, and written together as it happens."""
    http = changed_server.http
    post(http, "/v1/documents/delete", {"ids": [f"m{n}" for n in range(8)]})
    state = {}
    for operation in operations:
        if operation[0] == "delete one":
            operation = ("delete", [operation[1]])
        assert send(http, operation, wait=False).status_code == 202
        apply(state, operation)
    assert put(http, "keep").status_code == 200  # after all of them
    assert state_of(http) == state


def test_clients_beside_each_other_see_their_own_order(changed_server):
    """Each has ids of its own, changed again and again, while the commits are shared."""

    def client(number):
        with httpx.Client(base_url=changed_server.url, timeout=30) as http:
            last = None
            for step in range(11):
                if step % 4 == 3:
                    answer = http.delete(f"/v1/documents/c{number}")
                    last = None
                else:
                    body = {"documents": [{"id": f"c{number}", "text": "并", "value": step}]}
                    answer = http.post("/v1/documents", json=body)
                    last = step
                assert answer.status_code == 200, answer.text
                found = shown(http, f"c{number}")
                assert (None if found is None else found["metadata"]["value"]) == last
            return last

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(client, range(6))) == [10] * 6


def test_the_order_of_one_id_in_one_group_is_the_order_of_arrival(server, monkeypatch):
    with ThreadPoolExecutor(1) as pool, held_writer(monkeypatch) as writer:
        pool.submit(put, server.http, "first")
        assert writer.began.wait(PATIENCE)
        for value in range(5):
            put(server.http, "same", text=f"第{value}次", wait=False)
        send(server.http, ("delete", [1]), wait=False)
        put(server.http, "m1", wait=False)
    assert put(server.http, "last").status_code == 200
    assert shown(server.http, "same")["text"] == "第4次"
    assert shown(server.http, "m1")


def test_a_document_that_no_index_can_hold_is_a_mistake(server):
    for fields in (
        {"id": "", "text": "a"},
        {"id": "a", "text": 7},
        {"id": ["a"], "text": "a"},
        {"title": "a"},
        {},
    ):
        answer = post(server.http, "/v1/documents", {"documents": [{"id": "ok", "text": "a"}, fields]}, 400)
        assert answer["error"]["param"] == "documents[1]", answer
    assert shown(server.http, "ok") is None


def test_strange_ids_and_texts_are_kept_as_they_are(server):
    strange = ["a/b", "../x", "a b", "%2f", "é", "𝔘", "a\nb", "a\x1bb", "a\u2028b", "?", "#", "红", "a" * 500]
    content = [{"id": i, "title": i, "text": i, "x": i} for i in strange]
    assert post(server.http, "/v1/documents", {"documents": content})["written"] == len(strange)
    for identifier in strange:
        quoted = "".join(f"%{byte:02x}" for byte in identifier.encode())
        answer = server.http.get(f"/v1/documents/{quoted}")
        assert answer.status_code == 200, (identifier, answer.text)
        one = answer.json()
        assert (one["id"], one["title"], one["metadata"]["x"]) == (identifier,) * 3
    body = json.dumps({"ids": strange})
    assert post(server.http, "/v1/documents/delete", json.loads(body))["deleted"] == len(strange)


def test_limits_of_a_write(settings_of_own):
    with served(replace(settings_of_own, limits=Limits(inputs=3, body=5000))) as server:
        assert put(server.http, "a", "b", "c").status_code == 200
        assert "--max-inputs" in put(server.http, "a", "b", "c", "d").json()["message"]
        assert "--max-body" in put(server.http, "a", text="长" * 5000).json()["message"]
        assert shown(server.http, "a")["text"] == "红烧肉"
