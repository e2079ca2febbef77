"""`relsdk doctor --state`: what moved, in words, in JSON and as an exit code."""

import json
import re
import time

import msgspec
import numpy as np
import pytest

from relsdk.calibration import SearchProfile
from relsdk.tools.drift import DriftState, SearchDrift


def profile(levels, cosine, *, tokens=5, unknown=0):
    made = SearchProfile()
    made.level[:] = levels
    total = sum(levels)
    made.cosine[cosine] = total
    made.tokens[tokens] = total
    made.unknown[:] = [total - unknown, unknown, 0, 0, 0]
    return made


@pytest.fixture
def state(tmp_path):
    """Write what a server would have written."""

    def write(now, reference=None, source="calibration", written=None):
        reference = reference or profile([0, 100, 200, 300, 400], 160)
        hours = [(4000.0, now), (1.0, SearchProfile())]
        one = SearchDrift(source, reference, hours, now.shifts_from(reference))
        content = DriftState(
            "relsdk-drift",
            1,
            time.time() if written is None else written,
            {"shop": "e"},
            {"shop": {"hybrid": one}},
        )
        (tmp_path / "drift.json").write_bytes(msgspec.json.encode(content))
        return "doctor", "--no-self-test", "--state", tmp_path

    return write


def rows(out):
    """Return the lines about searches, by what they are about."""
    lines = [line for line in out.splitlines() if line.startswith("shop, hybrid")]
    return {line.split("  ")[1].strip(): " ".join(line.split()) for line in lines}


def test_nothing_has_moved(relsdk, state):
    code, out, err = relsdk(*state(profile([0, 101, 199, 300, 400], 160, unknown=10)))
    assert code == 0, err
    assert not err
    shown = rows(out)
    assert "0: 10% 1: 20% 2: 30% 3: 40%" in shown["level of the best hit"]
    assert shown["level of the best hit"].endswith("1,000 no (0.00, no more than noise)")
    assert "0.80 (80 % in 0.80-0.80)" in shown["cosine of the best hit"]
    assert "5 (80 % in 5-5)" in shown["tokens of a query"]
    assert "0.0% 1.0%" in shown["queries with unknown tokens"]


def test_a_little_is_shown(relsdk, state):
    code, out, _ = relsdk(*state(profile([30, 140, 220, 270, 340], 160)))
    assert code == 0
    assert "none: 3%" in rows(out)["level of the best hit"]
    assert re.search(r" a little \(0\.1\d; 0\.0\d to 0\.\d\d\)$", rows(out)["level of the best hit"])


def test_far_ends_with_code_2(relsdk, state):
    arguments = state(profile([200, 300, 200, 200, 100], 160))
    code, out, err = relsdk(*arguments)
    assert code == 2
    assert " far (" in rows(out)["level of the best hit"]
    assert "level of the best hit (shop, hybrid: " in err
    assert "relsdk calibrate --index --queries" in err
    code, out, _ = relsdk(*arguments, "--json")
    assert code == 2
    found = json.loads(out)["drift"]["searches"]["shop"]["hybrid"]
    assert found["shifts"]["level"] > 0.25
    interval = found["intervals"]["level"]
    assert interval["mean"] == pytest.approx(found["shifts"]["level"])
    assert 0 < interval["low"] < interval["mean"] < interval["high"]
    assert set(found["intervals"]) == set(found["shifts"])
    assert found["searches"] == dict.fromkeys(("level", "cosine", "tokens", "unknown"), 1000)
    assert np.sum(found["day"]["level"]) == 1000
    assert found["source"] == "calibration"


def test_what_is_not_known_yet(relsdk, state):
    few = profile([0, 10, 20, 30, 40], 160)
    code, out, _ = relsdk(*state(few))
    assert code == 0
    assert rows(out)["level of the best hit"].endswith("100 not known: too few searches")
    _, out, _ = relsdk(*state(few, few, "first searches"))
    assert rows(out)["tokens of a query"].endswith("not known: 100 of the first 1,000 searches")


def test_a_server_that_is_gone_is_told(relsdk, state):
    code, _, err = relsdk(*state(profile([0, 10, 20, 30, 40], 160), written=time.time() - 3600))
    assert code == 0
    assert "written 60 minutes ago" in err


def test_no_file_and_a_damaged_one(fails, tmp_path):
    assert "drift.json is missing; relsdk serve INDEX --state DIR writes it" in fails(
        "doctor", "--state", tmp_path
    )
    (tmp_path / "drift.json").write_text("{}")
    assert "drift.json is damaged" in fails("doctor", "--state", tmp_path)
