"""Files that somebody else made, and values that no index can hold: one error that says what and where."""

import multiprocessing
import os
import pickle
import shutil
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from relsdk.errors import IndexFolderError, InputError, RelsdkError
from relsdk.index import Index, IndexConfig, verify_index
from relsdk.index._vectors import VECTORS_FILE
from relsdk.records import Document
from tests.sdk.index.damage import DEEP, ENDLESS, GENERATION, sign

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "index-v1"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "copy"))


@pytest.fixture
def change(copy):
    """Run SQL over the database and make the manifest agree."""

    def run(script):
        connection = sqlite3.connect(copy / GENERATION / "documents.sqlite")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.executescript(script)
        connection.close()
        sign(copy / GENERATION)
        return copy

    return run


def failed(path):
    return [check.name for check in verify_index(path).checks if not check.ok]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (f"ALTER TABLE documents RENAME TO x; CREATE VIEW documents(row) AS {ENDLESS}", "view 'documents'"),
        (f"CREATE VIEW more AS {ENDLESS}", "view 'more'"),
        ("CREATE TRIGGER t AFTER INSERT ON documents BEGIN DELETE FROM documents; END", "trigger 't'"),
        ("CREATE TABLE other (x)", "table 'other'"),
        ("CREATE VIRTUAL TABLE words USING fts5(x)", "table 'words'"),
        ("CREATE INDEX extra ON documents(title)", "index 'extra'"),
        ("ALTER TABLE documents ADD COLUMN more AS (hex(zeroblob(1000000000)))", "table 'documents'"),
        ("DROP TABLE documents", "nothing"),
    ],
)
@pytest.mark.parametrize("check", ["hashes", "sizes"])
def test_a_database_with_anything_else_is_not_asked(change, script, found, check):
    path = change(script)
    with pytest.raises(IndexFolderError, match=f"holds .*{found}"):
        Index.open(path, check=check)
    assert failed(path) == ["documents"]


def test_work_without_end_is_given_up(change):
    """A tree of pages that leads in circles: each page of the table's root names the same next page."""
    path = change("")
    database = path / GENERATION / "documents.sqlite"
    content = bytearray(database.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    root = (2 - 1) * size
    assert content[root] == 5  # an inner page
    cells = int.from_bytes(content[root + 3 : root + 5], "big")
    pointers = [int.from_bytes(content[root + 12 + 2 * i :][:2], "big") for i in range(cells)]
    for level in range(1, 8):  # 8 levels of one page that names itself all over
        place = root + pointers[level % cells]
        content[place : place + 4] = (2).to_bytes(4, "big")
    database.write_bytes(content)
    sign(path / GENERATION)
    with Index.open(path) as index, pytest.raises(IndexFolderError, match=r"documents\.sqlite is damaged"):
        index.search(index.vectors[0], 5, where={"topic": "none"})
    assert failed(path) == ["documents"]


@pytest.mark.parametrize("metadata", ["'{'", "'[1]'", "'1,2'", "'{}, {}'", f"'{DEEP}'", "''", "'null'"])
def test_metadata_that_are_no_object_name_their_document(change, metadata):
    path = change(f"UPDATE documents SET metadata = {metadata} WHERE id = 'v000007'")
    with Index.open(path) as index:
        for ask in (
            lambda: index.get(["v000007"]),
            lambda: index.get(["v000001", "v000007", "v000002"]),
            lambda: index.search(index.vectors[7], 5),
        ):
            with pytest.raises(IndexFolderError, match="metadata of document 'v000007'"):
                ask()
        assert index.get(["v000001"])[0].id == "v000001"
    assert failed(path) == ["documents"]


@pytest.mark.parametrize("column", ["id", "title", "text", "metadata"])
@pytest.mark.parametrize("value", ["x'00ff'", "CAST(x'ff' AS TEXT)"])
def test_fields_that_are_no_text(change, column, value):
    path = change(f"UPDATE documents SET {column} = {value} WHERE row = 7")
    with Index.open(path) as index, pytest.raises(IndexFolderError, match="damaged"):
        index.search(index.vectors[7], 5)
    if value.startswith("x"):
        assert failed(path) == ["documents"]


def test_rows_that_are_not_there(change):
    path = change("UPDATE documents SET row = -5 WHERE row = 7")
    assert failed(path) == ["documents"]
    with Index.open(path) as index:
        with pytest.raises(IndexFolderError, match="row 7 is missing"):
            index.search(index.vectors[7], 5)
        with pytest.raises(IndexFolderError, match="other rows than"):
            index.search(index.vectors[0], 5, where={"topic": {"ne": "none"}})


@pytest.mark.parametrize("row", [1000, 2**62])
def test_rows_that_are_too_many(change, row):
    path = change(f"UPDATE documents SET row = {row} WHERE row = 7")
    assert failed(path) == ["documents"]
    with pytest.raises(IndexFolderError, match="300 documents"):
        Index.open(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 4.6, 3e38])
@pytest.mark.parametrize("count", [1, 300])
def test_vectors_that_are_none(copy, value, count):
    path = copy / GENERATION / VECTORS_FILE
    vectors = np.lib.format.open_memmap(path, mode="r+")
    query = vectors[0].copy()
    vectors[:count] = value * np.sign(query)
    vectors.flush()
    sign(copy / GENERATION)
    with Index.open(copy) as index:
        with pytest.raises(IndexFolderError, match=r"damaged|NaN"):
            index.search(query, 5, exact=True)
        with pytest.raises(IndexFolderError, match="damaged"):  # what the graph finds is scored by them
            index.search(query, 300)
    assert {"vectors", "graph"} <= set(failed(copy))


