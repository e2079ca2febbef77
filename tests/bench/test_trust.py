"""The measurement of promises: by simulation where the truth is known, and whole at toy size."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench.experiments.trust_promises import fitting_rows, kept_promises, lowest_threshold
from bench.experiments.trust_report import write_report
from bench.experiments.trust_spline import PAIRS, SPLINES, compared_splines
from relsdk.calibration.fitting import BEND, PIECES
from tests.bench.test_bench import toy_shared
from tests.bench.test_ssra_bench import run


def test_a_split_takes_whole_queries():
    queries = [f"q{number // 4}" for number in range(400)]
    splits = list(fitting_rows(queries, 100, 3, seed=0))
    for fitted in splits:
        taken = {query for query, one in zip(queries, fitted, strict=True) if one}
        assert fitted.sum() == 100 == sum(query in taken for query in queries)
    assert not (splits[0] == splits[1]).all()
    assert (splits[0] == next(fitting_rows(queries, 100, 1, seed=0))).all()


def test_the_lowest_threshold_of_a_toy():
    shares, right = np.array([0.9, 0.8, 0.8, 0.7, 0.1]), np.array([True, True, False, True, False])
    assert lowest_threshold(shares, right, 0.75) == 0.7
    assert lowest_threshold(shares, right, 0.9) == 0.9  # a tie is taken whole: 2 of 3
    assert lowest_threshold(shares, ~right, 0.9) == np.inf


def test_promises_of_simulated_pairs_are_kept_where_plain_thresholds_break():
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=6000)
    labels = (scores[:, None] + rng.logistic(scale=0.12, size=(6000, 1)) > [0.3, 0.5, 0.75]).sum(axis=1)
    queries = [f"q{number // 3}" for number in range(6000)]
    rows = kept_promises(scores.astype(np.float32), labels, queries, pairs=1000, splits=8, seed=0)
    assert [(row["level"], row["target_precision"]) for row in rows[:4]] == [
        (1, 0.8), (1, 0.9), (1, 0.95), (2, 0.8)
    ]  # fmt: skip
    promised = [row for row in rows if row["promised"]]
    assert sum(row["promised"] for row in rows) > 30
    assert sum(row["broken"] for row in promised) <= 5  # of some forty: 5 %, and what chance adds
    assert np.mean([row["plain_broken_share"] for row in promised]) > 0.25
    assert all(row["median_recall"] <= row["median_best_recall"] + 0.05 for row in promised)


def test_splines_of_a_bent_truth_beside_each_other():
    """A plateau between two steep parts: a straight line does not follow it, few pairs need the prior."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1.0, 4200).astype(np.float32)
    reached = np.select([scores < 0.6, scores < 0.9], [10 * (scores - 0.5), 1.0], 1 + 10 * (scores - 0.9))
    labels = (reached[:, None] + rng.logistic(scale=0.1, size=(4200, 1)) > [0.5, 1.2, 1.8]).sum(axis=1)
    models = SimpleNamespace(
        outputs=lambda kind, split: scores,
        labels=lambda split: labels,
        queries=lambda split: [f"q{number // 3}" for number in range(4200)],
    )
    rows = compared_splines(models, seed=0, draws=4)
    more = {(row["data"], row["pairs"], row["pieces"], row["bend"]): row["more"] for row in rows}
    assert len(more) == len(rows) == 2 * len(PAIRS) * len(SPLINES)
    assert more["unseen", 2000, 1, BEND] > 0.02
    assert more["unseen", 50, PIECES, 10.0] > 0.01 > more["unseen", 2000, PIECES, 10.0]
    assert more["others", 500, PIECES, BEND] == 0


@pytest.mark.slow
def test_the_whole_at_toy_size(toy_checkpoint, tmp_path):
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    output = tmp_path / "trust.json"
    arguments = ["--shared", shared, "--output", output, "--work", tmp_path / "work", "--steps", 3]
    arguments += ["--labels", 150, "--pairs", 200, "--splits", 3, "--documents", 1000]
    done = run("bench.experiments.trust", *arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())
    assert list(rows) == [
        "promises", "few labels", "errors", "from dev to test", "prior shift", "spline", "sample corpus"
    ]  # fmt: skip
    assert {row["model"] for row in rows["errors"]["found"]} == {"encoder", "tower", "scorer", "pool"}
    report = output.with_suffix(".md").read_text()
    assert "## Prior shift" in report
    assert "| >= 2 | 0.9 |" in report
    assert str(tmp_path) not in output.read_text()
    before = output.read_bytes()
    assert run("bench.experiments.trust", *arguments).exit_code == 0
    assert output.read_bytes() == before
    write_report(rows, tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == report
