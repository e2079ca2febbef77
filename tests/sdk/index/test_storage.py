"""Damage, foreign folders, locks, read-only disks."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import relsdk.index._storage as storage
from relsdk.errors import IndexFolderError, InputError, LockedError, RelsdkError
from relsdk.files.folders import file_sha256, json_sha256
from relsdk.index import Index, IndexConfig, _segment_writer, verify_index
from relsdk.records import Document
from tests.sdk.index.conftest import HashEncoder, make_documents

FILES = ["vectors.npy", "documents.sqlite", "graph.hnsw", "twins.npy"]
SEGMENT = "segments/seg-000001"


@pytest.fixture(autouse=True)
def with_graphs(graph_rows):
    """An index of 200 documents has a graph."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A path of an index that no test may damage."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(_segment_writer, "GRAPH_ROWS", 100)
        Index.build(folder / "base.idx", make_documents(200), HashEncoder()).close()
    return folder / "base.idx"


@pytest.fixture
def closed(whole, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "base.idx"))


@pytest.fixture
def generation(closed):
    return closed / "gen-000001"


@pytest.fixture
def segment(closed):
    return closed / SEGMENT


def edit_manifest(generation, change, *, sign=True):
    path = generation / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    if sign:
        content.pop("checksum")
        content["checksum"] = json_sha256(content)
    path.write_text(json.dumps(content))


def failed(path):
    return [check.name for check in verify_index(path).checks if not check.ok]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.001, 0.5, 0.99])
def test_changed_byte_is_reported(closed, segment, name, place):
    path = segment / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x55
    path.write_bytes(data)
    assert f"hash of {SEGMENT}/{name}" in failed(closed)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file(closed, segment, name):
    path = segment / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IndexFolderError, match=f"{name} has .* bytes, the manifest says"):
        Index.open(closed)
    assert f"hash of {SEGMENT}/{name}" in failed(closed)


@pytest.mark.parametrize("name", [*(f"{SEGMENT}/{name}" for name in FILES), "gen-000001/manifest.json"])
def test_missing_file(closed, name):
    (closed / name).unlink()
    with pytest.raises(IndexFolderError, match=name):
        Index.open(closed)
    assert failed(closed)


@pytest.mark.parametrize("size", [0, 1, 100, -2])
def test_truncated_manifest(closed, generation, size):
    path = generation / "manifest.json"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(IndexFolderError, match=r"manifest\.json"):
        Index.open(closed)
    assert failed(closed) == ["manifest.json"]


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"format": "other"}', b"\xff\xfe", b"[" * 100_000])
def test_foreign_manifest(closed, generation, content):
    (generation / "manifest.json").write_bytes(content)
    with pytest.raises(IndexFolderError, match=r"manifest\.json"):
        Index.open(closed)


@pytest.mark.parametrize("version", [0, 3, "1", True, None])
def test_other_version(closed, generation, version):
    edit_manifest(generation, lambda content: content.update(version=version))
    with pytest.raises(IndexFolderError, match=f"version {version!r}, this relsdk reads 1 and 2"):
        Index.open(closed)


@pytest.mark.parametrize("name", ["../../secret.npy", "/etc/passwd", "..", "vectors2.npy"])
def test_manifest_cannot_name_other_files(closed, generation, name):
    def change(content):
        files = content["segments"][0]["files"]
        files[name] = files.pop("vectors.npy")

    edit_manifest(generation, change)
    with pytest.raises(IndexFolderError, match="lists the files"):
        Index.open(closed)
    assert failed(closed) == ["manifest.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["segments"][0].update(count=0),
        lambda c: c["segments"][0].update(count=True),
        lambda c: c["segments"][0].update(live=201),
        lambda c: c["segments"][0].update(rows=201),
        lambda c: c["segments"][0].update(folder="../x"),
        lambda c: c["segments"][0].update(folder="segments/seg-000001/.."),
        lambda c: c["segments"].append(c["segments"][0]),
        lambda c: c.update(dimension="16"),
        lambda c: c.update(encoder=None),
        lambda c: c.update(files=[]),
        lambda c: c["files"].update({"vectors.npy": 3}),
        lambda c: c["files"].update({"other": c["segments"][0]["files"]["vectors.npy"]}),
        lambda c: c["segments"][0]["files"]["vectors.npy"].update(sha256="x"),
        lambda c: c["segments"][0]["files"].pop("twins.npy"),
        lambda c: c["segments"][0].update(live=199),
        lambda c: c["config"].update(efSearch=3),
        lambda c: c["config"].update(M="16"),
        lambda c: c.pop("created"),
    ],
)
def test_damaged_manifest(closed, generation, change):
    edit_manifest(generation, change)
    with pytest.raises(IndexFolderError, match="is damaged"):
        Index.open(closed)


