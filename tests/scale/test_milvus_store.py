"""Collections in Milvus: loads that are killed, clients side by side, what is not relsdk's, and limits."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback

import numpy as np
import pytest

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from relsdk.errors import (  # noqa: E402
    EncoderMismatchError,
    IndexFolderError,
    InputError,
    LockedError,
    StoreError,
)
from relsdk.index import IndexConfig  # noqa: E402
from relsdk.index.opening import build_store, open_index  # noqa: E402
from relsdk.records import Document  # noqa: E402
from relsdk_scale import milvus_store  # noqa: E402
from tests.scale.engines import NOISE, HashEncoder  # noqa: E402
from tests.scale.milvus_server import milvus_address  # noqa: E402

pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(noise) for noise in NOISE)]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def documents(count, start=0):
    return [
        Document(
            f'id"{number}', f"标题 {number}", f"正文 {number}", {"n": number, "tags": ["猫", number % 7]}
        )
        for number in range(start, start + count)
    ]


def program(text, *arguments, **options):
    """Start a Python program that can import what this one can."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", text, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def server_or_lite(kind, folder):
    if kind == "lite":
        return f"milvus-lite:{folder / 'm.db'}#titles"
    address = milvus_address()
    if address is None:
        pytest.skip("no Milvus server; milvus_server.py says how to have one")
    return f"milvus://{address}/relsdk_{os.getpid()}_{time.time_ns()}"


@pytest.fixture
def lite(tmp_path):
    return f"milvus-lite:{tmp_path / 'm.db'}#titles"


@pytest.fixture(params=["lite", "server"])
def place(request, tmp_path):
    uri = server_or_lite(request.param, tmp_path)
    yield uri
    if request.param == "server":
        client = pymilvus.MilvusClient(f"http://{milvus_address()}")
        client.drop_collection(uri.rpartition("/")[2])
        client.close()


LOAD = """
import sys
from relsdk.index.opening import build_store
from tests.scale.engines import HashEncoder
from tests.scale.test_milvus_store import documents
build_store(sys.argv[1], documents(3000), HashEncoder(), chunk_size=250,
            on_progress=lambda stage, done: print(done, flush=True))
"""


def test_a_load_that_is_killed_goes_on_and_each_document_is_there_once(place):
    process = program(LOAD, place)
    for line in process.stdout:
        if int(line) >= 1000:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(IndexFolderError, match="was interrupted; run the same relsdk index build again"):
        open_index(place)
    with build_store(place, documents(3000), HashEncoder(), chunk_size=500) as store:
        assert store.info().complete
        assert store.count() == 3000
        pages = store._rows.pages('id != ""', ["id"], 700)
        ids = [row["id"] for page in pages for row in page]
        assert sorted(ids) == sorted(document.id for document in documents(3000))
        assert store.get([ids[0], ids[-1]])[0].id == ids[0]
    with pytest.raises(InputError, match=r"is there already, with 3,000 documents"):
        build_store(place, documents(3), HashEncoder())


COUNT = """
import sys
from relsdk.index.opening import open_index
from relsdk.errors import LockedError
try:
    with open_index(sys.argv[1]) as store:
        print(store.count(), store.info().encoder_name, store.count({"n": {"lt": 5}}))
except LockedError as error:
    print("locked", error)
"""


def count_elsewhere(place):
    process = program(COUNT, place)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return output.strip()


def test_two_clients_see_each_other_and_another_process_opens_it_after(place):
    first = build_store(place, documents(50), HashEncoder())
    second = open_index(place)
    assert second.upsert(documents(10, start=50), HashEncoder()) == 10
    assert first.count() == 60
    first.close()
    first.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        first.count()
    assert second.delete(where={"n": {"gte": 55}}) == 5
    assert second.delete(['id"0', "not there"]) == 1
    query = HashEncoder().encode_document(documents(1, start=52))
    assert [hit.document.id for hit in second.search(query, 1)[0]] == ['id"52']
    if place.startswith("milvus-lite"):
        assert "locked" in count_elsewhere(place)
        assert "milvus-lite has one at a time" in count_elsewhere(place)
    second.close()
    assert count_elsewhere(place) == "54 hash 4"


