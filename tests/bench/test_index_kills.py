"""The killing of an index's writers, a few times, and what is committed of the many times."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.experiments.index_kills import main
from bench.experiments.index_kills_processes import FEWEST, MOST, SLOTS, apply, plan

RESULTS = Path(__file__).resolve().parents[2] / "bench/results"


@pytest.mark.slow
def test_what_is_acknowledged_survives(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    output = tmp_path / "kills.json"
    done = CliRunner().invoke(main, ["--output", str(output), "--kills", "10", "--seed", "7"])
    assert done.exit_code == 0, done.exception
    result = json.loads(output.read_text())
    assert sum(result["killed_in"].values()) == result["kills"] == 10
    assert result["commits"] > 0
    assert result["answers_of_readers"] > 50


def test_changes_follow_from_their_number():
    state, kinds = dict.fromkeys(range(200), 0), set()
    for number in range(1, 400):
        change = plan(number, state)
        assert change == plan(number, dict(state))
        kinds.add(change.kind)
        if change.kind == "add":
            assert not set(change.slots) & set(state)
        if change.kind == "delete":
            assert set(change.slots) <= set(state)
        state = apply(change, state)
        assert set(state) <= set(range(SLOTS))
        assert FEWEST - 140 <= len(state) <= MOST + 130
    assert len(kinds) == 7


def test_the_committed_result_keeps_the_promise():
    result = json.loads((RESULTS / "index_kills.json").read_text())
    assert result["kills"] == sum(result["killed_in"].values()) >= 200
    assert len(set(result["killed_in"]) - {"between changes"}) == 7  # in every kind of change
    assert result["changes_lost_or_risen"] == 0
    assert result["most_bytes_to_current_generation"] <= 3
