"""A real disk of a few megabytes, in a namespace of its own: full, and full of what a killed writer left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'

PRELUDE = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from relsdk import Index
from relsdk.index import IndexConfig
from relsdk.errors import RelsdkError
from relsdk.files.atomic import output_file, replaced_file
from relsdk.files.folders import staged_folder
from relsdk.records import Document

disk = Path(sys.argv[1])
MB = 1 << 20

class Encoder:
    name, fingerprint, dimension = "e", "e", 256
    def encode_document(self, inputs):
        rows = np.random.default_rng(len(inputs)).standard_normal((len(inputs), 256)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def build(count, progress=None):
    documents = (Document(f"d{i}", f"title {i}") for i in range(count))
    options = {"config": IndexConfig(kind="flat"), "overwrite": True, "on_progress": progress}
    with Index.build(disk / "i", documents, Encoder(), **options) as index:
        assert index.verify().ok
        return len(index)

def export(size):
    with staged_folder(disk / "b", marker="x", overwrite=True) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model").write_bytes(bytes(size))
        (staging / "x").touch()
        yield

def whole_export(size):
    list(export(size))
    return (disk / "b" / "onnx" / "model").stat().st_size

def write(size):
    with output_file(disk / "f") as stream:
        stream.write(bytes(size))
        stream.flush()
        yield

def whole_write(size):
    list(write(size))
    return (disk / "f").stat().st_size

def killed(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def begun(steps):
    next(steps)
    die()

def refused(work):
    try:
        work()
    except (RelsdkError, OSError) as error:
        return str(error)
    return "it went through"

def free():
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize

said = {}
"""

# Each leaves more than half of the disk behind, and then needs more than half of it.
KILLED = """
said["index"] = [build(100)]
killed(lambda: build(4000, lambda stage, done: done >= 3072 and die()))
said["left"] = 6 * MB - free()
said["index"].append(build(4000))
import shutil; shutil.rmtree(disk / "i")

said["bundle"] = [whole_export(MB // 2)]
killed(lambda: begun(export(3 * MB)))
said["bundle"].append(whole_export(4 * MB))
shutil.rmtree(disk / "b")

said["file"] = [whole_write(MB // 2)]
killed(lambda: begun(write(3 * MB)))
said["file"].append(whole_write(4 * MB))
print(json.dumps(said))
"""

FULL = """
build(100); whole_export(MB // 4); whole_write(MB // 4)
before = free()
said["index"] = refused(lambda: build(8000))
said["bundle"] = refused(lambda: whole_export(8 * MB))
said["file"] = refused(lambda: whole_write(8 * MB))
said["lost"] = before - free()
with Index.open(disk / "i") as index:
    said["documents"], said["ok"] = len(index), index.verify().ok
said["kept"] = [(disk / "b" / "onnx" / "model").stat().st_size, (disk / "f").stat().st_size]
said["names"] = sorted(os.listdir(disk)) + sorted(os.listdir(disk / "i"))

(disk / "filler").write_bytes(bytes(free()))  # no byte is left
said["not a byte"] = [refused(lambda: build(100)), refused(lambda: whole_export(1))]
said["not a byte"].append(refused(lambda: whole_write(1)))
(disk / "filler").unlink()
said["again"] = [build(200), whole_export(7), whole_write(7)]
print(json.dumps(said))
"""

CHANGES = """
build(100)
index = Index.open(disk / "i")
def changes(count):
    documents = [Document(f"n{i}", "more") for i in range(count)]
    vectors = Encoder().encode_document(documents)
    return {
        "add": lambda: index.add(documents, vectors=vectors),
        "upsert": lambda: index.upsert(documents, vectors=vectors),
        "delete": lambda: index.delete(["d1", "d2"]),
        "compact": lambda: index.compact(full=True),
    }

def here():
    with Index.open(disk / "i") as other:
        assert other.verify().ok
        return [document.id for document in other.documents()]

def tidy():
    return sorted(name for name in os.listdir(disk / "i") if ".tmp" in name)

index.delete(["d0"])
wanted = here()
said["large"] = [refused(changes(8000)[name]) for name in ("add", "upsert")]
(disk / "filler").write_bytes(bytes(free()))  # no byte is left
said["not a byte"] = [refused(change) for change in changes(10).values()]
said["same"], said["left"] = here() == wanted, tidy()
(disk / "filler").unlink()

killed(lambda: Index.open(disk / "i").add(
    (Document(f"k{i}", "x") for i in range(100_000)),
    Encoder(),
    on_progress=lambda stage, done: done >= 2048 and die(),
))
said["killed"] = tidy() != [] and here() == wanted
(disk / "filler").write_bytes(bytes(max(free() - (64 << 10), 0)))
said["delete where a killed one left no room"] = index.delete(["d3"])
said["left then"] = tidy()
(disk / "filler").unlink()

import subprocess
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
wanted = here()
said["read-only"] = [refused(change) for change in changes(10).values()]
said["same on a read-only disk"] = here() == wanted
subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
said["again"] = [change() for change in changes(10).values()]
said["last"] = len(here())
print(json.dumps(said))
"""