def test_the_index_is_what_was_asked_for_and_finds_what_exact_search_does(place):
    rng = np.random.default_rng(1)
    some = documents(2000)
    vectors = rng.standard_normal((2000, HashEncoder.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:40]
    wanted = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    for kind in ("flat", "hnsw"):
        config = IndexConfig(kind=kind, M=12, ef_construction=90)
        with build_store(place, some, HashEncoder(), vectors=vectors, config=config, overwrite=True) as store:
            state = store._rows.call("describe_index", index_name="vector")
            assert state["index_type"] == kind.upper()
            assert state["metric_type"] == "IP"
            assert int(state["indexed_rows"]) == 2000
            assert store.info().kind == f"milvus {kind.upper()}"
            exact = store.search(queries, 10, exact=True)
            assert [[hit.document.metadata["n"] for hit in hits] for hits in exact] == wanted.tolist()
            scores = [hit.score for hit in exact[0]]
            assert np.allclose(scores, (queries[0] @ vectors.T)[wanted[0]], atol=1e-6)
            graph = store.search(queries, 10)
            same = sum(
                len({hit.document.id for hit in left} & {hit.document.id for hit in right})
                for left, right in zip(exact, graph, strict=True)
            )
            assert same >= 0.98 * 400
            # A filter that leaves few: all of them.
            few = store.search(queries[:2], 10, where={"n": {"in": [3, 1999, 700]}})
            assert [{hit.document.metadata["n"] for hit in hits} for hits in few] == [{3, 700, 1999}] * 2


def test_an_exact_search_of_a_large_graph_is_refused(lite, monkeypatch):
    monkeypatch.setattr(milvus_store, "_MAX_SCANNED", 30)
    query = HashEncoder().encode_document(documents(1))
    with build_store(lite, documents(40), HashEncoder()) as store:
        with pytest.raises(InputError, match=r"has 40 documents to compare.*at most 30.*kind 'flat'"):
            store.search(query, 3, exact=True)
        assert len(store.search(query, 3, exact=True, where={"n": {"lt": 25}})[0]) == 3


def test_a_collection_of_somebody_else_is_never_touched(place, tmp_path):
    is_lite = place.startswith("milvus-lite")
    address, name = (
        (str(tmp_path / "m.db"), "titles")
        if is_lite
        else (f"http://{milvus_address()}", place.rpartition("/")[2])
    )
    client = pymilvus.MilvusClient(address)
    client.create_collection(name, dimension=4, consistency_level="Strong")
    client.insert(name, [{"id": 1, "vector": [1, 0, 0, 0]}])
    for act in (
        lambda: open_index(place),
        lambda: build_store(place, documents(3), HashEncoder()),
        lambda: build_store(place, documents(3), HashEncoder(), overwrite=True),
    ):
        with pytest.raises(IndexFolderError, match="relsdk did not make; it was not touched"):
            act()
    assert len(client.query(name, filter="id >= 0")) == 1
    client.close()
    if is_lite:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_all()


def test_a_path_of_something_else_is_never_touched_and_nothing_is_made_by_opening(tmp_path):
    file = tmp_path / "old.db"
    file.write_bytes(b"SQLite format 3\0")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"x")
    for path, said in ((file, "is a file; milvus-lite 3"), (folder, "is a folder of something else")):
        for act in (open_index, lambda uri: build_store(uri, documents(2), HashEncoder(), overwrite=True)):
            with pytest.raises(IndexFolderError, match=said):
                act(f"milvus-lite:{path}#c")
    assert file.read_bytes() == b"SQLite format 3\0"
    assert [path.name for path in folder.iterdir()] == ["cat.jpg"]
    with pytest.raises(IndexFolderError, match="is not there; make it with: relsdk index build"):
        open_index(f"milvus-lite:{tmp_path / 'new.db'}#c")
    assert not (tmp_path / "new.db").exists()