def test_edited_manifest(closed, generation):
    edit_manifest(generation, lambda c: c["encoder"].update(fingerprint="forged"), sign=False)
    with pytest.raises(IndexFolderError, match="changed after it was written"):
        Index.open(closed)


@pytest.mark.parametrize("change", [{"count": 199, "rows": 199, "live": 199}, {"dimension": 8}])
def test_manifest_that_contradicts_the_files(closed, generation, change):
    edit_manifest(generation, lambda c: (c["segments"][0] if "count" in change else c).update(change))
    with pytest.raises(IndexFolderError, match=r"vectors\.npy"):
        Index.open(closed)
    assert {f"vectors of {SEGMENT}", f"graph of {SEGMENT}"} <= set(failed(closed))


def test_lost_documents_are_noticed(closed, generation, segment):
    connection = sqlite3.connect(segment / "documents.sqlite")
    with connection:
        connection.execute("DELETE FROM documents WHERE row >= 190")
    connection.close()
    with pytest.raises(IndexFolderError, match=r"documents\.sqlite"):
        Index.open(closed)
    path = segment / "documents.sqlite"
    now = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    edit_manifest(generation, lambda c: c["segments"][0]["files"]["documents.sqlite"].update(now))
    with pytest.raises(IndexFolderError, match="200 documents"):
        Index.open(closed)
    assert f"documents of {SEGMENT}" in failed(closed)


def test_hole_in_the_documents_is_reported(closed, segment):
    connection = sqlite3.connect(segment / "documents.sqlite")
    with connection:
        connection.execute("DELETE FROM documents WHERE row = 7")
    connection.close()
    assert f"documents of {SEGMENT}" in failed(closed)


def test_database_that_is_none(closed, segment):
    path = segment / "documents.sqlite"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(IndexFolderError, match="damaged"):
        Index.open(closed)
    assert f"documents of {SEGMENT}" in failed(closed)


@pytest.mark.parametrize(
    "content", [b"", b"gen-1\n", b"../gen-000001", b"gen-000001/..", b"\xff" * 5, b"gen-000001\nx"]
)
def test_damaged_pointer(closed, content, documents, encoder):
    (closed / "CURRENT").write_bytes(content)
    with pytest.raises(IndexFolderError, match="CURRENT is damaged"):
        Index.open(closed)
    assert failed(closed) == ["current"]
    with pytest.raises(InputError, match="--overwrite"):
        Index.build(closed, documents, encoder)
    with Index.build(closed, documents, encoder, overwrite=True) as index:
        assert index.verify().ok


def test_pointer_to_nothing(closed):
    (closed / "CURRENT").write_text("gen-000007\n")
    with pytest.raises(IndexFolderError, match="gen-000007"):
        Index.open(closed)


def test_open_what_is_no_index(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("x")
    for name, message in (("absent", "does not exist"), ("file", "is a file"), ("other", "not an index")):
        with pytest.raises(IndexFolderError, match=message):
            Index.open(tmp_path / name)
    with pytest.raises(IndexFolderError, match="does not exist"):
        verify_index(tmp_path / "absent")
    with pytest.raises(IndexFolderError, match="not an index"):
        verify_index(tmp_path / "other")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".writer").write_text("process 1 on x")
    for look in (Index.open, verify_index):  # the same next step
        with pytest.raises(IndexFolderError, match="its first build runs or was interrupted; build it again"):
            look(tmp_path / "killed")


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folder_is_never_touched(tmp_path, documents, encoder, overwrite):
    folder = tmp_path / "photos"
    (folder / "gen-000001").mkdir(parents=True)
    (folder / "CURRENT").write_text("MANIFEST-000004\n")  # as RocksDB has it
    (folder / "000005.sst").write_text("mine")
    with pytest.raises(InputError, match="nothing was touched"):
        Index.build(folder, documents, encoder, overwrite=overwrite)
    assert sorted(os.listdir(folder)) == ["000005.sst", "CURRENT", "gen-000001"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        Index.build(tmp_path / "file", documents, encoder, overwrite=overwrite)
    assert encoder.chunks == []


def test_empty_folder_is_taken(tmp_path, documents, encoder):
    (tmp_path / "x").mkdir()
    with Index.build(tmp_path / "x", documents, encoder) as index:
        assert len(index) > 0


def test_opening_writes_nothing(closed):
    (closed / ".lock").unlink(missing_ok=True)
    (closed / ".writer").unlink()
    folders = [closed, closed / "gen-000001", closed / "segments", closed / SEGMENT]
    for folder in folders:
        folder.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in [*folders, *closed.rglob("*")]}
    try:
        with Index.open(closed) as index:
            assert index.search(index.vectors[3], 1, where={"flag": False})[0].document.id == "d3"
            assert index.verify().ok
        assert {path: path.stat().st_mtime_ns for path in [*folders, *closed.rglob("*")]} == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
