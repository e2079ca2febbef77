"""`make demo-train` at toy size, and its table."""

import json

import pytest

from bench.pages.few_sample import few_table
from tests.bench.test_bench import call
from tests.training.few.conftest import commands  # noqa: F401  (a fixture)


@pytest.mark.slow
@pytest.mark.usefixtures("commands")
def test_the_sample_world_at_toy_size(toy_checkpoint, tmp_path):
    output = tmp_path / "few.json"
    arguments = ["--output", output, "--work", tmp_path / "work", "--checkpoint", toy_checkpoint]
    arguments += ["--documents", 400, "--labels", 80, "--seed", 0]
    for setting in ("run.max_steps=3", "run.evaluate_every=3", "model.layers=[]", "model.max_tokens=128"):
        arguments += ["--set", setting]
    done = call("bench.experiments.few_sample", *arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(output.read_text())
    assert list(found["rows"]) == [
        "labels alone / seed 0",
        "with opinions as they are / seed 0",
        "with corrected opinions / seed 0",
    ]
    confusions = [row["confusion"] for row in found["rows"].values()]
    assert confusions[:2] == [None, None]
    assert len(confusions[2]) == 4
    assert found["pairs"]["labels"] == 80
    assert "labels alone / seed 0" in done.output
    again = call("bench.experiments.few_sample", *arguments)
    assert "04-train: done before" in again.output
    assert json.loads(output.read_text())["rows"] == found["rows"]


def test_the_table_by_hand():
    rows = {
        f"{name} / seed {seed}": {"test": {"mean_ap": ap, "ndcg_at_10": 0.9}, "accuracy": 0.5}
        for name, seed, ap in (("labels alone", 0, 0.7), ("labels alone", 1, 0.72), ("corrected", 0, 0.8))
    }
    table = few_table({"pairs": {"labels": 200, "opinions": 4000, "written": 1800}, "rows": rows})
    assert "| 200 labels, 4,000 opinions, 1,800 written queries | mean AP |" in table
    assert "| labels alone | 71.0 | 70.0, 72.0 | 90.0 | 50 % |" in table
    assert "| corrected | 80.0 | 80.0 | 90.0 | 50 % |" in table
