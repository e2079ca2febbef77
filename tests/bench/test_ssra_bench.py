"""The SSRA studies, run whole at toy size."""

import json
import signal
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from bench.experiments import ssra as ssra_real
from bench.experiments.level_control import first_repeats
from bench.experiments.rows import row_key, row_name
from bench.experiments.ssra_report import paired_interval, write_report
from relsdk.formats import read_pairs
from relsdk.metrics import mean_ap_over_levels
from relsdk_sample import generate
from relsdk_training.data.pairs import pair_arrays
from relsdk_training.ssra._shards import write_lines
from relsdk_training.ssra.pair_records import new_record
from tests.bench.test_bench import call, toy_shared
from tests.threads import Server

SMALL = [f"{m}.{x}" for m in ("score", "query", "embed") for x in ("max_steps=3", "batch_size=16")]
SMALL += [
    "query.decoder_layers=[0, 1]",
    "query.encoder_layers=1",
    "query.max_query_tokens=6",
    "filter.thresholds=[0, 0, 0, 0]",
]
SMALL += ["embed.matryoshka_dims=[8]", "embed.evaluate_every=0", "data.rare_share=0.3"]


def run(module, *arguments):
    return call(module, *arguments, *(word for setting in SMALL for word in ("--set", setting)))


def toy_study(folder, checkpoint, documents):
    """Where a study's rows go, and its arguments: 200 labels, three steps, one seed."""
    output = folder / "ssra.json"
    arguments = ["--shared", toy_shared(folder / "shared", checkpoint), "--work", folder / "work"]
    arguments += ["--output", output, "--budget", 200, "--steps", 3, "--seed", 0, "--documents", documents]
    return output, arguments


@pytest.mark.slow
def test_the_study_at_toy_size(toy_checkpoint, tmp_path):
    output, arguments = toy_study(tmp_path, toy_checkpoint, documents=12)
    done = run("bench.experiments.ssra", *arguments)
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
        "SSRA, judged by the encoder of all labels",
        "pseudo-labels, judged by the encoder of all labels",
        "SSRA, binary labels",
    ]
    assert all(0 < row["test"]["mean_ap"] <= 1 for row in rows.values())
    assert str(tmp_path) not in output.read_text()
    assert {row["documents"] for row in rows.values()} == {12}
    assert all(row["settings"]["embed"]["max_steps"] == 3 for row in rows.values() if "stages" in row)
    (ssra,) = (tmp_path / "work").glob("ssra_*")
    (balanced,) = (ssra / "SSRA/stages").glob("*-balance")
    both = [list(read_pairs(path)) for path in (balanced / "pairs.jsonl", ssra / "binary.jsonl")]
    assert [(pair.query, 3 * (pair.level >= 2)) for pair in both[0]] == [
        (pair.query, pair.level) for pair in both[1]
    ]
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
    # Stages that are the same are shared: one training of the model that judges. Two rows are given the model
    # of another.
    trained = [
        folder.stat().st_ino for folder in (tmp_path / "work").rglob("02-score/best/model.safetensors")
    ]
    assert len(trained) == 7
    assert len(set(trained)) == 3
    before = output.read_bytes()
    assert run("bench.experiments.ssra", *arguments).exit_code == 0
    assert output.read_bytes() == before
    other = run("bench.experiments.ssra", *arguments, "--documents", 13)
    assert "there with 12 documents, and 13 are asked for" in other.output
    assert output.read_bytes() == before
    nobody = run("bench.experiments.ssra", *arguments, "--outsider", tmp_path)
    assert "no score model in best/" in nobody.output


@pytest.mark.slow
def test_prompts_alone(toy_checkpoint, tmp_path):
    """The row that needs a language model; here a server that always has something to say."""
    output, arguments = toy_study(tmp_path, toy_checkpoint, documents=5)
    arguments += ["--only", "prompt synthesis"]
    assert "needs --endpoint" in run("bench.experiments.ssra", *arguments).output
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            content = {"choices": [{"message": {"content": f"第{len(asked)}个怎么做"}}] * asked[-1]["n"]}
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with Server(Handler) as server:
        done = run("bench.experiments.ssra", *arguments, "--endpoint", f"{server.url}/v1", "toy")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(output.read_text()).values()
    assert len(asked) == 5 * 3  # documents and levels
    assert row["stages"]["09-filter-1"]["kept"] > 0
    assert row["stages"]["90-balance"]["sources"]["synthesised"] != [0, 0, 0, 0]


@pytest.mark.slow
def test_an_interrupted_training_is_no_row(toy_checkpoint, tmp_path):
    output, arguments = toy_study(tmp_path, toy_checkpoint, documents=5)
    arguments += ["--only", "vanilla SFT"]

    def interrupt(stage, done, total):
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored: a background job
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ssra_real, "_print", interrupt)
            stopped = run("bench.experiments.ssra", *arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.exit_code == 1
    assert "interrupted at step 1, no row is written" in stopped.output
    assert not output.exists()
    assert run("bench.experiments.ssra", *arguments).exit_code == 0
    (row,) = json.loads(output.read_text()).values()
    assert row["steps"] == 3


def test_the_report_tells_changes_and_duplicates(tmp_path):
    test = {"mean_ap": 0.5, "ap_1": 0.5, "ap_2": 0.5, "ap_3": 0.5, "ndcg_at_10": 0.5}
    shares = {
        "written": {"agreement": [None, 0.3, 0.4, 0.8], "queries": 1200},
        "kept": {"agreement": [None, 0.45, 0.2, 0.8], "queries": 300},
    }
    row = {
        "test": test,
        "seconds": {"09-filter-1": 1.0},
        "stages": {"09-filter-1": {"duplicate_rate": 0.125}, "05-annotate": {"duplicate_rate": 0.4}},
        "first_repeats": {"09-filter-1": 0.03},
        "agreement": {"09-filter-1": shares},
    }
    write_report({row_key("SSRA", 200, 3, 0): row}, tmp_path / "ssra.md")
    told = (tmp_path / "ssra.md").read_text()
    assert "](ssra.png)" in told
    assert (tmp_path / "ssra.png").read_bytes().startswith(b"\x89PNG")
    levels = "- | 30.0 to 45.0 (+50%) | 40.0 to 20.0 (-50%) | 80.0 to 80.0 (+0%) |"
    assert f"| SSRA / 200 / 3 / 0 | 09-filter-1 | 1,200 | 300 | {levels}" in told
    assert "| SSRA / 200 / 3 / 0 | 09-filter-1 | 12.50 | 3.00 |" in told
    assert "40.00" not in told  # existing queries are not written


def test_repeats_by_hand(tmp_path):
    asked = [
        ("肉", 3, "红烧肉"),
        ("肉", 3, "红烧肉"),
        ("肉", 2, ""),
        ("肉", 2, "红烧 肉"),
        ("肉", 2, "红烧肉"),
        ("鱼", 3, "红烧肉"),
    ]
    records = [
        new_record({"id": title, "title": title, "text": ""}, query, wanted=level, source="synthesised")
        for title, level, query in asked
    ]
    write_lines(tmp_path / "records-00000.jsonl", records)
    assert first_repeats(tmp_path) == pytest.approx(1 / 3, abs=1e-4)


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
