"""The measurement of workers at toy size; with Ray in the slow tests."""

import json

import pytest
from click.testing import CliRunner

from bench.scale.actors import main


def measure(bundle, output, *more):
    command = ["--bundle", str(bundle), "--small", *more]
    done = CliRunner().invoke(main, [*command, "--output", str(output)])
    assert done.exit_code == 0, done.output
    stage = json.loads(output.read_text(encoding="utf-8"))["stages"]["actors"]
    assert stage["toy"] is True
    return stage["result"]


@pytest.mark.slow
def test_local_workers_are_timed_by_turns(toy_bundle, tmp_path):
    pytest.importorskip("pyarrow")
    names = ("--contender", "1 process", "--contender", "2 processes")
    result = measure(toy_bundle, tmp_path / "scale.json", *names)
    assert len(result["others_cpus"]) == 2
    assert result["loaded"] == (max(result["others_cpus"]) > 0.1)
    assert list(result["contenders"]) == ["1 process", "2 processes"]
    for row in result["contenders"].values():
        assert len(row["texts_per_second"]["rounds"]) == 1
        assert min(row["texts_per_second"]["rounds"]) > 0
    assert list(result["ratios"]) == ["2 processes / 1 process"]
    ratio = result["ratios"]["2 processes / 1 process"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_actors_are_timed_beside_processes(toy_bundle, tmp_path):
    pytest.importorskip("ray.data")
    names = ("--contender", "1 process", "--contender", "1 actor")
    result = measure(toy_bundle, tmp_path / "scale.json", *names)
    assert result["versions"]["ray"] != "absent"
    assert list(result["ratios"]) == ["1 actor / 1 process"]
