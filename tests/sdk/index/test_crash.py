"""SIGKILL at steps of a change (slow tests: at all): all of it is there or nothing; the next cleans up."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import Index
from relsdk.records import Document

# Runs in one process that forks a child for each point of death: importing once is what takes long.
SCRIPT = """
import json, os, pathlib, shutil, signal, sqlite3, sys
import numpy as np
from relsdk.index import Index, _changes, _segment_writer
from relsdk.records import Document

_changes.GRAPH_ROWS = _segment_writer.GRAPH_ROWS = 30
out = sys.argv[1]

class Encoder:
    name, fingerprint, dimension = "e", "e", 8
    def encode_document(self, inputs):
        seeds = [int(one.id[1:]) + 1000 * (one.id[0] == "n") for one in inputs]
        rows = np.stack([np.random.default_rng(s).standard_normal(8) for s in seeds]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def documents(prefix, count, start=0, title="title"):
    return [Document(f"{prefix}{i}", f"{title} {i}", metadata={"i": i}) for i in range(start, start + count)]

def build(path, prefix="n", count=40, progress=None):
    Index.build(path, documents(prefix, count), Encoder(), overwrite=True, chunk_size=16, num_threads=1,
                on_progress=progress).close()

def change(act):
    def run(path, progress):
        with Index.open(path) as index:
            act(index, {"num_threads": 1, "on_progress": progress})
    return run

CHANGES = {
    "over": lambda path, progress: build(path, progress=progress),
    "first": lambda path, progress: build(path, progress=progress),
    "add": change(lambda index, options: index.add(documents("n", 5), Encoder(), **options)),
    "upsert": change(lambda index, options: index.upsert(documents("o", 40, 10, "b"), Encoder(), **options)),
    "delete": change(lambda index, _: index.delete(where={"i": {"lt": 8}})),
    "compact": change(lambda index, options: index.compact(full=True, **options)),
}
POINTS = ["mkdir", "fsync", "rename", "replace", "rmdir", "unlink", "progress"]

def run(change, path, point, wanted, after):
    calls = dict.fromkeys(POINTS, 0)
    def die_or_go(name, function):
        def wrapped(*args, **kwargs):
            named = args[0] if args and isinstance(args[0], (str, os.PathLike)) else path
            if os.path.isabs(named) and path not in str(named):
                return function(*args, **kwargs)  # a mark in the user's cache: on a slow machine only
            calls[name] += 1
            if (name, calls[name], False) == (point, wanted, after):
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*args, **kwargs)
            finally:
                if (name, calls[name], True) == (point, wanted, after):
                    os.kill(os.getpid(), signal.SIGKILL)
        return wrapped
    accessor = getattr(pathlib, "_NormalAccessor", None)  # where Python 3.10's paths keep what os had
    for name in POINTS[:-1]:
        dying = die_or_go(name, getattr(os, name))
        setattr(os, name, dying)
        if hasattr(accessor, name):
            setattr(accessor, name, staticmethod(dying))
    CHANGES[change](path, die_or_go("progress", lambda *_: None))
    return calls

def in_child(*arguments):
    pid = os.fork()
    if pid == 0:
        try:
            calls = run(*arguments)
            with open(f"{out}/calls.json", "w") as file:
                json.dump(calls, file)
            os._exit(0)
        except BaseException:
            os._exit(255)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

base = f"{out}/base"
build(base, "o", 60)
with Index.open(base) as index:  # a graph with dead documents, another one, and a tail
    index.add(documents("o", 35, 60), Encoder())
    index.delete([f"o{i}" for i in range(0, 60, 3)])
    index.add(documents("o", 10, 95), Encoder())
scenarios = []
for number, change in enumerate(CHANGES):
    def fresh(name):
        path = f"{out}/{change}-{name}"
        if change != "first":
            shutil.copytree(base, path)
        return path
    assert in_child(change, fresh("dry"), None, 0, None) == 0
    calls = json.load(open(f"{out}/calls.json"))
    deaths = []
    for point, count in calls.items():
        for wanted in range(1, count + 1, 2 if point == "fsync" else 1):  # it changes nothing by itself
            for after in (False, True) if point in ("rename", "replace") else (False,):
                deaths.append((point, wanted, after))
    if sys.argv[2] == "some":  # around what commits, and others of each change
        commits = [death for death in deaths if death[0] == "replace"]
        deaths = [commits[0], commits[-1], *[death for death in deaths if death not in commits][number::5]]
    for point, wanted, after in deaths:
        name = f"{point}-{wanted}-{after}"
        code = in_child(change, fresh(name), point, wanted, after)
        scenarios.append([change, point, f"{change}-{name}", code])
