"""A vector store behind the server."""

import asyncio
import sys

import numpy as np
import pytest

from relsdk import Embedder, Searcher
from relsdk.errors import IndexFolderError, StoreError
from relsdk.index.opening import build_store, open_store
from relsdk_serve._settings import Settings
from tests.serve.servers import documents, post, served
from tests.threads import wait_for
from tests.toy_store import ToyStore, use_toy_stores


@pytest.fixture(scope="module")
def uri(encoder, tmp_path_factory):
    return f"milvus-lite:{tmp_path_factory.mktemp('store')}/file#videos"


@pytest.fixture(scope="module")
def server(uri, encoder):
    with pytest.MonkeyPatch.context() as patch:
        use_toy_stores(patch)
        build_store(uri, documents(), Embedder(encoder)).close()
        with served(Settings(indexes={"videos": uri}, workers=2)) as server:
            yield server


def test_search_equals_the_library(server, uri, encoder):
    answer = post(server.http, "/v1/search", {"query": "红烧肉", "k": 5})
    expected = Searcher(Embedder(encoder), open_store(uri)).search("红烧肉", 5)
    (result,) = answer["results"]
    assert [hit["id"] for hit in result["hits"]] == [hit.document.id for hit in expected]
    for hit, known in zip(result["hits"], expected, strict=True):
        np.testing.assert_allclose(hit["probabilities"], known.probabilities, atol=1e-6)
    assert result["matching"] is None


def test_documents(server):
    written = post(server.http, "/v1/documents", {"documents": [{"id": "new", "title": "新菜", "year": 1}]})
    assert written["written"] == 1
    assert server.http.get("/v1/documents/new").json()["title"] == "新菜"
    (result,) = post(server.http, "/v1/search", {"query": "新菜", "where": {"year": 1}})["results"]
    assert [hit["id"] for hit in result["hits"]] == ["new"]
    assert post(server.http, "/v1/documents/delete", {"where": {"year": 1}})["deleted"] == 1
    assert server.http.get("/v1/documents/new").status_code == 404


def test_what_needs_a_folder_is_refused(server):
    for body in ({"query": "菜", "mode": "lexical"}, {"query": "菜", "facets": ["year"]}, {"like": "d1"}):
        answer = post(server.http, "/v1/search", body, 400)
        assert "needs an index folder; videos is a vector store" in answer["error"]["message"]


def test_cards_and_metrics(server):
    (card,) = server.http.get("/info").json()["relsdk"]["indexes"]
    assert (card["name"], card["modes"], card["lexical"]) == ("videos", ["dense"], False)
    assert card["documents"] == len(documents())
    assert 'relsdk_index_documents{index="videos"}' in server.http.get("/metrics").text


def test_a_store_that_does_not_answer(server, monkeypatch):
    def gone(self, *arguments):
        raise StoreError("10.0.0.7 does not answer")

    with monkeypatch.context() as patch:
        known = server.http.get("/info").json()["relsdk"]["indexes"]
        patch.setattr(ToyStore, "_nearest", gone)
        patch.setattr(ToyStore, "_count", gone)
        answer = server.http.post("/v1/search", json={"query": "红烧肉"})
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "StoreError"
        assert "10.0.0.7" not in answer.text
        assert "retry-after" in answer.headers
        assert server.http.get("/livez").status_code == 200
        assert server.http.get("/info").json()["relsdk"]["indexes"] == known  # and of all other indexes
    assert server.http.post("/v1/search", json={"query": "红烧肉"}).status_code == 200


def test_a_load_that_goes_on_is_no_damage(server, monkeypatch):
    def loading(self, *arguments):
        raise IndexFolderError("the load of it goes on")

    with monkeypatch.context() as patch:
        patch.setattr(ToyStore, "_nearest", loading)
        answer = server.http.post("/v1/search", json={"query": "红烧肉"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "IndexFolderError")
    assert "cannot be used; see its log" in answer.text


def test_the_loop_never_waits_for_a_store(server, monkeypatch):
    """Nor counts it what a store holds where that is not asked for: a server does so one by one."""
    asked_on_loop = []

    def count(self, condition, count=ToyStore._count):
        try:
            asked_on_loop.append(asyncio.get_running_loop())
        except RuntimeError:
            asked_on_loop.append(None)
        return count(self, condition)

    with monkeypatch.context() as patch:
        patch.setattr("relsdk_serve._service._COUNT_EVERY", sys.maxsize)
        patch.setattr(ToyStore, "_count", count)
        post(server.http, "/v1/documents", {"documents": [{"id": "new", "title": "新菜", "year": 1}]})
        post(server.http, "/v1/documents/delete", {"ids": ["new"]})
        assert asked_on_loop == []
        server.http.get("/info")
        assert asked_on_loop == [None]
        patch.setattr("relsdk_serve._service._COUNT_EVERY", 1)
        wait_for(lambda: len(asked_on_loop) > 1)  # at the next look of the server
    assert set(asked_on_loop) == {None}


def test_check_says_what_would_be_served(server, uri, relsdk, monkeypatch):
    use_toy_stores(monkeypatch)
    code, out, err = relsdk("serve", uri, "--check")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("index videos")]
    assert line.split(maxsplit=2)[2].startswith(f"{len(documents())} documents, by encoder, dense")