def test_ids_that_no_document_has(copy):
    with Index.open(copy) as index:
        for identifier in ("\ud800", "v\udcff", "", "v\0", "x" * 100_000):
            with pytest.raises(InputError, match="1 of 2 ids are not in"):
                index.get(["v000001", identifier])
            with pytest.raises(InputError, match="1 of 700 ids are not in"):
                index.get(["v000001"] * 699 + [identifier])


def test_ids_with_a_nul_are_told_apart(tmp_path, encoder):
    """SQLite's JSON functions cut a text at a NUL."""
    documents = [Document(f"a\0{number}", "title", f"text {number}") for number in range(600)]
    with Index.build(tmp_path / "x", [*documents, Document("a", "", "last")], encoder, chunk_size=7) as index:
        ids = [document.id for document in [*documents, Document("a", "", "last")]]
        assert [document.id for document in index.get(ids)] == ids
        assert index.verify().ok
    with pytest.raises(InputError, match="occurs again"):
        Index.build(tmp_path / "y", [*documents, documents[0]], encoder, chunk_size=7)


@pytest.mark.skipif(os.name == "nt", reason="a name is Unicode there")
def test_a_folder_whose_name_is_not_unicode(tmp_path, documents, encoder):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe index"))
    with Index.build(path, documents, encoder) as index:
        assert index.search(index.vectors[3], 1)[0].document.id == "d3"
        assert index.verify().ok
        assert pickle.loads(pickle.dumps(index)).get(["d5"]) == index.get(["d5"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize(
    "name", ["manifest.json", "vectors.npy", "documents.sqlite", "graph.hnsw", "twins.npy"]
)
def test_a_pipe_is_not_waited_for(copy, name):
    (copy / GENERATION / name).unlink()
    os.mkfifo(copy / GENERATION / name)
    with pytest.raises(IndexFolderError, match=name):
        Index.open(copy)
    assert failed(copy)


def test_open_refuses_another_check(copy):
    with pytest.raises(InputError, match="allowed are 'hashes' and 'sizes'"):
        Index.open(copy, check="none")


def test_sizes_do_not_see_what_hashes_see(copy):
    path = copy / GENERATION / "documents.sqlite"
    content = path.read_bytes()
    path.write_bytes(content.replace("铲屎官".encode(), "铲屎宫".encode()))
    assert path.read_bytes() != content
    Index.open(copy, check="sizes").close()
    with pytest.raises(IndexFolderError, match=r"documents\.sqlite is damaged: it was changed after"):
        Index.open(copy)


def _found(index, query):
    return os.getpid(), [(hit.document, hit.score) for hit in index.search(query, 5)]


@pytest.mark.parametrize("check", ["hashes", "sizes"])
def test_an_index_is_pickled_by_its_path(copy, monkeypatch, check):
    monkeypatch.chdir(copy.parent)
    with Index.open(copy.name, check=check) as index:
        query = index.vectors[3].copy()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            process, found = pool.submit(_found, index, query).result(timeout=120)
        assert process != os.getpid()
        assert found == _found(index, query)[1]
        monkeypatch.chdir("/")
        pickled = pickle.dumps(index)
        assert len(pickled) < 1000
        with pickle.loads(pickled) as again:
            assert (len(again), again._check) == (300, check)
        assert index.verify().ok
    with pytest.raises(InputError, match="is closed"):
        pickle.dumps(index)
    shutil.rmtree(copy)
    with pytest.raises(IndexFolderError, match=r"gone.* Index\.open"):
        pickle.loads(pickled)


def test_a_pickle_opens_its_own_generation_or_none(tmp_path, documents, encoder):
    with Index.build(tmp_path / "x", documents, encoder) as index:
        pickled = pickle.dumps(index)
    for count in (2, 3):
        with pickle.loads(pickled) as index:  # the generation before the current one stays
            assert len(index) == len(documents)
        Index.build(tmp_path / "x", documents[:count], encoder, overwrite=True).close()
    with pytest.raises(IndexFolderError, match="gen-000001 is gone"):
        pickle.loads(pickled)


def test_a_pickle_opens_no_other_index_that_has_its_name(tmp_path, documents, encoder):
    with Index.build(tmp_path / "x", documents, encoder) as index:
        pickled = pickle.dumps(index)
    shutil.rmtree(tmp_path / "x")
    Index.build(tmp_path / "x", documents[:3], encoder).close()
    with pytest.raises(IndexFolderError, match=r"gen-000001 holds another index.*open it anew"):
        pickle.loads(pickled)
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(IndexFolderError, match=r"gen-000001 is gone.*open it anew"):
        pickle.loads(pickled)


@pytest.mark.parametrize("kind", ["hnsw", "flat"])
def test_building_then_opening_reads_large_files_once(
    tmp_path, documents, encoder, graph_rows, monkeypatch, kind
):
    import relsdk.files.intact as module

    seen = []
    read = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: seen.append(path.name) or read(path))
    monkeypatch.setattr(module, "_was_still", lambda *_: True)  # as a file that took long to be hashed
    with Index.build(tmp_path / "x", documents, encoder, config=IndexConfig(kind=kind)) as index:
        assert sorted(seen) == sorted(Path(name).name for name in index.info().files)
    with Index.open(tmp_path / "x"), Index.open(tmp_path / "x"):
        pass
    assert len(seen) == len(set(seen))


def test_errors_are_ours(copy):
    (copy / GENERATION / "manifest.json").write_text("[" * 10_000)
    with pytest.raises(RelsdkError, match="not readable JSON"):
        Index.open(copy)
