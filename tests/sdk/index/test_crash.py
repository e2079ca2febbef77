"""SIGKILL at every step of a build: the last committed generation stays, and the next build cleans up."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from relsdk.errors import IndexFolderError
from relsdk.index import Index

# Runs in one process that forks a child for each point of death: importing once is what takes long.
SCRIPT = """
import json, os, pathlib, shutil, signal, sqlite3, sys
import numpy as np
from relsdk.index import Index
from relsdk.records import Document

base, out = sys.argv[1], sys.argv[2]

class Encoder:
    name, fingerprint, dimension = "e", "e", 8
    def encode_document(self, inputs):
        seeds = [int(one.id[1:]) + 1000 * (one.id[0] == "n") for one in inputs]
        rows = np.stack([np.random.default_rng(s).standard_normal(8) for s in seeds]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def documents(prefix, count):
    return (Document(f"{prefix}{i}", f"title {i}", metadata={"i": i}) for i in range(count))

def build(path, prefix="n", count=40, progress=None):
    Index.build(path, documents(prefix, count), Encoder(), overwrite=True, chunk_size=16, num_threads=1,
                on_progress=progress).close()

POINTS = ["mkdir", "fsync", "rename", "replace", "rmdir", "unlink", "progress"]

def run(path, point, wanted, after):
    calls = 0
    def die_or_go(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            named = args[0] if isinstance(args[0], (str, os.PathLike)) else path
            if os.path.isabs(named) and path not in str(named):
                return function(*args, **kwargs)  # a mark in the user's cache: on a slow machine only
            calls += 1
            if calls == wanted and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*args, **kwargs)
            finally:
                if calls == wanted and after:
                    os.kill(os.getpid(), signal.SIGKILL)
        return wrapped
    progress = die_or_go(lambda *_: None) if point == "progress" else None
    if point != "progress":
        dying = die_or_go(getattr(os, point))
        setattr(os, point, dying)
        accessor = getattr(pathlib, "_NormalAccessor", None)  # where Python 3.10's paths keep what os had
        if hasattr(accessor, point):
            setattr(accessor, point, staticmethod(dying))
    build(path, progress=progress)
    return calls

def in_child(path, point, wanted, after):
    pid = os.fork()
    if pid == 0:
        try:
            calls = run(path, point, wanted, after)
            os._exit(min(calls, 200))
        except BaseException:
            os._exit(255)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

build(f"{out}/base", "o", 60)
scenarios = []
for start in ("over", "first"):
    for point in POINTS:
        def fresh(name):
            path = f"{out}/{start}-{name}"
            if start == "over":
                shutil.copytree(f"{out}/base", path)
            return path
        count = in_child(fresh(f"{point}-dry"), point, 0, False)
        for wanted in range(1, count + 1):
            for after in (False, True):
                name = f"{point}-{wanted}-{after}"
                code = in_child(fresh(name), point, wanted, after)
                scenarios.append([start, point, f"{start}-{name}", code])
json.dump(scenarios, open(f"{out}/scenarios.json", "w"))
"""


class Encoder:
    name, fingerprint, dimension = "e", "e", 8

    def encode_document(self, inputs):
        return np.tile(np.eye(8, dtype=np.float32)[0], (len(inputs), 1))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashed")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    subprocess.run([sys.executable, "-c", SCRIPT, "-", str(folder)], check=True, timeout=120, env=environment)
    return folder, json.loads((folder / "scenarios.json").read_text())


def answers(path):
    with Index.open(path) as index:
        report = index.verify()
        assert report.ok, report
        queries = np.random.default_rng(7).standard_normal((5, 8)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        return [[(hit.document.id, hit.score) for hit in hits] for hits in index.search(queries, 5)]


def test_every_point_was_reached(crashed):
    _, scenarios = crashed
    assert {code for *_, code in scenarios} == {-9}
    for start in ("over", "first"):
        points = {point for begun, point, *_ in scenarios if begun == start}
        assert points >= {"mkdir", "fsync", "rename", "replace", "progress"}
    assert {"rmdir", "unlink"} <= {point for begun, point, *_ in scenarios if begun == "over"}


def test_killed_over_an_index(crashed):
    folder, scenarios = crashed
    old, new = answers(folder / "base"), answers(folder / "over-fsync-dry")
    assert old != new
    seen = {"old": 0, "new": 0}
    for start, _, name, _ in scenarios:
        if start != "over":
            continue
        path = folder / name
        current = (path / "CURRENT").read_text()
        wanted = old if current == "gen-000001\n" else new
        seen["old" if wanted is old else "new"] += 1
        assert answers(path) == wanted, name
    assert min(seen.values()) > 3


def test_killed_first_build(crashed):
    folder, scenarios = crashed
    new = answers(folder / "first-fsync-dry")
    unfinished = 0
    for start, _, name, _ in scenarios:
        if start != "first":
            continue
        path = folder / name
        if (path / "CURRENT").exists():
            assert answers(path) == new, name
        else:
            unfinished += 1
            with pytest.raises(IndexFolderError, match=r"no finished index|does not exist|no file CURRENT"):
                Index.open(path)
    assert unfinished > 3


def test_next_build_takes_over_and_cleans_up(crashed, document_factory, tmp_path):
    folder, scenarios = crashed
    for start, _, name, _ in scenarios:
        path = tmp_path / name
        if (folder / name).exists():
            shutil.copytree(folder / name, path)
        finished = (path / "CURRENT").exists()
        with Index.build(path, document_factory(5), Encoder(), overwrite=finished) as index:
            assert len(index) == 5
            generation = index.info().generation
        left = set(os.listdir(path)) - {".lock"}
        assert left == {".writer", "CURRENT", generation}, (start, name)


def test_leftovers_are_gone_before_the_next_build_begins(crashed, tmp_path):
    """Also one that fails: a full disk would never recover otherwise."""
    folder, scenarios = crashed
    removed = 0
    for start, _, name, _ in scenarios:
        path = tmp_path / name
        if not (folder / name).exists():
            continue
        shutil.copytree(folder / name, path)
        current = (path / "CURRENT").read_text().strip() if (path / "CURRENT").exists() else None
        before = set(os.listdir(path))
        seen = []

        def documents(path=path, seen=seen):
            seen.append(set(os.listdir(path)))
            raise RuntimeError("the input ends")
            yield

        with pytest.raises(RuntimeError, match="the input ends"):
            Index.build(path, documents(), Encoder(), overwrite=True)
        wanted = {".lock", ".writer"} | ({"CURRENT", current} if current else set())
        assert {entry for entry in seen[0] if not entry.startswith(".tmp-gen-")} == wanted, (start, name)
        assert len(seen[0] - wanted) == 1  # what is written now
        assert set(os.listdir(path)) == (wanted if current else set())
        removed += bool(before - wanted)
    assert removed > 10
