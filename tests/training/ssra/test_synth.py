"""`relsdk synth`: what a run made, on the terminal."""

import json
import sys

import pytest
from click.testing import CliRunner

from relsdk.errors import InputError, MissingExtraError
from relsdk_training.cli.synth import synth
from relsdk_training.ssra.pair_records import has_records
from relsdk_training.ssra.stage_report import stage_report
from relsdk_training.ssra.stage_runner import read_stages
from tests.training.ssra.run_folders import SYNTHESISED, record, write_run, write_stage


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_stages(run, tmp_path):
    (run / "stages" / "08-of-another-configuration").mkdir()
    stages = read_stages(run)
    assert [(stage.name, has_records(stage.folder)) for stage in stages] == [
        ("05-synthesise", True),
        ("06-balance", True),
        ("07-embed", False),
    ]
    (run / "stages" / "07-embed" / "stage.json").write_text('{"seconds": "long", "report": {}}')
    with pytest.raises(InputError, match="identity, outputs, seconds missing or wrong"):
        read_stages(run)
    (run / "stages" / "07-embed" / "stage.json").write_text('{"seco')
    with pytest.raises(InputError, match=r"stage\.json: damaged"):
        read_stages(run)


def call(*arguments):
    return CliRunner().invoke(synth, [str(argument) for argument in arguments])


def test_inspect_shows_the_last_stage_with_records(run):
    done = call("inspect", run)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("06-balance: 4 records, 4 kept, dropped: none; 1.5 s\n")
    assert "合成的 → 标题 | 正文" in done.output


def test_inspect_shows_a_named_stage(run):
    done = call("inspect", run, "--stage", "synthesise", "--per-level", 1)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == (
        "05-synthesise: 8 records, 3 kept, dropped: cleaning 1, duplicate 1, echo 1, judge 1, score 1; 1.5 s"
    )
    assert lines[1] == "sources: synthesised 5, annotated 1, labelled 1"
    assert lines[2].startswith("queries: 7, duplicates 33.3%, equal to the title 14.3%, with han 57.1%")
    assert "2 3 1 33.3% 50.0% 0 1 1 0".split() in [line.split() for line in lines]
    examples = [line.split() for line in lines[lines.index("", 5) + 2 :]]
    # Level 3: one kept; one dropped of the one that was never scored.
    assert [(cells[0], cells[1]) for cells in examples if cells[0] == "3"] == [("3", "kept"), ("3", "echo")]
    assert "0.10 0.10 0.10 0.70" in done.output


def test_inspect_prints_json(run):
    done = call("inspect", run, "--stage", "05-synthesise", "--json")
    value = json.loads(done.output)
    assert value == {"stage": "05-synthesise", "seconds": 1.5, **stage_report(SYNTHESISED, examples=5)}


def test_inspect_without_examples_and_with_control_characters(tmp_path):
    write_stage(tmp_path, "01-s", [record("\x1b[2Jq", 1, 1)])
    shown = call("inspect", tmp_path).output
    assert "\\x1b[2Jq" in shown  # as text
    assert chr(27) not in shown
    assert "[2Jq" not in call("inspect", tmp_path, "--per-level", 0).output
    empty = write_stage(tmp_path / "empty", "01-s", [record("q", 1, 1)])
    (empty / "records-00000.jsonl").write_text("")
    assert "0 records, 0 kept" in call("inspect", tmp_path / "empty").output


def test_the_report_command_prints_the_path(run, tmp_path):
    done = call("report", run)
    assert done.output == f"{run / 'report.md'}\n"
    assert (run / "report.md").is_file()
    assert call("report", run, "--output", tmp_path / "x.md").output == f"{tmp_path / 'x.md'}\n"
    assert (tmp_path / "x-levels.png").is_file()


def test_the_report_needs_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = call("report", run).exception
    assert isinstance(error, MissingExtraError)
    assert "relsdk synth report needs" in str(error)
    assert call("inspect", run).exit_code == 0


@pytest.mark.parametrize("command", ["inspect", "report"])
def test_a_missing_run_says_what_to_do(tmp_path, command):
    for folder, message in ((tmp_path / "none", "there is no run folder"), (tmp_path, "no finished stage")):
        error = call(command, folder).exception
        assert isinstance(error, InputError)
        assert message in str(error)
        assert "relsdk train ssra CONFIG.toml" in str(error)


def test_a_wrong_stage_lists_the_right_ones(run, tmp_path):
    error = call("inspect", run, "--stage", "embed").exception
    assert str(error) == (
        "no stage with records of this run is named 'embed'; choose one of 05-synthesise, 06-balance"
    )
    write_stage(run, "08-synthesise", SYNTHESISED)
    error = call("inspect", run, "--stage", "synthesise").exception
    assert "several stages" in str(error)
    assert str(error).endswith("choose one of 05-synthesise, 08-synthesise")
    write_stage(tmp_path / "other", "01-embed")
    assert "no stage has made records yet" in str(call("inspect", tmp_path / "other").exception)
