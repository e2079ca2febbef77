"""A file that was hashed is not read again while it is the same file, and only then."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import relsdk.files.intact as module
from relsdk.files.intact import hash_and_remember, is_intact

STILL = 0.15  # seconds; more than a file must have been left alone


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty memory: of the process, and the user's."""
    monkeypatch.setattr(module, "_seen", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "relsdk" / "intact"


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    found = []
    read = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: found.append(path.name) or read(path))
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"right")
    time.sleep(STILL)
    return path


def forget(monkeypatch):
    monkeypatch.setattr(module, "_seen", set())


def test_a_right_file_is_read_once(file, reads, cache, monkeypatch):
    for _ in range(3):
        assert is_intact(file, sha256(b"right"))
    forget(monkeypatch)  # as another process begins
    assert is_intact(file, sha256(b"right"))
    assert reads == ["file"]
    assert [path.stat().st_size for path in cache.iterdir()] == [0]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_another_process_reads_it_no_more(file, cache):
    program = (
        "import sys, relsdk.files.intact as m; from pathlib import Path; read = m.file_sha256;"
        "m.file_sha256 = lambda path: print('read') or read(path);"
        f"print(m.is_intact(Path(sys.argv[1]), {sha256(b'right')!r}))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, file], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["read\nTrue\n", "True\n"]


def test_who_wrote_it_need_not_read_it_again(file, reads):
    assert hash_and_remember(file) == sha256(b"right")
    assert is_intact(file, sha256(b"right"))
    assert not is_intact(file, sha256(b"other"))  # it was right as something else
    assert reads == ["file", "file"]


def test_a_change_is_seen_though_size_and_time_are_put_back(file):
    assert is_intact(file, sha256(b"right"))
    times = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"WRONG")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert not is_intact(file, sha256(b"right"))


def test_a_copy_is_another_file(file, reads, tmp_path):
    assert is_intact(file, sha256(b"right"))
    copy = tmp_path / "copy"
    shutil.copy2(file, copy)
    assert is_intact(copy, sha256(b"right"))
    os.link(file, tmp_path / "link")  # the same file under another name, whose status changed
    assert is_intact(tmp_path / "link", sha256(b"right"))
    assert reads == ["file", "copy", "link"]


def test_a_wrong_file_is_never_remembered(file, cache):
    for _ in range(2):
        assert not is_intact(file, sha256(b"other"))
    hash_and_remember(file)
    assert not is_intact(file, sha256(b"other"))


def test_a_change_right_after_it_was_hashed_is_seen(tmp_path):
    """The file system's clock stands still for some milliseconds: what changes within them looks the same."""
    for number in range(200):
        path = tmp_path / f"{number}"
        path.write_bytes(b"right")
        assert is_intact(path, sha256(b"right"))
        with path.open("r+b") as stream:
            stream.write(b"WRONG")
        assert not is_intact(path, sha256(b"right"))


@pytest.mark.skipif(os.name == "nt", reason="the time of status change is another thing there")
@pytest.mark.parametrize(
    ("changed", "age", "kept"),
    [
        (1_700_000_000_123_000_000, 0.0, False),
        (1_700_000_000_123_000_000, 0.09, False),
        (1_700_000_000_123_000_000, 0.2, True),
        (1_700_000_000_123_000_000, -5.0, False),  # in the future
        (1_700_000_000_000_000_000, 1.5, False),  # a clock of whole seconds, or of two
        (1_700_000_000_000_000_000, 4.0, True),
    ],
)
def test_what_was_changed_just_before_is_not_remembered(file, reads, monkeypatch, changed, age, kept):
    stat = os.stat

    def aged(path, *arguments, **options):
        found = stat(path, *arguments, **options)
        if path != file:
            return found
        names = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
        return SimpleNamespace(**{name: getattr(found, name) for name in names}, st_ctime_ns=changed)

    monkeypatch.setattr(os, "stat", aged)
    monkeypatch.setattr(module.time, "time_ns", lambda: changed + int(age * 1e9))
    for _ in range(2):
        assert is_intact(file, sha256(b"right"))
    assert reads == ["file"] * (1 if kept else 2)


@pytest.mark.parametrize("where", ["a file", "missing home", "of somebody else", "relative"])
def test_nothing_fails_where_nothing_can_be_kept(file, reads, tmp_path, monkeypatch, where):
    if where == "a file":
        (tmp_path / "cache").write_text("")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        if where == "relative":
            monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        if where == "of somebody else":
            (tmp_path / "home").mkdir()
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for _ in range(2):
        assert is_intact(file, sha256(b"right"))
    forget(monkeypatch)
    assert is_intact(file, sha256(b"right"))
    assert reads == ["file", "file"]
    assert not list(tmp_path.rglob("home/*"))


def test_a_mark_of_somebody_else_counts_for_nothing(file, reads, cache, monkeypatch):
    is_intact(file, sha256(b"right"))
    forget(monkeypatch)
    (mark,) = cache.iterdir()
    mark.unlink()
    mark.symlink_to("/dev/null")
    assert is_intact(file, sha256(b"right"))
    assert reads == ["file", "file"]


def test_marks_are_bounded(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "_MOST_MARKS", 10)
    files = [tmp_path / f"{number}" for number in range(25)]
    for path in files:
        path.write_bytes(b"right")
    time.sleep(STILL)
    for path in files:
        hash_and_remember(path)
        assert len(list(cache.iterdir())) <= 10
    forget(monkeypatch)
    assert module._is_known(module._key(files[-1].stat(), sha256(b"right")))
