"""A server as those see it who run it: keys, logs, metrics, drift, and what is left of it on the disk."""

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from dataclasses import replace

import httpx
import pytest

from relsdk import Index
from relsdk.calibration import SearchProfile
from relsdk.errors import BundleError
from relsdk.tools.drift import read_drift
from relsdk_serve import _drift
from relsdk_serve._routes import _table
from relsdk_serve._service import Access, Service
from tests.serve.servers import KEY, READ_KEY, post, running, served
from tests.threads import PATIENCE, wait_for

SECRET = "秘密的询问secret"
KEYS = {"RELSDK_SERVE_KEYS": f"{KEY},read:{READ_KEY}"}


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"write:{KEY}\nread:{READ_KEY}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def keyed(settings):
    with served(settings, KEYS) as server:
        yield server


def request(http, endpoint, key):
    path = endpoint.path.replace("{id:path}", "absent").replace("{name}", "absent")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return http.request(
        endpoint.method, path, headers=headers, json={} if endpoint.method == "POST" else None
    )


@pytest.mark.parametrize("endpoint", _table(bytes), ids=lambda one: f"{one.method} {one.path}")
def test_what_each_route_asks_of_a_key(keyed, endpoint):
    """A wrong key is none; with the right one an empty request is wrong for some other reason."""
    statuses = {
        key: request(keyed.http, endpoint, key).status_code for key in (None, "x" * 19, READ_KEY, KEY)
    }
    if endpoint.access is Access.OPEN:
        assert not {401, 403} & set(statuses.values())
        return
    assert statuses[None] == statuses["x" * 19] == 401
    assert statuses[READ_KEY] == 403 if endpoint.access is Access.WRITE else statuses[READ_KEY] != 401
    assert statuses[KEY] not in (401, 403)


def test_a_refused_writer_has_written_nothing(own_index, settings):
    with served(replace(settings, indexes={"own": str(own_index)}), KEYS) as server:
        body = {"documents": [{"id": "new", "title": "x"}]}
        for headers, status in (({}, 401), ({"api-key": READ_KEY}, 403), ({"x-api-key": KEY}, 200)):
            assert server.http.post("/v1/documents", json=body, headers=headers).status_code == status
            with Index.open(own_index) as index:
                assert index.count({"id": "new"}) == (status == 200)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "a key is needed; send one as Authorization: Bearer KEY"),
        ({"authorization": KEY}, "a key is needed; send one as Authorization: Bearer KEY"),
        ({"authorization": f"Bearer {KEY}x"}, "the key that was sent is none of this server's; send one as"),
        ({"x-api-key": "x"}, "the key that was sent is none of this server's; send one as"),
    ],
)
def test_a_wrong_key_is_told_from_none(keyed, headers, said):
    answer = keyed.http.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["message"].startswith(said)
    assert KEY not in answer.text


def test_open_info_opens_these_alone(settings):
    with served(replace(settings, open_info=True), KEYS) as server:
        assert server.http.get("/metrics").status_code == 200
        assert server.http.get("/info").status_code == 200
        assert server.http.get("/openapi.json").status_code == 200
        assert post(server.http, "/v1/search", {"query": "x"}, 401)


def test_logs_of_a_process_tell_no_text_header_or_path(index_folder, encoder, key_file, tmp_path):
    """Whatever a client sends: in the body, in a header, in the path, in the method."""
    queries = tmp_path / "queries.jsonl"
    arguments = (index_folder, "--model", encoder, "--key-file", key_file, "--log", "json")
    with running(*arguments, "--log-queries", queries, "--workers", "1") as process:
        headers = {"authorization": f"Bearer {READ_KEY}", "user-agent": SECRET.encode()}
        with httpx.Client(base_url=process.url, headers=headers) as http:
            http.post("/v1/search", json={"query": SECRET, "k": 3}, headers={"x-request-id": "mine-1"})
            post(http, "/v1/search", {"query": "红烧肉", "where": SECRET}, 400)
            post(http, "/v1/search", {"query": "红烧肉", "index": SECRET}, 404)
            post(http, "/v1/embeddings", {"input": SECRET})
            assert http.get(f"/v1/documents/{SECRET}").status_code == 404
            assert http.get(f"/{SECRET}").status_code == 404
            assert http.request("SECRET", "/v1/search").status_code in (400, 405)
            odd = http.get("/livez", headers={"x-request-id": 'a"} {"level": 3}'})
            assert re.fullmatch(r"[0-9a-f]{32}", odd.headers["x-request-id"])
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    said = "".join(process.said)
    for word in (SECRET, "secret", KEY, READ_KEY, "user-agent", "Bearer"):
        assert word not in said.replace('"method":"SECRET"', "")
    lines = [json.loads(line) for line in process.said if line.startswith("{")]
    routes = [line["route"] for line in lines]
    assert routes[:5] == [*["/v1/search"] * 3, "/v1/embeddings", "/v1/documents/{id:path}"]
    assert lines[0]["request_id"] == "mine-1"
    assert lines[0]["level"] in range(4)
    assert [line.get("code") for line in lines[:3]] == [None, "invalid_request", "not_found"]
    (logged,) = map(json.loads, queries.read_text(encoding="utf-8").splitlines())
    assert (logged["query"], logged["request_id"], len(logged["hits"])) == (SECRET, "mine-1", 3)
    assert stat.S_IMODE(queries.stat().st_mode) == 0o600