def test_read_only_disk_while_committing(closed, documents, encoder, monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
            Index.build(closed, documents[:10], encoder, overwrite=True)
    with Index.open(closed) as index:
        assert len(index) == 200
    assert sorted(os.listdir(closed)) == [".lock", ".writer", "CURRENT", "gen-000001", "segments"]


@pytest.mark.parametrize(
    "target", [(Path, "open"), (Path, "mkdir"), (Path, "write_text"), (sqlite3, "connect")]
)
def test_read_only_disk_from_the_start(tmp_path, documents, encoder, monkeypatch, target):
    (tmp_path / "x").mkdir()
    monkeypatch.setattr(*target, refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*Read-only file system"):
        Index.build(tmp_path / "x", documents, encoder)


def test_place_where_nothing_can_be_made(documents, encoder):
    with pytest.raises(RelsdkError, match="cannot write /proc/relsdk"):
        Index.build("/proc/relsdk", documents, encoder)


def test_full_disk_is_noticed_where_hnswlib_is_silent(closed, documents, encoder, monkeypatch):
    from relsdk.index.hnsw import HnswIndex

    save = HnswIndex.save

    def cut(self, folder):
        class Graph:
            def save_index(_, path):
                Path(os.fsdecode(path)).write_bytes(b"cut")

            def index_file_size(_):
                return 5000

        self._graph = Graph()
        save(self, folder)

    monkeypatch.setattr(HnswIndex, "save", cut)
    with pytest.raises(RelsdkError, match="3 of 5,000 bytes"):
        Index.build(closed, documents, encoder, overwrite=True)
    with Index.open(closed) as index:
        assert len(index) == 200


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.EIO, "from the source")])
@pytest.mark.parametrize("stage", ["documents", "encode", "graph"])
def test_interrupted_build_leaves_nothing(closed, documents, encoder, error, stage):
    def source():
        yield from documents
        if stage == "documents":
            raise error

    def progress(name, _):
        if name == stage:
            raise error

    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):  # the user's own error, not one of ours
        Index.build(closed, source(), encoder, overwrite=True, on_progress=progress)
    assert sorted(os.listdir(closed)) == [".lock", ".writer", "CURRENT", "gen-000001", "segments"]
    with Index.open(closed) as index:
        assert index.verify().ok


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_first_build_that_fails_removes_what_it_made(tmp_path, documents, encoder, error):
    def source():
        yield from documents
        raise error

    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "new" / "deep", tmp_path / "empty"):
        with pytest.raises(error):
            Index.build(path, source(), encoder)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]  # that was there before
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    with pytest.raises(error):
        Index.build(tmp_path / "new" / "deep", source(), encoder)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "mine"]


def test_a_writer_that_comes_second_removes_nothing(tmp_path, documents, encoder):
    def source():
        yield documents[0]
        with pytest.raises(LockedError):
            Index.build(tmp_path / "x", documents, encoder)
        assert {".lock", ".writer"} < set(os.listdir(tmp_path / "x"))

    Index.build(tmp_path / "x", source(), encoder).close()


def test_reader_follows_a_writer_that_replaces_the_generation(closed, document_factory, encoder, monkeypatch):
    import relsdk.index.index as module

    load = module.load_generation
    calls = []

    def late(name, folder, check, known=()):
        calls.append(name)
        if len(calls) == 1:
            monkeypatch.setattr(module, "load_generation", load)
            for count in (20, 30):  # two: the generation before the current one is still there
                Index.build(closed, document_factory(count, "new"), encoder, overwrite=True).close()
        return load(name, folder, check, known)

    monkeypatch.setattr(module, "load_generation", late)
    with Index.open(closed) as index:
        assert len(index) == 30
    assert calls == ["gen-000001", "gen-000003"]


