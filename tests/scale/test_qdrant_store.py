"""The store in Qdrant: what it asks of a server, folders that are not its own, and errors."""

import json
from functools import partial

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from relsdk import Document
from relsdk.errors import IndexFolderError, InputError, LockedError, StoreError
from relsdk.index import IndexConfig
from relsdk.index.opening import build_store, open_store
from tests.scale.engines import DIMENSION, HashEncoder, unit
from tests.scale.qdrant_server import QdrantServer, serving
from tests.threads import at_once

pytestmark = [
    pytest.mark.slow,
    # A folder that is locked is left open by the client.
    pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUERY = unit(np.arange(1, DIMENSION + 1))
DOCUMENTS = [Document(f"d{i}", f"标题 {i}", "", {"n": i}) for i in range(50)]


@pytest.fixture
def server():
    return QdrantServer()


@pytest.fixture
def host(server):
    with serving(server) as address:
        yield address


def test_a_server_is_asked_for_what_the_settings_say(server, host, monkeypatch):
    monkeypatch.setattr("relsdk_scale.qdrant_store._POLL", 0.01)
    server.statuses += ["green", "green", "yellow", "grey", "yellow"]
    config = IndexConfig(M=24, ef_construction=99, ef_search=77, int8=True)
    with build_store(f"qdrant://{host}/videos", DOCUMENTS, HashEncoder(), config=config) as store:
        assert server.statuses == []
        assert store.info().kind == "qdrant HNSW INT8"
        store.search(QUERY, 3, where={"n": {"gt": 5}})
        store.search(QUERY, 3, ef_search=500)
        store.search(QUERY, 3, exact=True)
    (created,) = server.bodies("PUT", "/videos")
    assert created["vectors"] == {"size": DIMENSION, "distance": "Dot"}
    assert created["hnsw_config"] == {"m": 24, "ef_construct": 99}
    assert created["quantization_config"]["scalar"]["type"] == "int8"
    (indexed,) = server.bodies("PUT", "/index?wait=true")
    assert (indexed["field_name"], indexed["field_schema"]["type"]) == ("filter.tokens", "keyword")
    assert len(server.bodies("PUT", "/points?wait=true")) == 1
    params = [body["searches"][0]["params"] for body in server.bodies("POST", "/points/query/batch")]
    assert [(one["hnsw_ef"], one["exact"], one["quantization"]["ignore"]) for one in params] == [
        (77, False, False),
        (500, False, False),
        (77, True, True),
    ]
    assert all(one["quantization"]["rescore"] for one in params)


def test_flat_has_no_graph(server, host):
    build_store(f"qdrant://{host}/c", DOCUMENTS, HashEncoder(), config=IndexConfig(kind="flat")).close()
    (created,) = server.bodies("PUT", "/c")
    assert created["hnsw_config"]["m"] == 0
    assert "quantization_config" not in created


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_key_comes_from_the_environment(server, host, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    build_store(f"qdrant://{host}/c", DOCUMENTS[:1], HashEncoder()).close()
    assert {headers.get("api-key") for *_, headers in server.requests} == {"secret"}


def test_a_server_answers_as_a_folder_does(host, tmp_path):
    places = [f"qdrant://{host}/c", f"qdrant-local:{tmp_path}/q#c"]
    answers = []
    for place in places:
        with build_store(place, DOCUMENTS, HashEncoder()) as store:
            store.delete(["d1", "x"])
            store.delete(where={"n": {"in": [2, 3]}})
            store.upsert([Document("d4", "新", "", {"n": -1, "big": 2**70})], HashEncoder())
            hits = store.search(np.stack([QUERY, -QUERY]), 5, where={"n": {"lt": 30}})
            answers.append((hits, store.count(), store.count({"n": -1}), store.get(["d4"])))
        with open_store(place) as store:
            assert store.count() == 47
        with build_store(place, DOCUMENTS[:2], HashEncoder("other"), overwrite=True) as store:
            assert store.count() == 2
    assert answers[0] == answers[1]


def test_large_documents_go_in_several_requests(server, host):
    texts = [Document(f"d{i}", "", "长" * 900_000) for i in range(12)]
    with build_store(f"qdrant://{host}/c", texts, HashEncoder()) as store:
        assert store.get(["d11"]) == texts[-1:]
    sizes = [len(json.dumps(body, ensure_ascii=False)) for body in server.bodies("PUT", "/points?wait=true")]
    assert len(sizes) == 2
    assert max(sizes) * 4 < 2**25 + 2**22


def test_a_server_that_keeps_no_notes_is_refused():
    with serving(QdrantServer(version=(1, 15))) as host:
        with pytest.raises(StoreError, match=r"Qdrant 1\.16 or newer is needed"):
            build_store(f"qdrant://{host}/c", DOCUMENTS, HashEncoder())
        with pytest.raises(IndexFolderError, match="is not there"):
            open_store(f"qdrant://{host}/c")


def test_what_is_not_of_relsdk_is_refused(server, host, tmp_path):
    from qdrant_client import QdrantClient, models

    vectors = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
    with pytest.raises(StoreError, match="does not answer"):
        open_store("qdrant://127.0.0.1:9/c")
    foreign = QdrantClient(url=f"http://{host}", check_compatibility=False)
    foreign.create_collection("theirs", vectors_config=vectors)
    for overwrite in (False, True):
        with pytest.raises(IndexFolderError, match="did not make"):
            build_store(f"qdrant://{host}/theirs", DOCUMENTS, HashEncoder(), overwrite=overwrite)
    with build_store(f"qdrant://{host}/ours", DOCUMENTS, HashEncoder()) as store:
        foreign.upsert("ours", [models.PointStruct(id=7, vector=QUERY.tolist(), payload={"id": "d1"})])
        with pytest.raises(IndexFolderError, match="point 7, which is no document"):
            store.search(QUERY, 1)
        foreign.delete_collection("ours")
        with pytest.raises(StoreError, match=r"refused \(Not found: Collection `ours` doesn't exist!\)"):
            store.count()
        with pytest.raises(IndexFolderError, match="is gone"):
            store.info()
    foreign.close()
    with pytest.raises(InputError, match="is closed"):
        store.count()


def test_folders(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "meta.json").write_text("{}")
    with pytest.raises(InputError, match="no folder of Qdrant's"):
        build_store(f"qdrant-local:{tmp_path}/other#c", DOCUMENTS, HashEncoder())
    with pytest.raises(IndexFolderError, match="damaged"):
        open_store(f"qdrant-local:{tmp_path}/damaged#c")
    with pytest.raises(IndexFolderError, match="not there"):
        open_store(f"qdrant-local:{tmp_path}/nowhere#c")
    assert not (tmp_path / "nowhere").exists()
    place = f"qdrant-local:{tmp_path}/q"
    with (
        build_store(f"{place}#one", DOCUMENTS[:2], HashEncoder()),
        pytest.raises(LockedError, match="one user"),
    ):
        open_store(f"{place}#one")
    with build_store(f"{place}#two", DOCUMENTS[2:5], HashEncoder()) as two:
        assert two.count() == 3
    with open_store(f"{place}#one") as one:
        assert one.count() == 2
    with pytest.raises(StoreError, match="Collection name cannot contain"):
        build_store(f"{place}#a:b", DOCUMENTS, HashEncoder())


def test_many_threads(tmp_path):
    with build_store(f"qdrant-local:{tmp_path}/q#c", DOCUMENTS, HashEncoder()) as store:
        wrong = []

        def work(number):
            for turn in range(5):
                store.upsert([Document(f"t{number}", f"{turn}")], HashEncoder())
                if len(store.search(QUERY, 100)) < 50 or store.get([f"t{number}"])[0].title != str(turn):
                    wrong.append(number)

        with at_once(*(partial(work, number) for number in range(6))):
            pass
        assert (wrong, store.count()) == ([], 56)