@pytest.fixture
def on_small_disk(tmp_path):
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux and unshare")

    def run(program, size="6m"):
        inside = ["unshare", "-rm", "sh", "-c", MOUNT, "-", size, str(tmp_path)]
        if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
            pytest.skip("may not mount a disk of its own here")
        command = [*inside, sys.executable, "-c", PRELUDE + program, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_what_a_killed_writer_left_makes_room_before_the_next_one_begins(on_small_disk):
    said = on_small_disk(KILLED)
    assert said["left"] > 3 << 20
    assert said["index"] == [100, 4000]
    assert said["bundle"] == [1 << 19, 4 << 20]
    assert said["file"] == [1 << 19, 4 << 20]


def test_a_full_disk_is_said_in_one_line_and_nothing_is_lost(on_small_disk):
    said = on_small_disk(FULL)
    for kind in ("index", "bundle", "file"):
        assert "No space left on device" in said[kind] or "disk is full" in said[kind]
        assert "\n" not in said[kind]
    assert said["lost"] <= 64 << 10  # of the folders' own entries at most
    assert (said["documents"], said["ok"]) == (100, True)
    assert said["kept"] == [1 << 18, 1 << 18]
    assert said["names"] == ["b", "f", "i", ".lock", ".writer", "CURRENT", "gen-000001", "segments"]
    for answer in said["not a byte"]:
        assert "No space left on device" in answer or "disk is full" in answer, answer
    assert said["again"] == [200, 7, 7]


def test_changes_on_a_full_and_on_a_read_only_disk(on_small_disk):
    said = on_small_disk(CHANGES)
    for answer in (*said["large"], *said["not a byte"]):
        assert "No space left on device" in answer or "disk is full" in answer, answer
        assert "\n" not in answer
    assert said["same"]
    assert said["left"] == []
    assert said["killed"]
    assert said["delete where a killed one left no room"] == 1
    assert said["left then"] == []
    assert all("Read-only file system" in answer for answer in said["read-only"]), said["read-only"]
    assert said["same on a read-only disk"]
    assert said["again"] == [10, 10, 2, True]
    assert said["last"] == 100 - 2 + 10 - 2


def test_vectors_that_do_not_fit_leave_the_old_file(relsdk_on_small_disk, tmp_path):
    (tmp_path / "q.txt").write_text("红烧肉\n" * 1000)
    (tmp_path / "out.npy").write_bytes(b"old")
    bundle = str(FIXTURES / "encoder-bundle-v1")
    arguments = [bundle, str(tmp_path / "q.txt"), str(tmp_path / "out.npy"), "--overwrite"]
    code, _, err = relsdk_on_small_disk(20_000, "encode", *arguments)
    assert code == 2
    assert "cannot write" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == ["out.npy", "q.txt"]
    assert (tmp_path / "out.npy").read_bytes() == b"old"


@pytest.mark.parametrize("length", [256, 5000])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ["encode", "BUNDLE", "QUERIES", "OUT", "--as", "query"],
        ["index", "build", "OUT", "-m", "BUNDLE", "-i", "DOCUMENTS"],
        ["index", "export", "INDEX", "OUT"],
        ["index", "export", "INDEX", "/dev/null", "--vectors", "OUT"],
        ["eval", "BUNDLE", "PAIRS", "--output", "OUT"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_name_that_is_too_long_is_told_before_the_work(relsdk, tmp_path, command, inside, length):
    if command[0] == "encode":
        pytest.importorskip("pyarrow", reason="a folder of parts needs the extra parquet")
    out = tmp_path / ("x" * length)
    inputs = {"QUERIES": "红烧肉\n", "DOCUMENTS": '{"_id": "1", "title": "x"}\n', "PAIRS": "{}\n"}
    for name, text in inputs.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    words = {name: tmp_path / f"{name}.jsonl" for name in inputs}
    words |= {"BUNDLE": FIXTURES / "encoder-bundle-v1", "INDEX": FIXTURES / "index-v1"}
    words["OUT"] = out / "inside" if inside else out
    code, _, error = relsdk(*(words.get(word, word) for word in command))
    assert code == 2
    assert "File name too long" in error.splitlines()[-1]
    assert len(list(tmp_path.iterdir())) == len(inputs)
