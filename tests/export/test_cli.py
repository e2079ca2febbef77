"""The export commands as a user meets them."""

import json


def test_export_and_pull(relsdk, fails, toy_checkpoint, tmp_path):
    code, out, err = relsdk("export", "encoder", toy_checkpoint, tmp_path / "b", "--variant", "fp32")
    assert code == 0
    assert "compare with the checkpoint" in err
    assert "--overwrite" in fails("export", "encoder", toy_checkpoint, tmp_path / "b")
    code, out, _ = relsdk("model", "pull", toy_checkpoint, "--json")
    assert json.loads(out)["source"] == "local folder"
    assert "multilingual-e5-small" in fails("model", "pull", "nothing")


def test_a_disk_that_cannot_be_written(fails, toy_checkpoint):
    """/proc refuses new files to everybody, root included."""
    assert "/proc" in fails("export", "encoder", toy_checkpoint, "/proc/relsdk")
