"""Writers, readers and the disk: what is committed stays, what is open answers, nothing else is touched."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import relsdk.index._storage as storage
from relsdk.errors import IndexFolderError, LockedError, RelsdkError
from relsdk.files.folders import json_sha256
from relsdk.index import Index, IndexConfig, verify_index
from relsdk.records import Document
from tests.threads import PATIENCE, at_once

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "index-v1"


def ids(index, *, where=None):
    return [document.id for document in index.documents(where)]


def segments(path):
    return sorted(os.listdir(path / "segments"))


@pytest.fixture
def changed(graph_rows, built, document_factory, encoder):
    """A path of an index with two graphs, dead documents and a tail: generation 4."""
    built.add(document_factory(120, "e"), encoder)
    built.delete([f"d{number}" for number in range(0, 200, 7)])
    built.add(document_factory(10, "f"), encoder)
    built.close()
    assert len(segments(built.path)) == 3
    return built.path


@pytest.fixture
def fsynced(monkeypatch):
    """Names of what the disk was waited for, in order."""
    calls = []
    fsync = os.fsync

    def record(handle):
        calls.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("file names of handles are not known here")
    monkeypatch.setattr(os, "fsync", record)
    return calls


def test_a_change_that_waits_makes_those_before_it_safe(
    graph_rows, built, document_factory, encoder, fsynced
):
    built.add(document_factory(120, "e"), encoder, sync=False)
    built.add(document_factory(5, "f"), encoder, sync=False)
    built.delete(["d3"], sync=False)
    assert fsynced == []
    built.delete(["d4"])
    waited = set(fsynced)
    names = {str(built.path / "segments"), str(built.path)}
    for segment in built.stats().segments[1:]:
        names |= set(map(str, (built.path / segment.name).iterdir())) | {str(built.path / segment.name)}
    assert len(names) > 15
    assert names <= waited
    last = {Path(name).name for name in waited}
    assert {"manifest.json", "dead-seg-000001.bits"} < last
    assert any(name.startswith(".CURRENT.") for name in last)
    assert not any("/seg-000001" in name for name in waited)  # that was safe before
    fsynced.clear()
    built.delete(["d5"])
    assert not any("/seg-" in name for name in fsynced)


def test_a_new_folder_is_on_the_disk_with_its_parents(tmp_path, documents, encoder, fsynced):
    Index.build(tmp_path / "a" / "b", documents, encoder).close()
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(fsynced)


def test_what_is_renamed_is_on_the_disk_before(built, document_factory, encoder, monkeypatch, fsynced):
    """And CURRENT comes last."""
    for name in ("rename", "replace"):
        function = getattr(os, name)

        def record(source, target, function=function):
            if str(built.path) in str(target):
                fsynced.append(("moved", Path(source).name, Path(target).name))
            function(source, target)

        monkeypatch.setattr(os, name, record)
    built.add(document_factory(5, "f"), encoder)
    order = [(call if isinstance(call, str) else call[2]) for call in fsynced]
    place = order.index("seg-000002")
    assert {Path(name).name for name in order[:place]} > {"vectors.npy", "documents.sqlite"}
    assert order[place + 1] == str(built.path / "segments")
    rename = order.index("gen-000002")
    assert any(name.endswith("manifest.json") for name in order[place:rename])
    assert order[rename + 1] == str(built.path)
    assert order.index("CURRENT") > rename + 1
    assert order[-1] == str(built.path)


def test_an_index_that_was_deleted_and_built_again_is_noticed(built, document_factory, encoder):
    """Though it has the same name: nothing of the other is mixed into it."""
    shutil.rmtree(built.path)
    Index.build(built.path, document_factory(30, "new"), encoder).close()
    assert ids(built)[0] == "d0"  # from the files that are open
    assert built.refresh()
    assert ids(built)[0] == "new0"
    shutil.rmtree(built.path)
    Index.build(built.path, document_factory(20, "third"), encoder).close()
    built.add([Document("last", "t")], encoder)
    assert len(built) == 21
    assert verify_index(built.path).ok


@pytest.mark.parametrize("count", [2**34, 2**40, 2**62])
def test_a_manifest_with_more_documents_than_memory(changed, count):
    """No memory is taken before the files are seen to be as large."""
    path = changed / "gen-000004" / "manifest.json"
    content = json.loads(path.read_text())
    segment = content["segments"][1]
    segment.update(count=count, live=count, rows=count)
    del content["checksum"]
    path.write_text(json.dumps({**content, "checksum": json_sha256(content)}))
    with pytest.raises(IndexFolderError, match=r"vectors\.npy has"):
        Index.open(changed)
    assert not verify_index(changed).ok


def test_a_commit_whose_end_is_not_known_is_left_alone(built, encoder, monkeypatch):
    """CURRENT has moved, then no more files may be opened: what it names must stay."""
    write, read = storage.write_file_atomically, storage.read_current

    def fail_afterwards(path, text, **options):
        write(path, text, **options)
        if path.name == "CURRENT":
            monkeypatch.setattr(storage, "read_current", unreadable)
            raise RelsdkError("Too many open files")

    def unreadable(path):
        raise IndexFolderError("Too many open files")

    monkeypatch.setattr(storage, "write_file_atomically", fail_afterwards)
    with pytest.raises(RelsdkError, match="Too many"):
        built.add([Document("x", "t")], encoder)
    monkeypatch.setattr(storage, "read_current", read)
    monkeypatch.setattr(storage, "write_file_atomically", write)
    assert built.refresh()
    assert len(built) == 201
    assert built.verify().ok


def test_an_index_is_written_from_itself(changed, encoder):
    with Index.open(changed) as index:
        count = len(index)
        some = index.documents({"flag": True})
        written = index.upsert((Document(one.id, "changed", "", one.metadata) for one in some), encoder)
        assert 0 < written == index.count({"title": "changed"})
        assert len(index) == count
        assert index.verify().ok


def test_an_identical_copy_in_its_place_is_opened_again(built, encoder):
    shutil.copytree(built.path, built.path.with_name("copy"))
    shutil.rmtree(built.path)
    built.path.with_name("copy").rename(built.path)
    with Index.open(built.path) as other:
        other.delete(["d0"])
    built.refresh()
    connections = [built._generation.segments[0].documents._connect() for _ in range(2)]  # of two threads
    assert len(ids(built)) == 199
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("kind", ["folder", "dangling", "file"])
def test_segments_that_are_a_link_are_not_taken_away(built, tmp_path, encoder, kind):
    target = tmp_path / "other disk"
    folder = built.path / "segments"
    if kind == "folder":
        folder.rename(target)
        folder.symlink_to(target)
    else:
        shutil.rmtree(folder)
        folder.symlink_to(target) if kind == "dangling" else folder.write_text("mine")
    before = sorted(os.listdir(built.path))
    with pytest.raises(RelsdkError, match="segments is a link or no folder"):
        built.upsert([Document("x", "t")], encoder)
    assert sorted(os.listdir(built.path)) == before
    if kind == "folder":
        assert built.verify().ok
        assert os.listdir(target) == ["seg-000001"]
        built.delete(["d0"])  # no segment is written
        assert folder.is_symlink()
        assert verify_index(built.path).ok
        with Index.build(built.path, [Document("x", "t")], encoder, overwrite=True) as index:
            assert len(index) == 1
        assert not folder.is_symlink()
        assert os.listdir(target) == ["seg-000001"]  # the other disk is not ours


def test_a_segment_that_is_a_link_is_unlinked_not_emptied(changed, tmp_path, encoder):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "photo").write_text("mine")
    (changed / "segments" / "seg-000999").symlink_to(victim)
    (changed / ".tmp-part-0123abcd").symlink_to(victim)
    (changed / "gen-000998").symlink_to(victim)
    with Index.open(changed) as index:
        index.add([Document("x", "t")], encoder)
        assert index.info().generation == "gen-000005"
        assert index.verify().ok
    assert [path.read_text() for path in victim.iterdir()] == ["mine"]
    assert not any(path.is_symlink() for path in changed.rglob("*"))


@pytest.mark.parametrize("name", ["segments/seg-000999", "gen-000998", ".tmp-part-0123abcd.lock"])
def test_a_pipe_in_the_folder_is_removed_or_left_alone(changed, encoder, name):
    os.mkfifo(changed / name)
    with Index.open(changed) as index:
        index.add([Document("x", "t")], encoder)
        assert index.verify().ok


def test_a_dead_file_that_is_a_pipe_is_not_waited_for(changed):
    path = next(changed.glob("gen-000004/dead-*.bits"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IndexFolderError, match=path.name):
        Index.open(changed)
    assert not verify_index(changed).ok


def test_an_old_reader_answers_until_it_is_closed(changed, encoder, document_factory):
    with Index.open(changed) as reader, Index.open(changed) as writer:
        query = encoder.vector("标题 d9 ")
        wanted = reader.search(query, 20), ids(reader), reader.count({"flag": True})
        writer.add(document_factory(150, "g"), encoder)
        writer.upsert(document_factory(100, "d"), encoder)
        writer.compact(full=True)
        writer.compact(full=True)
        assert not (changed / "gen-000004").exists()
        assert len(segments(changed)) == 1
        assert (reader.search(query, 20), ids(reader), reader.count({"flag": True})) == wanted
        answers = []
        with at_once(*[lambda: answers.append((reader.search(query, 20), ids(reader)))] * 4):
            pass
        assert answers == [wanted[:2]] * 4
        assert reader.verify().ok  # of the current one: its own is gone
        with pytest.raises(IndexFolderError, match="gone"):
            pickle.loads(pickle.dumps(reader))
        assert reader.refresh()
        assert ids(reader) == ids(writer)


def test_files_of_old_generations_are_closed(built, document_factory, encoder, graph_rows):
    graph_rows(20)
    counts = []
    for number in range(8):
        built.upsert(document_factory(7, "e", start=5 * number), encoder, sync=False)
        built.compact()
        built.search(encoder.vector("x"), 5, where={"flag": True})
        counts.append(len(os.listdir("/proc/self/fd")))
    assert max(counts) - min(counts) <= 6  # one database for each of at most four segments and a tail


def test_an_index_is_copied_while_it_is_open(changed, tmp_path, encoder):
    with Index.open(changed) as index:
        shutil.copytree(changed, tmp_path / "copy")
        index.add([Document("x", "t")], encoder)
        with Index.open(tmp_path / "copy") as other:
            assert other.verify().ok
            assert len(other) == len(index) - 1
            other.delete(["d1"])
        assert "d1" in ids(index)
        assert index.verify().ok


def test_threads_search_while_another_adds(built, encoder, graph_rows):
    """Each answer is that of one commit: rows of a wave come and go together."""
    graph_rows(40)
    wrong, done = [], threading.Event()
    vector = encoder.vector("wave")

    def look():
        while not done.is_set():
            hits = built.search(vector, 400, where={"wave": {"exists": True}}, exact=True)
            waves = {hit.document.metadata["wave"] for hit in hits}
            if len(waves) > 1 or len(hits) not in (0, 10):
                wrong.append((len(hits), waves))

    built.upsert(wave(0), encoder)
    with at_once(look, look, look, until=done):
        for number in range(1, 12):
            built.upsert(wave(number), encoder, sync=False)
            if number % 4 == 0:
                built.compact()
    assert wrong == []
    assert built.verify().ok


def wave(number):
    return [Document(f"w{place}", "wave", str(number), {"wave": number}) for place in range(10)]


def test_threads_that_change_one_object_lose_nothing(built, encoder):

    def add(worker):
        for number in range(6):
            name = f"t{worker}-{number}"
            built.add([Document(name, "t")], encoder, sync=False)
            assert built.get([name])  # what was committed through this object is there at once

    with at_once(*(partial(add, worker) for worker in range(4))):
        pass
    assert len(built) == 200 + 24
    assert built.verify().ok


def test_a_part_that_is_taken_for_a_leftover_is_made_again(built, encoder, monkeypatch):
    """Another writer looks at its lock between its making and its locking."""
    import relsdk.files.atomic as atomic

    lock, made, held = atomic._lock, threading.Event(), threading.Event()

    def late(handle, wait):
        if wait and not made.is_set():
            made.set()
            assert held.wait(PATIENCE)
        return lock(handle, wait)

    def remove_slowly():
        assert made.wait(PATIENCE)
        (name,) = (name for name in os.listdir(built.path) if ".tmp-part-" in name)
        with atomic.hold_lock(built.path / name) as one:
            held.set()
            one.release(remove=True)

    monkeypatch.setattr(atomic, "_lock", late)
    with at_once(remove_slowly):
        built.add([Document("x", "t")], encoder)
    assert len(built) == 201
    assert not [name for name in os.listdir(built.path) if ".tmp" in name]


def test_half_of_what_was_open_is_removed_while_it_is_checked(changed, encoder):
    """The next commit removes a segment before the generation that had it: that is no damage."""
    with Index.open(changed) as index, Index.open(changed) as other:
        opened = index._open().folder
        shutil.copytree(opened, changed / "kept")
        for number in range(2):  # the last but one is kept
            other.add([Document(f"x{number}", "t")], encoder)
        assert not opened.exists()
        shutil.copytree(changed / "kept", opened)
        report = index.verify()
        assert report.ok
        assert report.generation == other.info().generation != opened.name


FORK = """
import os, sys, threading
import numpy as np
from relsdk.errors import IndexFolderError
from relsdk.index import Index
from relsdk.records import Document
index = Index.open(sys.argv[1])
vector = np.eye(16, dtype=np.float32)[:1]
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        index.add([Document(f"child{number}", "t")], vectors=vector)
        found = None
        while found is None:
            try:
                found = [document.id for document in index.documents()]
            except IndexFolderError:  # others have committed since, and removed what was not open yet
                index.refresh()
        os._exit(0 if f"child{number}" in found and index.verify().ok else 1)
    children.append(pid)
