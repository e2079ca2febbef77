"""Files appear whole or not at all, through no link, and what a killed writer left goes."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from relsdk.errors import InputError, LockedError, RelsdkError
from relsdk.files.atomic import exchange, hold_lock, output_file, replaced_file
from relsdk.files.folders import check_file_target, write_file_atomically


def test_a_link_is_replaced_and_its_file_untouched(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "x").symlink_to("thesis")
    write_file_atomically(tmp_path / "x", "ours")
    assert (tmp_path / "thesis").read_text() == "mine"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_text() == "ours"


def test_a_named_output_is_written_where_its_link_points(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "x").symlink_to("real")
    with output_file(tmp_path / "x") as stream:
        stream.write(b"new")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    (tmp_path / "later").symlink_to("not there yet")
    with output_file(tmp_path / "later") as stream:
        stream.write(b"new")
    assert (tmp_path / "not there yet").read_text() == "new"


def test_a_pipe_is_written_as_it_is():
    code = "from relsdk.files.atomic import output_file\nwith output_file('/dev/stdout') as s: s.write(b'x')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"x"
    check_file_target(Path("/dev/null"))
    check_file_target(Path("/dev/null"), endings=(".json",))


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail():
        with replaced_file(tmp_path / "x") as stream:
            stream.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_the_mode_is_kept_and_a_new_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_file_atomically(tmp_path / "new", "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    write_file_atomically(tmp_path / "new", "2")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


@pytest.mark.parametrize("length", [255, 240, 1])
def test_a_long_name_has_room_for_what_is_aside(tmp_path, length):
    path = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    write_file_atomically(path, "1")
    assert path.read_text() == "1"
    with pytest.raises(RelsdkError, match="File name too long"):
        write_file_atomically(tmp_path / ("x" * 256), "1")


WRITER = """
import os, signal, sys
from pathlib import Path
from relsdk.files.atomic import replaced_file
with replaced_file(Path(sys.argv[1])) as stream:
    stream.write(b"half"); stream.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    (tmp_path / ".x.original").write_text("of an editor")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "x")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as dead, subprocess.Popen(command, **pipes) as living:
        assert dead.stdout.readline() == living.stdout.readline() == "writing\n"
        assert len(os.listdir(tmp_path)) == 3
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        write_file_atomically(tmp_path / "x", "whole")
        assert len(os.listdir(tmp_path)) == 3  # x, the editor's, the living one's
        living.communicate("\n")
        assert living.returncode == 0
    assert (tmp_path / "x").read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == [".x.original", "x"]


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_a_lock_is_a_regular_file(tmp_path, kind):
    path, victim = tmp_path / ".lock", tmp_path / "victim"
    if kind != "dangling":
        victim.write_text("mine")
    if kind in ("link", "dangling"):
        path.symlink_to("victim")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(RelsdkError, match="is a link or no regular file"):
        hold_lock(path)
    assert victim.read_text() == "mine" if kind != "dangling" else not victim.exists()


def test_one_holder_at_a_time_also_when_the_file_is_removed(tmp_path):
    path = tmp_path / "lock"
    with hold_lock(path) as first:
        with pytest.raises(LockedError):
            hold_lock(path)
        first.release(remove=True)
    assert not path.exists()
    with hold_lock(path):
        pass


COUNT = """
import sys
from pathlib import Path
from pathlib import Path
from relsdk.files.atomic import hold_lock
counter = Path(sys.argv[1])
for _ in range(100):
    with hold_lock(Path(sys.argv[2]), wait=True) as lock:
        counter.write_text(str(int(counter.read_text()) + 1))
        lock.release(remove=True)
"""


def test_removing_a_lock_file_lets_no_two_in(tmp_path):
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "counter"), str(tmp_path / "lock")]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert (tmp_path / "counter").read_text() == "400"


def test_two_folders_are_exchanged(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange")
    assert os.listdir(tmp_path / "a") == ["b"]
    assert not exchange(tmp_path / "a", tmp_path / "absent")


ROOT = Path(__file__).resolve().parents[2]
# Beside the room `files`: generations and stages, whose move is their commit; a file inside staging.
RENAME = {"_storage.py", "stage_runner.py", "optimum.py"}
# What they write is inside a staging folder, a generation or a stage under way; engine/_log.py appends.
WRITE = {
    *(
        "bundle/writing.py",
        "bundle/golden.py",
        "bundle/layout.py",
        "bundle/_json_files.py",
        "bundle/_dense.py",
    ),
    *("relsdk_sample/files.py", "index/_duplicate_vectors.py", "index/_vectors.py", "index/_manifest.py"),
    *(
        "index/_changes.py",
        "index/_passages.py",
        "index/_codes.py",
        "index/_hybrid_file.py",
        "index/_columns_writer.py",
    ),
    "index/_postings_writer.py",
    *(
        "relsdk_export/backbones/pull.py",
        "relsdk_training/engine/checkpoint.py",
        "relsdk_training/runs/average.py",
    ),
    *("relsdk_training/engine/_log.py", "query_models/writer.py"),
}
PACKAGES = (
    *("sdk/relsdk", "export/relsdk_export", "training/relsdk_training", "training/relsdk_checkpoint"),
    "examples/relsdk_sample",
)
RENAMES = re.compile(
    r"os\.(replace|rename|link|symlink)\(|\.rename\(|mkstemp|mkdtemp|NamedTemporary|FileLock"
)
WRITES = re.compile(
    r"open\([^)]*\"[wax]b?\"|\.write_text\(|\.write_bytes\(|shutil\.(copyfile|copy|move)\(| save_file\("
)


def test_every_write_goes_through_one_place():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.parent.name == "files":
                continue
            text = path.read_text(encoding="utf-8")
            assert path.name in RENAME or not RENAMES.search(text), path
            known = any(path.as_posix().endswith(f"/{name}") for name in WRITE)
            assert known or not WRITES.search(text), (
                f"{path}: use output_file, replaced_file or staged_folder"
            )


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a", "a.json.gz", "a.gz"])
def test_endings_that_are_let_through(tmp_path, name):
    check_file_target(tmp_path / name, endings=(".json", ".gz"))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.b"])
def test_the_ending_of_another_format_is_refused(tmp_path, name):
    check_file_target(tmp_path / name)
    with pytest.raises(InputError, match=r"is not the format .*; end the name with \.json, \.gz"):
        check_file_target(tmp_path / name, endings=(".json", ".gz"))
    with pytest.raises(InputError, match="is not the format"):
        check_file_target(tmp_path / "a.json.gz", endings=(".json",))
