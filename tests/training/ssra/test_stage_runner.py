"""A row of stages: done once, resumed, replaced in one step, one process at a time."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from relsdk.errors import InputError, LockedError
from relsdk_training.ssra import stage_runner
from relsdk_training.ssra.stage_runner import Stage, StageRunner, read_stages


class Run:
    """Two stages, b reads a; counts what is made."""

    def __init__(self, folder):
        self.made, self.notes = [], []
        self.runner = StageRunner(folder, self.notes.append)
        self.folder = folder

    def a(self, settings, content="一", log="log"):
        def make(work):
            self.made.append("a")
            (work / "text.txt").write_text(content, encoding="utf-8")
            (work / "log.jsonl").write_text(log)
            return {"settings": settings}

        return self.runner.run(Stage("01-a", settings, [], make)).folder

    def b(self, a, settings=0):
        def make(work):
            self.made.append("b")
            (work / "deep").mkdir()
            (work / "deep" / "copy.txt").write_text((a / "text.txt").read_text(encoding="utf-8"))
            return {}

        return self.runner.run(Stage("02-b", settings, ["01-a"], make)).folder


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_a_stage_is_done_once(run):
    folder = run.a({"x": 1})
    assert folder == run.folder / "stages" / "01-a"
    assert run.b(folder) == run.folder / "stages" / "02-b"
    assert run.made == ["a", "b"]
    assert not any((run.folder / "work").iterdir())
    content = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    assert set(content["outputs"]) == {"text.txt"}  # a log differs each time
    assert content["report"] == {"settings": {"x": 1}}
    run.runner.close()
    again = Run(run.folder)
    again.b(again.a({"x": 1}, content="another"))
    assert again.made == []
    assert again.notes == ["01-a: done before", "02-b: done before"]
    assert (folder / "text.txt").read_text(encoding="utf-8") == "一"


def test_what_reads_a_stage_is_done_again_only_if_its_outputs_changed(run):
    run.b(run.a(1))
    run.b(run.a(2, log="another"))  # other settings, same files
    assert run.made == ["a", "b", "a"]
    copy = run.b(run.a(3, content="二"))
    assert run.made == ["a", "b", "a", "a", "b"]
    assert (copy / "deep" / "copy.txt").read_text(encoding="utf-8") == "二"
    run.b(run.a(3), settings=1)
    assert run.made[5:] == ["b"]
    assert sorted(path.name for path in (run.folder / "stages").iterdir()) == ["01-a", "02-b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_stage_that_fails_goes_on_where_it_stood(tmp_path, monkeypatch, error):
    clock = iter([0.0, 7.0, 100.0, 102.0, 200.0, 203.5])
    monkeypatch.setattr(stage_runner, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    notes, seen = [], []
    runner = StageRunner(tmp_path, notes.append)

    def make(work):
        shards = sorted(path.name for path in work.glob("shard-*"))
        seen.append(shards)
        (work / f"shard-{len(shards)}").write_text("x")
        if len(shards) < 2:
            raise error
        return {"shards": 3}

    stage = Stage("01-a", {}, [], make)
    for tries in (1, 2):
        with pytest.raises(error):
            runner.run(stage)
        assert not (tmp_path / "stages").exists()
        assert len(list((tmp_path / "work" / "01-a").glob("shard-*"))) == tries
    folder = runner.run(stage).folder
    assert seen == [[], ["shard-0"], ["shard-0", "shard-1"]]
    content = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    assert content["seconds"] == 12.5  # of all three tries
    assert sorted(content["outputs"]) == ["shard-0", "shard-1", "shard-2"]
    assert notes == ["01-a: begins", "01-a: goes on", "01-a: goes on", "01-a: done in 12 s"]


def fail(work):
    (work / "half").write_text("of the old settings")
    raise ValueError("half")


def test_other_settings_begin_anew(run):
    for settings in (1, 2):
        with pytest.raises(ValueError, match=r"^half$"):
            run.runner.run(Stage("01-a", settings, [], fail))
    assert run.notes == ["01-a: begins"] * 2
    folder = run.a(3)
    assert not (folder / "half").exists()
    # What was done is kept until its successor is done.
    with pytest.raises(ValueError, match=r"^half$"):
        run.runner.run(Stage("01-a", 4, [], fail))
    assert (folder / "text.txt").exists()
    run.a(3)
    assert run.made == ["a"]


def test_a_stage_that_was_killed_goes_on(run):
    """No handler ran: the work folder is as the kill left it."""
    with pytest.raises(ValueError, match=r"^half$"):
        run.runner.run(Stage("01-a", 1, [], fail))
    mark = run.folder / "work" / "01-a" / "identity"
    mark.write_text(mark.read_text(encoding="utf-8").split()[0] + " 100\n")
    os.utime(mark, (1000, 1000))  # it began after 100 s of earlier tries, and wrote for 50 s
    os.utime(mark.with_name("half"), (1050, 1050))
    folder = run.a(1)
    assert (folder / "half").exists()
    assert 150 <= json.loads((folder / "stage.json").read_text())["seconds"] < 170
    assert run.notes[1] == "01-a: goes on"
    assert not (folder / "identity").exists()


def test_one_process_at_a_time(run):
    with pytest.raises(LockedError, match="in use by another process"):
        StageRunner(run.folder)
    run.runner.close()
    StageRunner(run.folder).close()
    (run.folder / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used as a run folder"):
        StageRunner(run.folder / "file")


def test_a_damaged_description_is_told(run):
    folder = run.a(1)
    for text in ("", '{"identity": "x"', "[]", "{}"):
        (folder / "stage.json").write_text(text)
        with pytest.raises(InputError, match=r"01-a/stage\.json"):
            run.a(1)
        with pytest.raises(InputError, match=r"01-a/stage\.json"):
            read_stages(run.folder)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_what_is_lost_or_changed_is_made_again(run, damage):
    folder = run.a(1)
    damage(folder / "text.txt")
    assert (run.a(1) / "text.txt").read_text(encoding="utf-8") == "一"
    assert run.made == ["a", "a"]
    assert run.notes[2] == "01-a: what it made is lost or changed, it is made again"


def test_what_a_training_goes_on_from_is_kept_until_its_stage_is_done(run):
    """The stage fails after its training, as at the fit of levels."""

    def make(work):
        if not (work / "state-1").exists():
            run.made.append("trained")
            for name in ("best", "last", "state-1"):
                (work / name).mkdir()
                (work / name / "weights").write_text("1")
            raise KeyboardInterrupt
        return {}

    stage = Stage("01-a", 0, [], make)
    with pytest.raises(KeyboardInterrupt):
        run.runner.run(stage)
    folder = run.runner.run(stage).folder
    assert run.made == ["trained"]
    assert sorted(path.name for path in folder.iterdir()) == ["best", "stage.json"]
    assert list(json.loads((folder / "stage.json").read_text())["outputs"]) == ["best/weights"]


@pytest.mark.parametrize("at", ["rmtree", "rename"])
def test_a_kill_while_a_stage_is_replaced_leaves_no_half_of_it(run, monkeypatch, at):
    folder = run.a(1)

    def killed(*_, **__):
        raise KeyboardInterrupt

    real = {"rmtree": stage_runner.shutil.rmtree, "rename": type(folder).rename}
    # Of the old stage's removal the first file is gone; or it is aside and the new one not yet in its place.
    if at == "rmtree":
        calls = []

        def first_file(path, **options):
            if path.name == "replaced" and path.exists():
                calls.append(path)
                (path / "text.txt").unlink()
                killed()
            real["rmtree"](path, **options)

        monkeypatch.setattr(stage_runner.shutil, "rmtree", first_file)
    else:
        monkeypatch.setattr(
            type(folder), "rename", lambda a, b: killed() if a.parent.name == "work" else real["rename"](a, b)
        )
    with pytest.raises(KeyboardInterrupt):
        run.a(2, content="二")
    monkeypatch.undo()
    run.runner.close()
    again = Run(run.folder)
    assert (again.a(2, content="二") / "text.txt").read_text(encoding="utf-8") == "二"
    assert (again.a(1) / "text.txt").read_text(encoding="utf-8") == "一"
    assert not any((run.folder / "work").iterdir())


def test_a_description_says_what_it_was_made_from(run):
    content = json.loads((run.b(run.a(1), settings={"x": [1, 2]}) / "stage.json").read_text(encoding="utf-8"))
    assert content["settings"] == {"x": [1, 2]}
    assert list(content["inputs"]) == ["stages/01-a"]
    assert content["relsdk"]


def test_a_configuration_inside_a_checkpoint_is_content(run):
    def make(work):
        (work / "best").mkdir()
        for name in ("best/config.json", "config.json", "result.json"):
            (work / name).write_text("{}")
        return {}

    folder = run.runner.run(Stage("01-a", 0, [], make)).folder
    assert set(json.loads((folder / "stage.json").read_text())["outputs"]) == {"best/config.json"}


def test_stages_of_another_configuration_are_kept_and_not_shown(run):
    run.b(run.a(1))
    run.runner.close()
    again = Run(run.folder)
    again.a(1)
    assert [stage.name for stage in read_stages(run.folder)] == ["01-a"]
    again.runner.close()
    third = Run(run.folder)
    third.b(third.a(1))
    assert third.made == []
    assert [stage.name for stage in read_stages(run.folder)] == ["01-a", "02-b"]