index.add([Document("parent", "t")], vectors=vector)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
index.refresh()
assert {document.id for document in index.documents()} >= {"parent", "child0", "child1", "child2"}
"""


def test_forked_processes_change_one_index(changed):
    subprocess.run([sys.executable, "-c", FORK, str(changed)], check=True, timeout=60)
    assert verify_index(changed).ok


def test_a_pickle_of_a_changed_index(changed):
    with Index.open(changed) as index, pickle.loads(pickle.dumps(index)) as again, copy.copy(index) as third:
        assert ids(index) == ids(again) == ids(third)


def test_verify_follows_a_writer(changed, monkeypatch, encoder):
    """An index that is written to meanwhile is not called damaged."""
    import relsdk.index.verify as module

    read, calls = module.read_manifest, []

    def late(folder):
        calls.append(folder.name)
        if len(calls) == 1:
            with Index.open(changed) as index:
                for number in range(2):
                    index.add([Document(f"x{number}", "t")], encoder)
        return read(folder)

    monkeypatch.setattr(module, "read_manifest", late)
    assert verify_index(changed).ok
    assert calls == ["gen-000004", "gen-000006"]


def test_small_segments_do_not_pile_up(tmp_path, document_factory, encoder, graph_rows):
    """A segment that lost most of its documents is merged with its neighbour, not left without a graph."""
    graph_rows(20)
    for kind in ("hnsw", "flat"):
        with Index.build(
            tmp_path / kind, document_factory(20, "s"), encoder, config=IndexConfig(kind=kind)
        ) as index:
            for number in range(1, 9):
                index.upsert(document_factory(20, "s", start=15 * number), encoder, sync=False)
                index.compact()
                assert sum(one.vectors < 20 for one in index.stats().segments) <= 1
            assert len(index.stats().segments) <= 4
            assert len(index) == 140


def test_a_writer_waits_for_another_and_then_gives_up(built, encoder, monkeypatch):
    monkeypatch.setattr(storage, "_PATIENCE_SECONDS", 0.05)
    with storage.hold_lock(built.path / ".lock"):
        for change in (
            lambda: built.add([Document("x", "t")], encoder),
            lambda: built.delete(["d1"]),
        ):
            with pytest.raises(LockedError, match="is being written by"):
                change()
    assert sorted(name for name in os.listdir(built.path) if ".tmp" in name) == []
    built.add([Document("x", "t")], encoder)


def test_format_1_takes_changes_and_keeps_its_files(tmp_path, encoder_class):
    path = tmp_path / "old"
    shutil.copytree(FIXTURE, path)
    with Index.open(path) as index:
        old = {file: file.read_bytes() for file in (path / "gen-000001").iterdir()}
        vector = np.eye(index.info().dimension, dtype=np.float32)[:1]
        names = ids(index)
        for number in range(4):
            index.upsert(
                [Document(f"new{number}", "t"), Document(names[number], "t")], vectors=np.repeat(vector, 2, 0)
            )
            assert index.verify().ok
        index.delete(names[10:20])
        assert {file: file.read_bytes() for file in (path / "gen-000001").iterdir()} == old
        assert len(index) == len(names) + 4 - 10
        assert index.stats().segments[0].name == "gen-000001"
        assert index.compact()
        assert not index.stats().segments[0].name.startswith("gen-")
        assert index.compact(full=True)
        assert not (path / "gen-000001").exists()
        assert len(index) == len(names) + 4 - 10
        assert index.verify().ok


def test_a_manifest_names_what_is_there(changed):
    content = json.loads((changed / "gen-000004" / "manifest.json").read_text())
    assert [one["live"] for one in content["segments"]] == [171, 120, 10]