HOLD = """
import sys, numpy as np
from relsdk.index import Index
from relsdk.records import Document
from tests.sdk.index.conftest import HashEncoder, make_documents
class Encoder:
    name, fingerprint, dimension = "e", "e", 4
    def encode_document(self, inputs):
        return np.eye(4, dtype=np.float32)[:len(inputs)]
def documents():
    yield Document("held", "t")
    print("holding", flush=True)
    sys.stdin.readline()
Index.build(sys.argv[1], documents(), Encoder(), overwrite=True).close()
"""


def test_two_writers(closed, documents, encoder):
    command = [sys.executable, "-c", HOLD, str(closed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(LockedError, match=rf"written by process {holder.pid} on "):
            Index.build(closed, documents, encoder, overwrite=True)
        assert not encoder.chunks  # the refused build encoded nothing
        with Index.open(closed) as index:  # readers are not held up
            assert len(index) == 200
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.wait(timeout=30) == 0
    with Index.open(closed) as index:
        assert len(index) == 1
    with Index.build(closed, documents, encoder, overwrite=True) as index:
        assert len(index) == 200


def test_build_within_a_build(closed, documents, encoder):
    def nested():
        yield documents[0]
        Index.build(closed, documents, encoder, overwrite=True)

    with pytest.raises(LockedError):
        Index.build(closed, nested(), encoder, overwrite=True)
    with Index.open(closed) as index:
        assert len(index) == 200


def test_second_writer_that_waited_does_not_overwrite(tmp_path, documents, encoder, monkeypatch):
    path = tmp_path / "x"
    check = storage._check_target

    def late(target, overwrite):
        check(target, overwrite)
        monkeypatch.setattr(storage, "_check_target", check)
        Index.build(path, documents, encoder).close()  # another writer, between our check and our lock

    monkeypatch.setattr(storage, "_check_target", late)
    with pytest.raises(InputError, match="--overwrite"):
        Index.build(path, [Document("a", "t")], encoder)
    with Index.open(path) as index:
        assert len(index) == 200


@pytest.mark.parametrize("name", [".writer", "CURRENT", ".tmp-gen-000002-{pid}", "gen-000002", ".lock"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_a_link_in_the_folder_leads_no_build_out_of_it(tmp_path, closed, documents, encoder, name, kind):
    victim = tmp_path / "victim"
    if kind == "file":
        victim.write_text("mine")
    elif kind == "folder":
        victim.mkdir()
        (victim / "photo").write_text("mine")
    link = closed / name.format(pid=os.getpid())
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    if name == ".lock":
        with pytest.raises(RelsdkError, match=r"\.lock is a link or no regular file"):
            Index.build(closed, documents, encoder, overwrite=True)
    else:
        with Index.build(closed, documents[:10], encoder, overwrite=True) as index:
            assert len(index) == 10
        assert not any(path.is_symlink() for path in closed.iterdir())
    assert (kind == "dangling") != os.path.lexists(victim)
    if kind == "file":
        assert victim.read_text() == "mine"
    elif kind == "folder":
        assert [path.read_text() for path in victim.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["CURRENT", ".writer", ".lock"])
def test_a_pipe_in_the_folder_is_no_reason_to_wait(closed, documents, encoder, name):
    (closed / name).unlink(missing_ok=True)
    os.mkfifo(closed / name)
    if name == "CURRENT":
        with pytest.raises(IndexFolderError, match="no regular file"):
            Index.open(closed)
    if name == ".lock":
        with pytest.raises(RelsdkError, match="no regular file"):
            Index.build(closed, documents, encoder, overwrite=True)
        return
    with Index.build(closed, documents[:10], encoder, overwrite=True) as index:
        assert len(index) == 10


def test_flat_index_has_no_graph_file(tmp_path, documents, encoder):
    with Index.build(tmp_path / "x", documents, encoder, config=IndexConfig(kind="flat")) as index:
        assert {Path(name).name for name in index.info().files}.isdisjoint({"graph.hnsw", "twins.npy"})
        assert not any("graph" in check.name for check in index.verify().checks)