def test_damage_is_told(place):
    build_store(place, documents(5), HashEncoder()).close()
    with open_index(place) as store:
        rows = store._rows
        for properties, said in (
            ({"relsdk.config": '{"kind": "ball"}'}, r"is damaged \(kind='ball'.*remove the collection"),
            ({"relsdk.config": "{"}, "is damaged"),
            ({"relsdk.format": "2"}, r"made by a newer relsdk \(format 2\); upgrade relsdk"),
        ):
            rows.call("alter_collection_properties", properties=properties)
            with pytest.raises(IndexFolderError, match=said):
                store.info()


def test_another_encoder_is_refused(place):
    with build_store(place, documents(20), HashEncoder()) as store:
        other = HashEncoder("another")
        for act in (store.check_encoder, lambda encoder: store.upsert(documents(1), encoder)):
            with pytest.raises(EncoderMismatchError, match=r"was built by hash .* not by another"):
                act(other)
        store.check_encoder(HashEncoder())
        store._rows.call("alter_collection_properties", properties={"relsdk.complete": "false"})
    with pytest.raises(InputError, match=r"a load of .* by another model, hash, was interrupted"):
        build_store(place, documents(20), HashEncoder("another"))


def test_what_milvus_cannot_hold_is_refused_by_name_and_nothing_is_written(place):
    long = "长" * 21_846  # 65,538 bytes
    refused = {
        "the title of document 'd' has 65,538 bytes": Document("d", long),
        "the text of document 'd' has 65,538 bytes": Document("d", "t", long),
        r"the id of document '长+' has 65,538 bytes": Document(long, "t"),
        "the metadata of document 'd' has 65,[0-9]+ bytes": Document("d", "t", "", {"x": [long[:-3]]}),
        "the metadata of document 'd' need [45],[0-9]+ entries for filters": Document(
            "d", "t", "", {"captions": [f"第{number:04}句，说明" for number in range(400)]}
        ),
    }
    with build_store(place, documents(3), HashEncoder()) as store:
        for said, document in refused.items():
            with pytest.raises(InputError, match=said):
                store.upsert([*documents(2, start=100), document], HashEncoder())
            assert store.count() == 3
        fits = Document("d" * 65_535, "t", "x" * 65_535, {"x": "y" * 60_000, "l": list(range(150))})
        assert store.upsert([fits], HashEncoder()) == 1
        assert store.get([fits.id]) == [fits]
        assert store.count({"x": "y" * 60_000, "l": {"gte": 149}}) == 1
        with pytest.raises(InputError, match=r"k=20,000; Milvus returns at most 16,384"):
            store.search(np.eye(1, HashEncoder.dimension), 20_000)
        assert len(store.search(np.eye(1, HashEncoder.dimension), 16_384)[0]) == 4


def test_a_call_holds_no_more_bytes_than_a_server_takes(place):
    """40 MB in one chunk go in several messages, and come back in one search."""
    large = [Document(f"d{number}", "t", "文" * 21_000, {"n": number}) for number in range(640)]
    with build_store(place, large, HashEncoder(), config=IndexConfig(kind="flat")) as store:
        assert store.count() == 640
        hits = store.search(np.eye(1, HashEncoder.dimension), 300)[0]
        assert len({hit.document.id for hit in hits}) == 300
        assert hits[0].document.text == "文" * 21_000


def test_settings_that_milvus_does_not_have_are_refused(lite, tmp_path):
    for config, said in (
        (IndexConfig(int8=True), "milvus-lite does not refine .* int8 graph"),
        (IndexConfig(kind="flat", int8=True), "FLAT keeps whole vectors"),
        (IndexConfig(passage_characters=100), "does not split documents"),
    ):
        with pytest.raises(InputError, match=said):
            build_store(lite, documents(2), HashEncoder(), config=config)
    assert not (tmp_path / "m.db").exists()
    for name in ("1st", "a-b", "标题", "x" * 256):
        with pytest.raises(InputError, match="cannot be a collection in Milvus"):
            open_index(f"milvus-lite:{tmp_path / 'm.db'}#{name}")


