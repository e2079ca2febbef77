"""The study of a language model's grades and queries, run whole at toy size, and its report by hand."""

import json

import numpy as np
import pytest

from bench.experiments import llm_choices, llm_labels
from bench.experiments.llm_labels_report import _labels_for, pack, pooled_interval, unpack, write_report
from bench.experiments.rows import row_key
from bench.experiments.ssra_report import paired_interval
from relsdk.formats import read_pairs, write_pairs
from relsdk_sample import generate
from relsdk_training.data.pairs import pair_arrays
from tests.bench.test_bench import toy_shared
from tests.bench.test_ssra_bench import run


def answers(shared):
    """Put opinions of the toy's pairs, which are its labels, beside them: of train, and of dev."""
    folder = shared / "data/llm"
    folder.mkdir()
    kuake = shared / "data/kuake_qtr"
    train, dev = (list(read_pairs(kuake / f"{split}.jsonl")) for split in ("train", "dev"))
    write_pairs(folder / "kuake_grades.jsonl", train[:40])
    write_pairs(folder / "kuake_grades_dev.jsonl", dev)
    write_pairs(folder / "kuake_written.jsonl", train[40:80])
    return folder


@pytest.fixture
def studied(toy_checkpoint, tmp_path):
    """Run a study at toy size, and again: nothing is made twice. Return the shared folder and the results."""

    def study(module, *options):
        shared = toy_shared(tmp_path / "shared", toy_checkpoint)
        answers(shared)
        output = tmp_path / "results.json"
        arguments = ["--shared", shared, "--output", output, "--work", tmp_path / "work", "--steps", 3]
        arguments += ["--budget", 0, "--budget", 150, "--seed", 0, *options]
        done = run(module, *arguments)
        assert done.exit_code == 0, done.output
        before = output.read_bytes()
        assert run(module, *arguments).exit_code == 0
        assert output.read_bytes() == before
        return shared, output

    return study


@pytest.mark.slow
def test_the_study_at_toy_size(studied, tmp_path):
    shared, output = studied("bench.experiments.llm_labels", "--set", "unlabelled.limit=12")
    rows = json.loads(output.read_text())
    names = llm_labels.ROWS
    assert list(rows) == [
        *(row_key(name, 0, 3, 0) for name in (names[1], names[3], *names[5:])),
        *(row_key(name, 150, 3, 0) for name in names[:5]),
    ]
    assert all(0 < row["test"]["mean_ap"] <= 1 for row in rows.values())
    test = pair_arrays(list(read_pairs(shared / "data/kuake_qtr/test.jsonl")))
    assert {len(unpack(row["cosines"])) for row in rows.values()} == {len(test)}
    assert str(tmp_path) not in output.read_text()
    of = {key: row["settings"].get("data", {}) for key, row in rows.items() if "settings" in row}
    assert of[row_key(names[1], 0, 3, 0)]["dev"] == ""
    assert of[row_key(names[2], 150, 3, 0)]["human_last"] == llm_labels.HUMAN_LAST
    assert of[row_key(names[2], 150, 3, 0)]["written_weight"] == llm_labels.WRITTEN_WEIGHT
    assert of[row_key(names[0], 150, 3, 0)]["weak"] == []
    report = output.with_suffix(".md").read_text()
    assert "| 150 | labels alone | 1 |" in report


@pytest.mark.slow
def test_the_choices_at_toy_size(studied):
    _, output = studied("bench.experiments.llm_choices")
    rows = json.loads(output.read_text())
    last = [name for name in llm_choices.CHOICES if name.startswith("human labels last")]
    of = {key: row["settings"] for key, row in rows.items()}
    assert of[row_key(last[0], 150, 3, 0)]["data"]["human_last"] == 0.15
    assert of[row_key("list-wise Wasserstein, weight 1", 150, 3, 0)]["loss"]["wasserstein"] == 1.0
    assert of[row_key(llm_choices.FIRST, 150, 3, 0)]["data"]["written_weight"] == 1.0
    assert len(of) == 2 * len(llm_choices.CHOICES) - len(last)
    report = output.with_suffix(".md").read_text().splitlines()
    own, *others = (line for line in report if " weight 1 |" in line or f"| {llm_choices.FIRST} |" in line)
    assert own.endswith("|  |")
    assert all("[" in line for line in others if llm_choices.FIRST not in line)


def test_intervals_are_pooled_over_seeds():
    test = pair_arrays(generate(seed=7, n_documents=200, n_queries=60).split("test"))
    rng = np.random.default_rng(0)
    one, better = (test.labels * scale + rng.normal(size=len(test)) for scale in (0.3, 3.0))
    for measure in ("mean_ap", "ndcg_at_10"):
        alone = paired_interval(test, one, better, measure)
        assert pooled_interval(test, [(one, better)], measure) == pytest.approx(alone)
        assert alone[0] > alone[1] > 0
    nothing = pooled_interval(test, [(one, better), (better, one)], "ndcg_at_10")
    assert nothing == pytest.approx((0, 0, 0), abs=1e-12)


def test_what_answers_are_worth_lies_on_the_curve():
    points = [(500, 0.86), (2000, 0.88)]
    assert _labels_for(0.87, points) == "about 1,000"  # halfway by logarithms
    assert _labels_for(0.85, points) == "fewer than 500"
    assert _labels_for(0.89, points) == "more than 2,000"


def test_the_report_compares_with_the_same_seed(tmp_path):
    test = pair_arrays(generate(seed=7, n_documents=200, n_queries=60).split("test"))
    rng = np.random.default_rng(0)

    def row(quality):
        cosines = quality * test.labels + rng.normal(size=len(test))
        found = dict.fromkeys(("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10"), quality / 10)
        return {"test": found, "cosines": pack(cosines), "seconds": {"embed": 60.0}, "best_step": 2}

    rows = {
        row_key(llm_labels.ALONE, 500, 3, 0): row(1.0),
        row_key(llm_labels.ALONE, 500, 3, 1): row(1.0),
        row_key(llm_labels.PROMPTED, 500, 3, 0): row(2.0),
        row_key(llm_labels.PROMPTED, 500, 3, 2): row(9.0),  # no labels alone of that seed: not compared
        row_key(llm_labels.UPPER, 0, 3, 0): row(3.0),
    }
    write_report(rows, tmp_path / "report.md", test=test)
    lines = (tmp_path / "report.md").read_text().splitlines()
    (prompted,) = (line for line in lines if line.startswith(f"| 500 | {llm_labels.PROMPTED} |"))
    one, other = (
        unpack(rows[row_key(name, 500, 3, 0)]["cosines"]) for name in (llm_labels.ALONE, llm_labels.PROMPTED)
    )
    mean, low, high = (100 * value for value in pooled_interval(test, [(one, other)], "mean_ap"))
    assert f"| {mean:+.2f} [{low:+.2f}, {high:+.2f}] |" in prompted
    assert "| 55.00 ± 49.50 |" in prompted
    assert any(line.startswith(f"| - | {llm_labels.UPPER} | 1 | 30.00 |") for line in lines)
