import os

import pytest

from relsdk.errors import InputError, RelsdkError
from relsdk.files.folders import FileStamp, json_sha256, staged_folder, write_file_atomically


def test_a_finished_folder_takes_its_place(tmp_path):
    with staged_folder(tmp_path / "a" / "b", marker="x") as staging:
        (staging / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_folder_leaves_what_was_there(tmp_path, error):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")

    def fail():
        with staged_folder(tmp_path / "b", marker="old", overwrite=True) as staging:
            (staging / "new").write_text("2")
            raise error

    with pytest.raises(error):
        fail()
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "old"]


def test_what_is_in_the_way_is_kept(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")
    with pytest.raises(InputError, match="--overwrite"), staged_folder(tmp_path / "b", marker="old"):
        pass
    with (
        pytest.raises(InputError, match="is a file"),
        staged_folder(tmp_path / "b" / "old", marker="old", overwrite=True),
    ):
        pass
    assert (tmp_path / "b" / "old").read_text() == "1"


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    with (
        pytest.raises(InputError, match=r"other things in it \(no relsdk.json\)"),
        staged_folder(tmp_path / "thesis", marker="relsdk.json", overwrite=True),
    ):
        pass
    assert (tmp_path / "thesis" / "chapter").read_text() == "1"


def test_what_is_read_is_never_replaced(tmp_path):
    (tmp_path / "b" / "last").mkdir(parents=True)
    (tmp_path / "b" / "old").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    for source in (tmp_path / "b", tmp_path / "b" / "last", tmp_path / "link" / "last"):
        with (
            pytest.raises(InputError, match="which is read"),
            staged_folder(tmp_path / "b", marker="old", overwrite=True, sources=[source]),
        ):
            pass
    assert (tmp_path / "b" / "last").is_dir()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", [1, 2])
def test_a_stop_between_the_renames_puts_the_old_folder_back(tmp_path, monkeypatch, error, moment):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")
    rename, renames = os.rename, []

    def stopped(source, target):
        renames.append(target)
        if len(renames) == moment:
            raise error
        return rename(source, target)

    monkeypatch.setattr("relsdk.files.folders.exchange", lambda *_: False)  # as on a file system without it
    monkeypatch.setattr(os, "rename", stopped)
    with (
        pytest.raises((RelsdkError, KeyboardInterrupt)),
        staged_folder(tmp_path / "b", marker="old", overwrite=True) as staging,
    ):
        (staging / "new").write_text("2")
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "old"]


def test_a_stamp_knows_its_file(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "x").write_text("1")
    (tmp_path / "second" / "x").write_text("2")
    (tmp_path / "live").symlink_to("first")
    stamp = FileStamp.of(tmp_path / "live" / "x")
    (tmp_path / "live").unlink()
    (tmp_path / "live").symlink_to("second")
    assert stamp.path.read_text() == "1"
    assert stamp.holds
    write_file_atomically(stamp.path, "3")
    assert not stamp.holds
    stamp.path.unlink()
    assert not stamp.holds
    assert not FileStamp.of(tmp_path / "absent").holds


def test_overwrite_replaces_the_whole_folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("1")
    with staged_folder(tmp_path / "b", marker="old", overwrite=True) as staging:
        (staging / "new").write_text("2")
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "new"]


def test_a_disk_that_refuses_is_explained(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("relsdk.files.folders.Path.mkdir", refuse)
    with (
        pytest.raises(RelsdkError, match=r"cannot write .*b: Read-only"),
        staged_folder(tmp_path / "b", marker="old"),
    ):
        pass
    monkeypatch.setattr("relsdk.files.atomic.os.open", refuse)
    with pytest.raises(RelsdkError, match=r"cannot write .*x\.json: Read-only"):
        write_file_atomically(tmp_path / "x.json", "{}")


def test_hash_of_json_is_canonical():
    assert json_sha256({"a": 1, "b": "大"}) == json_sha256({"b": "大", "a": 1})
    assert json_sha256([1]) != json_sha256([2])