def value(http, name, **labels):
    """Return a metric."""
    for line in http.get("/metrics").text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")) == labels:
            return float(match[3])
    return None


def test_metrics_are_those_of_the_requests(settings):
    with served(settings) as server:
        http = server.http
        warm = value(http, "relsdk_query_cache_total", model="encoder", result="hit")
        for query in ("红烧肉怎么做", "红烧肉怎么做", "大理旅游"):
            answer = post(http, "/v1/search", {"query": query, "scorer": False})
        post(http, "/v1/search", {"query": "红烧肉", "min_score": 9, "scorer": False})
        post(http, "/v1/search", {}, 400)
        for number in range(5):
            assert http.get(f"/made/up/{number}").status_code == 404
        assert value(http, "relsdk_requests_total", route="/v1/search", status="200") == 4
        assert value(http, "relsdk_requests_total", route="/v1/search", status="400") == 1
        assert value(http, "relsdk_requests_total", route="other", status="404") == 5
        assert value(http, "relsdk_query_cache_total", model="encoder", result="hit") == warm + 1
        levels = {
            level: value(http, "relsdk_best_hits_total", index="toy", level=level)
            for level in ("none", "0", "1", "2", "3")
        }
        assert sum(levels.values()) == 4
        assert levels["none"] == 0  # what min_score takes away is still the best that there was
        assert levels[str(answer["results"][0]["hits"][0]["level"])] >= 1
        assert value(http, "relsdk_index_documents", index="toy") == 66
        assert value(http, "relsdk_workers_alive") == 2
        assert value(http, "relsdk_batch_texts_count", model="encoder") >= 3


def search(http, count, **options):
    for number in range(count):
        post(http, "/v1/search", {"query": f"红烧肉怎么做 {number}", "scorer": False, **options})


