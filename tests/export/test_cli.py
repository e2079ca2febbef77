"""The export commands as a user meets them."""

import json

from relsdk_export.cli._steps import Steps


def test_export_and_pull(relsdk, fails, toy_checkpoint, tmp_path):
    code, out, err = relsdk("export", "encoder", toy_checkpoint, tmp_path / "b", "--variant", "fp32")
    assert code == 0
    assert "compare with the checkpoint" in err
    assert err.splitlines()[-1].endswith(" s  total")
    assert "--overwrite" in fails("export", "encoder", toy_checkpoint, tmp_path / "b")
    code, out, _ = relsdk("model", "pull", toy_checkpoint, "--json")
    assert json.loads(out)["source"] == "local folder"
    assert "multilingual-e5-small" in fails("model", "pull", "nothing")


def test_json_has_the_seconds_of_each_step(relsdk, toy_checkpoint, tmp_path):
    code, out, err = relsdk("export", "encoder", toy_checkpoint, tmp_path / "b", "--json")
    assert code == 0
    seconds = json.loads(out)["seconds"]
    assert list(seconds) == [line.split("s  ", 1)[1] for line in err.splitlines() if " s  " in line]
    assert "quantise int8_avx512_vnni, int8_avx2, int8_any" in seconds
    steps = sum(seconds.values()) - seconds["total"]
    assert 0 < steps <= seconds["total"] + 0.1  # each is rounded


def test_steps_follow_each_other_and_notes_take_no_time(monkeypatch, capsys):
    times = iter([0.0, 1.0, 3.5, 3.75, 13.75])
    monkeypatch.setattr("relsdk_export.cli._steps.time.perf_counter", lambda: next(times))
    steps = Steps()
    for step in ("load", "note: a small corpus", "measure", "load"):
        steps(step)
    assert steps.finish() == {"load": 12.5, "measure": 0.25, "total": 13.75}
    assert capsys.readouterr().err.splitlines() == [
        *("... load", "    note: a small corpus", "   2.5 s  load"),
        *("... measure", "   0.2 s  measure", "... load", "  10.0 s  load", "  13.8 s  total"),
    ]


def test_a_disk_that_cannot_be_written(fails, toy_checkpoint):
    """/proc refuses new files to everybody, root included."""
    assert "/proc" in fails("export", "encoder", toy_checkpoint, "/proc/relsdk")