json.dump(scenarios, open(f"{out}/scenarios.json", "w"))
"""
CHANGES = ["over", "first", "add", "upsert", "delete", "compact"]


class Encoder:
    name, fingerprint, dimension = "e", "e", 8

    def encode_document(self, inputs):
        return np.tile(np.eye(8, dtype=np.float32)[0], (len(inputs), 1))


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def points(request):
    """How many points of death."""
    return request.param


@pytest.fixture(scope="module")
def crashed(points, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashed")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", SCRIPT, str(folder), points]
    subprocess.run(command, check=True, timeout=240, env=environment)
    return folder, json.loads((folder / "scenarios.json").read_text())


def answers(path):
    """Everything that is there, and what is found."""
    with Index.open(path) as index:
        report = index.verify()
        assert report.ok, report
        queries = np.random.default_rng(7).standard_normal((5, 8)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        hits = [[(hit.document, hit.score) for hit in hits] for hits in index.search(queries, 5)]
        return list(index.documents()), hits


def current(path):
    return (path / "CURRENT").read_text().strip() if (path / "CURRENT").exists() else None


def test_every_point_was_reached(crashed, points):
    _, scenarios = crashed
    assert {code for *_, code in scenarios} == {-9}
    everywhere = {"mkdir", "fsync", "rename", "replace", "rmdir", "unlink"}
    if points == "some":
        assert {point for _, point, *_ in scenarios} >= everywhere
        return
    for change in CHANGES:
        reached = {point for begun, point, *_ in scenarios if begun == change}
        assert reached >= everywhere - ({"rmdir", "unlink"} if change == "first" else set()), change


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "first"])
def test_killed_while_an_index_is_changed(crashed, points, change):
    folder, scenarios = crashed
    old, new = answers(folder / "base"), answers(folder / f"{change}-dry")
    assert (old[0] != new[0]) or change == "compact"
    seen = {"old": 0, "new": 0}
    for begun, _, name, _ in scenarios:
        if begun != change:
            continue
        path = folder / name
        which = "old" if current(path) == current(folder / "base") else "new"
        seen[which] += 1
        assert answers(path) == {"old": old, "new": new}[which], name
    assert min(seen.values()) > (3 if points == "all" else 0)


def test_killed_first_build(crashed, points):
    folder, scenarios = crashed
    new = answers(folder / "first-dry")
    unfinished = 0
    for change, _, name, _ in scenarios:
        if change != "first":
            continue
        path = folder / name
        if current(path):
            assert answers(path) == new, name
        else:
            unfinished += 1
            with pytest.raises(IndexFolderError, match=r"no finished index|does not exist|no file CURRENT"):
                Index.open(path)
    assert unfinished > (3 if points == "all" else 0)


@pytest.mark.parametrize("change", CHANGES)
def test_next_change_takes_over_and_cleans_up(crashed, tmp_path, change):
    folder, scenarios = crashed
    for begun, _, name, _ in scenarios:
        if begun != change:
            continue
        path, before = tmp_path / name, current(folder / name)
        if (folder / name).exists():
            shutil.copytree(folder / name, path)
        if before:
            with Index.open(path) as index:
                count = len(index)
                index.add([Document("z", "last")], Encoder())
        else:
            count = 0
            Index.build(path, [Document("z", "last")], Encoder()).close()
        with Index.open(path) as index:
            assert len(index) == count + 1
            assert index.verify().ok
        generations = {current(path), before} - {None}
        left = set(os.listdir(path)) - {".lock"}
        assert left == {".writer", "CURRENT", "segments"} | generations, name
        manifests = [json.loads((path / one / "manifest.json").read_text()) for one in generations]
        named = {segment["folder"] for manifest in manifests for segment in manifest["segments"]}
        assert {f"segments/{one}" for one in os.listdir(path / "segments")} == named, name


@pytest.mark.parametrize("change", ["over", "first"])
def test_leftovers_are_gone_before_the_next_build_begins(crashed, points, tmp_path, change):
    """Also one that fails: a full disk would never recover otherwise."""
    folder, scenarios = crashed
    removed = 0
    for begun, _, name, _ in scenarios:
        path, before = tmp_path / name, current(folder / name)
        if begun != change or not (folder / name).exists():
            continue
        shutil.copytree(folder / name, path)
        there, seen = set(os.listdir(path)), []

        def documents(path=path, seen=seen):
            seen.append(set(os.listdir(path)))
            raise RuntimeError("the input ends")
            yield

        with pytest.raises(RuntimeError, match="the input ends"):
            Index.build(path, documents(), Encoder(), overwrite=True)
        now = {entry for entry in seen[0] if not entry.startswith((".tmp-part-", "gen-"))}
        assert now == {".lock", ".writer"} | ({"CURRENT", "segments"} if before else set()), name
        assert len([entry for entry in seen[0] if entry.startswith("gen-")]) == (
            {"over": 2, "first": 1}[change] if before else 0
        )
        assert len([entry for entry in seen[0] if entry.startswith(".tmp-part-")]) == 2  # a folder, its lock
        assert set(os.listdir(path)) == {entry for entry in seen[0] if before and ".tmp-" not in entry}
        removed += bool(there - seen[0])
    assert removed > (5 if points == "all" else 0)
