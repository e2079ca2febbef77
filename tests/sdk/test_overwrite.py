"""SIGKILL at every step of replacing a bundle: the old or the new one opens whole, and nothing is left."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import relsdk.files.folders
from relsdk import Embedder
from relsdk.bundle import read_bundle
from relsdk.errors import BundleError, InputError, LockedError, RelsdkError
from relsdk.files.folders import remove_leftovers, restore_folder, staged_folder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
OLD, NEW = FIXTURES / "encoder-bundle-v1", FIXTURES / "scorer-bundle-v1"

# Runs in one process that forks a child for each point of death: importing once is what takes long.
SCRIPT = """
import json, os, shutil, signal, sys
from pathlib import Path
import relsdk.files.folders as folders

old, new, out = map(Path, sys.argv[1:])
copy = lambda source, target: shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)

def write(target, point, wanted, exchanging):
    calls = 0
    where = folders if point == "exchange" else os
    function = getattr(where, point)
    def die_or_go(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    if not exchanging:
        folders.exchange = lambda *_: False
    with folders.staged_folder(target, marker="relsdk.json", overwrite=True) as staging:
        copy(new, staging)
        setattr(where, point, die_or_go)
    return calls

def in_child(*arguments):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(min(write(*arguments), 200))
        except BaseException:
            os._exit(255)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

scenarios = []
for exchanging in (True, False):
    for point in ("fsync", "rename", "exchange", "rmdir", "unlink"):
        def fresh(name):
            folder = out / f"{exchanging}-{point}-{name}"
            folder.mkdir()
            copy(old, folder / "b")
            return folder / "b"
        count = 0 if point == "exchange" and not exchanging else in_child(fresh("dry"), point, 0, exchanging)
        for wanted in range(1, count + 1):
            code = in_child(fresh(str(wanted)), point, wanted, exchanging)
            scenarios.append([exchanging, point, f"{exchanging}-{point}-{wanted}/b", code])
json.dump(scenarios, open(out / "scenarios.json", "w"))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    out = tmp_path_factory.mktemp("killed")
    for name, source in (("old", OLD), ("new", NEW)):  # one file system, so that copies can be links
        shutil.copytree(source, out / "sources" / name)
    command = [sys.executable, "-c", SCRIPT, out / "sources" / "old", out / "sources" / "new", out]
    subprocess.run(command, check=True, timeout=120)
    return out, json.loads((out / "scenarios.json").read_text())


def kind_of(path):
    bundle = read_bundle(path)
    bundle.check_hashes()
    return bundle.kind


def test_every_point_was_reached(killed):
    _, scenarios = killed
    assert {code for *_, code in scenarios} == {-9}
    reached = {(exchanging, point) for exchanging, point, *_ in scenarios}
    expected = {"fsync", "rename", "rmdir", "unlink"}
    assert {point for exchanging, point in reached if not exchanging} == expected
    assert {point for exchanging, point in reached if exchanging} >= expected - {"rename"}


def test_the_old_or_the_new_bundle_is_there_and_whole(killed):
    out, scenarios = killed
    seen, absent = [], 0
    for exchanging, _, name, _ in scenarios:
        absent += not (out / name).exists()
        assert not exchanging or (out / name).exists(), name  # an exchange has no moment without one
        seen.append(kind_of(out / name))  # what was set aside is found by who reads
    assert absent == 1  # between the two renames
    assert min(seen.count("encoder"), seen.count("scorer")) > 10


def test_the_next_writer_removes_what_was_left_before_it_begins(killed):
    out, scenarios = killed
    left = 0
    for _, _, name, _ in scenarios:
        target = out / name
        left += len(os.listdir(target.parent)) - 1
        with staged_folder(target, marker="relsdk.json", overwrite=True) as staging:
            assert sorted(os.listdir(target.parent)) == sorted([".b.lock", staging.name, "b"])
            shutil.copytree(NEW, staging, dirs_exist_ok=True)
        assert os.listdir(target.parent) == ["b"]
        assert kind_of(target) == "scorer"
    assert left > 20


@pytest.fixture
def set_aside(tmp_path):
    """As a kill between two renames leaves it."""
    shutil.copytree(OLD, tmp_path / ".b.old-0a1b2c3d")
    shutil.copytree(NEW, tmp_path / ".b.new-0a1b2c3d")
    return tmp_path / "b"


def test_the_next_writer_puts_the_old_bundle_back_first(set_aside):
    with (
        pytest.raises(InputError, match="pass --overwrite"),
        staged_folder(set_aside, marker="relsdk.json"),
    ):
        pass
    assert os.listdir(set_aside.parent) == ["b"]
    assert kind_of(set_aside) == "encoder"


def test_what_a_version_before_set_aside_is_found_too(tmp_path):
    shutil.copytree(OLD, tmp_path / ".b.old-abc_1234" / "folder")
    (tmp_path / ".b.old-empty678").mkdir()
    assert kind_of(tmp_path / "b") == "encoder"
    remove_leftovers(tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]


def test_a_reader_that_may_not_write_says_where_the_old_one_is(set_aside, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(RelsdkError, match=r"is not there: .* is in .*\.b\.old-0a1b2c3d; rename that"):
        read_bundle(set_aside)


def test_a_reader_waits_for_a_living_writer_and_takes_nothing_from_it(set_aside, monkeypatch):
    with relsdk.files.folders.hold_lock(set_aside.parent / ".b.lock"):
        monkeypatch.setattr(
            relsdk.files.folders.time,
            "sleep",
            lambda _: (set_aside.parent / ".b.new-0a1b2c3d").rename(set_aside),
        )
        assert kind_of(set_aside) == "scorer"
        assert (set_aside.parent / ".b.old-0a1b2c3d").is_dir()


def test_a_folder_that_was_never_there_is_missing_and_nothing_is_made(tmp_path):
    restore_folder(tmp_path / "b")
    with pytest.raises(BundleError, match="is not a folder"):
        read_bundle(tmp_path / "b")
    assert os.listdir(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from relsdk.files.folders import staged_folder
with staged_folder(Path(sys.argv[1]), marker="x") as staging:
    (staging / "x").write_text("1")
    print("holding", flush=True)
    sys.stdin.readline()
"""


def test_two_writers(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "b")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holding\n"
        with (
            pytest.raises(LockedError, match="is being written by another process"),
            staged_folder(tmp_path / "b", marker="x"),
        ):
            pass
        remove_leftovers(tmp_path / "b")
        assert len(os.listdir(tmp_path)) == 2  # its lock and what it writes
        holder.communicate("\n")
        assert holder.returncode == 0
    assert os.listdir(tmp_path) == ["b"]
    assert os.listdir(tmp_path / "b") == ["x"]


def test_a_link_to_a_folder_is_replaced_and_what_it_points_to_stays(tmp_path):
    shutil.copytree(OLD, tmp_path / "real")
    (tmp_path / "b").symlink_to("real")
    with staged_folder(tmp_path / "b", marker="relsdk.json", overwrite=True) as staging:
        shutil.copytree(NEW, staging, dirs_exist_ok=True)
    assert (kind_of(tmp_path / "b"), kind_of(tmp_path / "real")) == ("scorer", "encoder")
    assert sorted(os.listdir(tmp_path)) == ["b", "real"]


def test_everything_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda *paths: (done.append("rename"), rename(*paths)))
    with staged_folder(tmp_path / "a" / "b", marker="x") as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model").write_text("1")
    at = done.index("rename")
    assert done[:at] == [str(staging / "onnx" / "model"), str(staging / "onnx"), str(staging)]
    assert done[at + 1 :] == [str(tmp_path / "a"), str(tmp_path)]  # the folder made for it, too


def test_a_file_that_is_loaded_after_an_overwrite_is_refused(tmp_path):
    shutil.copytree(FIXTURES / "tower-bundle-v1", tmp_path / "b")
    loaded, late = (Embedder(tmp_path / "b", variant="fp32") for _ in range(2))
    before = loaded.encode_document(["红烧肉"])
    with staged_folder(tmp_path / "b", marker="relsdk.json", overwrite=True) as staging:
        shutil.copytree(OLD, staging, dirs_exist_ok=True)
    assert (loaded.encode_document(["红烧肉"]) == before).all()
    with pytest.raises(BundleError, match="no longer the file that this model was opened with"):
        late.encode_document(["红烧肉"])


def test_who_opens_a_bundle_while_it_is_overwritten_gets_the_old_or_the_new_one(tmp_path):
    bundles = [FIXTURES / name for name in ("encoder-bundle-v1", "tower-bundle-v1")]
    wanted = {}
    for bundle in bundles:
        embedder = Embedder(bundle, variant="fp32")
        wanted[embedder.fingerprint] = embedder.encode_query("红烧肉").tolist()
    assert len(wanted) == 2
    target = tmp_path / "b"
    shutil.copytree(bundles[0], target)

    def overwrite():
        for turn in range(1, 31):
            with staged_folder(target, marker="relsdk.json", overwrite=True) as staging:
                shutil.copytree(bundles[turn % 2], staging, dirs_exist_ok=True)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(overwrite)
        while not writer.done():
            opened = Embedder(target, variant="fp32")
            assert opened.encode_query("红烧肉").tolist() == wanted[opened.fingerprint]
        writer.result()
