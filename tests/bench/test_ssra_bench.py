"""The SSRA studies, run whole at toy size."""

import json

import numpy as np
import pytest

from bench.ssra_report import paired_interval
from bench.ssra_rows import row_key, row_name
from relsdk.metrics import mean_ap_over_levels
from relsdk.sample_world import generate
from relsdk_training.data import pair_arrays
from tests.bench.test_bench import call, toy_shared

SMALL = [f"{m}.run.{x}" for m in ("score", "query", "embed") for x in ("max_steps=3", "batch_size=16")]
SMALL += [
    "query.model.decoder_layers=[0, 1]",
    "query.model.encoder_layers=1",
    "query.model.max_query_tokens=6",
    "filter.thresholds=[0, 0, 0, 0]",
]
SMALL += ["embed.loss.matryoshka_dims=[8]", "embed.run.evaluate_every=0", "data.rare_share=0.3"]


def run(module, *arguments):
    return call(module, *arguments, *(word for setting in SMALL for word in ("--set", setting)))


@pytest.mark.slow
def test_the_study_at_toy_size(toy_checkpoint, tmp_path):
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    output = tmp_path / "out/ssra.json"
    output.parent.mkdir()
    arguments = ["--shared", shared, "--output", output, "--work", tmp_path / "work"]
    arguments += ["--budget", 200, "--steps", 3, "--seed", 0, "--documents", 12]
    done = run("bench.ssra_real", *arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())
    assert [row_name(key) for key in rows] == [
        "vanilla SFT",
        "untrained",
        "all labels",
        "SSRA",
        "SSRA without the judge",
        "SSRA without stage 2",
        "SSRA without stages 1 and 2",
        "pseudo-labels, no generation",
        "SSRA, binary label weights",
        "SSRA, judged by the encoder of all labels",
        "pseudo-labels, judged by the encoder of all labels",
    ]
    assert all(0 < row["test"]["mean_ap"] <= 1 for row in rows.values())
    assert str(tmp_path) not in output.read_text()
    for key, row in rows.items():
        intervals = row.get("against_vanilla")
        assert (intervals is None) == key.startswith("vanilla")
        for measure, (mean, low, high) in (intervals or {}).items():
            assert low <= high
            difference = row["test"][measure] - rows[row_key("vanilla SFT", 200, 3, 0)]["test"][measure]
            assert mean == pytest.approx(difference, abs=2e-4)
    report = output.with_suffix(".md").read_text()
    assert "Share of the gap" in report
    assert "| SSRA | 1 |" in report
    # Stages that are the same are shared: one training of the model that judges, and one more for the row
    # whose encoders, this one among them, have another loss. Two rows are given the model of another.
    trained = [
        folder.stat().st_ino for folder in (tmp_path / "work").rglob("02-score/best/model.safetensors")
    ]
    assert len(trained) == 8
    assert len(set(trained)) == 4
    before = output.read_bytes()
    assert run("bench.ssra_real", *arguments).exit_code == 0
    assert output.read_bytes() == before


@pytest.mark.slow
def test_the_sample_world_at_toy_size(toy_checkpoint, tmp_path):
    output = tmp_path / "sample.json"
    arguments = ["--output", output, "--work", tmp_path / "work", "--checkpoint", toy_checkpoint]
    arguments += ["--documents", 600]
    done = run("bench.ssra_sample", *arguments, "--set", "pool.limit=12")
    assert done.exit_code == 0, done.output
    row = json.loads(output.read_text())
    assert set(row["test"]) == {"untrained", "SSRA"}
    shares = row["dev_by_share_of_the_trained_weights"]
    assert list(shares) == ["0", "0.25", "0.5", "0.75", "1"]
    (agreement,) = row["agreement_with_the_oracle"].values()
    assert set(agreement) == {"written", "kept"}
    assert (tmp_path / "work/bundle-SSRA/relsdk.json").is_file()


def test_a_paired_interval():
    pairs = pair_arrays(generate(seed=3, n_documents=200, n_queries=40).pairs)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=len(pairs)).astype(np.float32)
    poor, good = (pairs.labels + spread * noise for spread in (3.0, 1.0))
    for measure in ("mean_ap", "ndcg_at_10"):
        mean, low, high = paired_interval(pairs, poor, good, measure)
        assert 0 < low < mean < high
        assert paired_interval(pairs, good, good, measure) == (0.0, 0.0, 0.0)
    expected = (
        mean_ap_over_levels(pairs.labels, good).mean_ap - mean_ap_over_levels(pairs.labels, poor).mean_ap
    )
    assert paired_interval(pairs, poor, good, "mean_ap")[0] == pytest.approx(expected)