def test_settings_that_are_refused_remove_nothing(lite):
    build_store(lite, documents(2), HashEncoder()).close()
    with pytest.raises(InputError, match="milvus-lite does not refine"):
        build_store(lite, documents(3), HashEncoder(), config=IndexConfig(int8=True), overwrite=True)
    with open_index(lite) as store:
        assert store.count() == 2


def test_an_index_that_a_server_does_not_have_leaves_nothing_behind(tmp_path):
    """2.3 has no HNSW_SQ; newer servers do."""
    place = server_or_lite("server", tmp_path)
    config = IndexConfig(int8=True)
    client = pymilvus.MilvusClient(f"http://{milvus_address()}")
    version = client.get_server_version()
    client.close()
    if version.startswith("v2.3"):
        with pytest.raises(InputError, match="this Milvus makes no HNSW_SQ"):
            build_store(place, documents(300), HashEncoder(), config=config)
        with pytest.raises(IndexFolderError, match="is not there"):
            open_index(place)
    else:
        with build_store(place, documents(300), HashEncoder(), config=config) as store:
            assert store.info().kind == "milvus HNSW_SQ"
            store.drop()


def test_what_does_not_answer_is_told_without_the_token(monkeypatch, caplog, capfd):
    secret = "geheim-4711"
    monkeypatch.setenv("MILVUS_TOKEN", f"root:{secret}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError, match="does not answer") as told:
        open_index(f"milvus://127.0.0.1:{port}/titles")
    assert "is Milvus running there?" in str(told.value)
    shown = "".join(traceback.format_exception(told.value))
    output = capfd.readouterr()
    assert secret not in shown + repr(told.value) + caplog.text + output.out + output.err
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_store_never_shows_the_token(lite, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:geheim-4711")
    with build_store(lite, documents(3), HashEncoder()) as store:
        with pytest.raises(StoreError) as told:
            store._rows.call("query", filter="nonsense geheim-4711 root:geheim-4711 ==", output_fields=["id"])
        assert "Milvus refused" in str(told.value)
        assert "root:geheim-4711" not in str(told.value) + repr(told.value)
        assert told.value.__suppress_context__
        assert "geheim" not in repr(store) + str(store.info())


def test_metadata_come_back_as_they_were(place):
    metadata = {
        "large": 2**53 + 1,
        "larger": 2**70,
        "float": 0.1,
        "text": '引"号\\ 和\n行 \x01 😀',
        "none": None,
        "list": [1, "a", None, True, [2], {"b": []}],
        "a.b": {"c": {"d": 1.5}},
        "空": {},
    }
    document = Document('d"\\\n中', '标"题\\\n', "\t文", metadata)
    with build_store(place, [document], HashEncoder()) as store:
        assert store.get([document.id]) == [document]
        (hit,) = store.search(np.eye(1, HashEncoder.dimension), 1)[0]
        assert json.dumps(hit.document.metadata) == json.dumps(metadata)
        for where in (
            {"id": document.id},
            {"title": document.title},
            {"text": {"gte": "\t文"}},
            {"text": metadata["text"], "metadata.text": metadata["text"]},
        ):
            wanted = 0 if "metadata.text" in where else 1
            assert store.count(where) == wanted
        assert store.count({"metadata.text": metadata["text"], "large": 2**53 + 1}) == 1
        assert store.count({"large": 2**53}) == 0
        assert store.delete([document.id]) == 1


def test_a_pickled_store_opens_in_the_same_process(lite):
    import pickle

    with build_store(lite, documents(4), HashEncoder()) as store:
        with pickle.loads(pickle.dumps(store)) as other:
            assert other.count() == 4


def test_a_locked_file_names_the_way_out(lite):
    build_store(lite, documents(4), HashEncoder()).close()
    text = (
        "import sys\nfrom relsdk.index.opening import open_index\n"
        "store = open_index(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()\nstore.close()\n"
    )
    process = program(text, lite, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(LockedError, match="close it there, or run a Milvus server"):
            open_index(lite)
    finally:
        process.communicate(timeout=60)
    with open_index(lite) as store:
        assert store.count() == 4