def test_drift_is_published_and_written_and_outlives_a_restart(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(_drift, "_MINUTE", 0.05)
    monkeypatch.setattr(_drift, "_TOKENISED_A_SECOND", 1e9)
    monkeypatch.setattr(_drift, "FIRST_SEARCHES", 20)
    monkeypatch.setattr("relsdk.calibration._profile._LEAST", 5)
    watching = replace(settings, state=tmp_path / "state")
    with served(watching) as server:
        search(server.http, 20)
        search(server.http, 5, offset=3)  # later pages are of the same searches
        search(server.http, 4, mode="hybrid")
        post(server.http, "/v1/search", {"like": "d1"})
        labels = {"index": "toy", "order": "cosine", "kind": "level"}
        wait_for(lambda: value(server.http, "relsdk_drift_psi", **labels) is not None)
        assert value(server.http, "relsdk_drift_psi", **labels) < 0.1
    state = read_drift(tmp_path / "state")
    days = {order: drift.day.searches("level") for order, drift in state.searches["toy"].items()}
    assert days == {"cosine": 24}  # there is no model of meaning and words: hybrid has the order of dense
    with served(watching) as server:
        search(server.http, 1)
    again = read_drift(tmp_path / "state").searches["toy"]["cosine"]
    assert again.day.searches("level") == 25
    assert again.reference == state.searches["toy"]["cosine"].reference


def test_what_is_recorded_while_it_serves_is_taken_up(own_index, settings, monkeypatch):
    monkeypatch.setattr(_drift, "_MINUTE", 0.05)
    with served(replace(settings, indexes={"own": str(own_index)})) as server:
        search(server.http, 2)
        own = server.service.drift
        assert own.state().searches["own"]["cosine"].source == "first searches"
        variant = server.service.catalogue.indexes["own"].model.encoder.variant.name
        profile = SearchProfile()
        profile.level[:] = [0, 0, 0, 0, 1000]
        with Index.open(own_index) as index:
            index.store_profiles({variant: {"cosine": profile}})
        wait_for(lambda: own.state().searches["own"]["cosine"].source == "calibration")
        assert own.state().searches["own"]["cosine"].reference == profile
        search(server.http, 3, where={"author": "a1"})  # of those nothing was recorded
        assert own.state().searches["own"]["cosine"].day.searches("level") == 2


def test_a_state_folder_that_cannot_be_written_fails_no_request(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_drift, "_MINUTE", 0.05)
    (tmp_path / "file").touch()
    with served(replace(settings, state=tmp_path / "file" / "state")) as server:
        search(server.http, 1)
        time.sleep(0.3)
        search(server.http, 1)
    assert caplog.text.count("cannot write") == 1


@pytest.mark.slow
def test_a_killed_server_leaves_a_whole_state_and_its_successor_goes_on(index_folder, encoder, tmp_path):
    state = tmp_path / "state"
    arguments = (index_folder, "--model", encoder, "--workers", "1", "--state", state)
    with running(*arguments) as process, httpx.Client(base_url=process.url) as http:
        search(http, 3)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        while time.monotonic() - started < 3:
            search(http, 1)  # still taken: the gateway has not noticed yet
            time.sleep(0.5)
        assert process.wait(PATIENCE) == 0
    first = read_drift(state).searches["toy.idx"]["cosine"].day.searches("level")
    assert first >= 6
    with running(*arguments) as process, httpx.Client(base_url=process.url) as http:
        search(http, 1)
        process.kill()
        process.wait()
    assert os.listdir(state) == ["drift.json"]
    assert read_drift(state).searches["toy.idx"]["cosine"].day.searches("level") == first


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_address_is_open_without_a_key(index_folder, encoder, host, fails):
    serve = ("serve", index_folder, "--model", encoder, "--port", "0", "--host", host)
    assert "there is no key; pass --key-file FILE" in fails(*serve)


def test_a_key_file_is_checked_before_anything_is_loaded(tmp_path, fails):
    (tmp_path / "keys").write_text("short\n")
    (tmp_path / "keys").chmod(0o600)
    said = fails("serve", tmp_path / "absent", "--key-file", tmp_path / "keys")
    assert "line 1: the key has 5 characters" in said
    assert shutil.which("openssl") is None or "openssl rand -hex 24" in said


@pytest.mark.parametrize(
    "origin", ["shop.example.com", "https://shop.example.com/", "https://Shop.example.com", ""]
)
def test_an_origin_that_no_browser_sends_is_refused(tmp_path, fails, origin):
    said = fails("serve", tmp_path / "absent", "--cors", "https://a.example", "--cors", origin)
    assert f"--cors {origin!r} is no origin" in said


@pytest.mark.parametrize("origin", ["https://shop.example.com", "http://localhost:3000", "*"])
def test_an_origin_that_browsers_send_is_taken(tmp_path, fails, origin):
    assert "does not exist" in fails("serve", tmp_path / "absent", "--cors", origin)


def test_a_model_in_the_place_of_an_index(encoder, fails):
    said = fails("serve", encoder, "--check")
    assert f"is a model, not an index; serve it alone with: relsdk serve --model {encoder}" in said


def test_a_check_tells_every_limit(index_folder, encoder, relsdk):
    code, out, _ = relsdk("serve", index_folder, "--model", encoder, "--check")
    assert code == 0
    assert re.search(r"max wait ms +while 20 a worker wait", out)
    assert "None" not in out
    _, out, _ = relsdk("serve", index_folder, "--model", encoder, "--check", "--max-wait", "50")
    assert re.search(r"max wait ms +50", out)


def test_a_server_that_ends_while_it_loads_waits_for_the_loading(settings, monkeypatch):
    """Python that ends under a library's loading thread is aborted."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        go_on.wait(60)
        raise BundleError("nobody waits for it any more")

    monkeypatch.setattr("relsdk_serve._service.open_catalogue", slow)
    service = Service(settings, environment={})

    async def serve():
        loading = asyncio.ensure_future(service.start())
        await asyncio.to_thread(begun.wait, 60)
        loading.cancel()
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        await service.stop()

    asyncio.run(serve())
    assert go_on.is_set()
    assert "relsdk-open" not in {thread.name for thread in threading.enumerate()}
