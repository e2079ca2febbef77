"""The benchmarks' code at toy size: what make targets run for minutes runs here in seconds."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from bench.experiments import graded_pairs as train_real
from bench.experiments.data import split_qbqtc
from bench.experiments.rows import row_key
from bench.harness.machine import machine_record
from bench.pages import readme
from relsdk.formats import write_pairs
from relsdk_sample import generate
from relsdk_training.engine.loop import TrainResult

# Without what tells pytest-benchmark that it runs beside others.
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**OUTSIDE, **environment},
    )


def call(module, *arguments):
    """Run a module's command in this process, as `python -m` would: torch is loaded once, not for each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(import_module(module).main, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def toy_shared(folder, checkpoint):
    """A folder laid out like the shared one, from the sample world and a toy checkpoint."""
    world = generate(seed=7, n_documents=200, n_queries=60)
    kuake = folder / "data" / "kuake_qtr"
    kuake.mkdir(parents=True)
    for name in ("train", "dev", "test"):
        write_pairs(kuake / f"{name}.jsonl", world.split(name))
    lines = [{"query": p.query, "doc_id": p.document.id, "title": p.document.title} for p in world.pairs[:50]]
    (kuake / "unlabelled.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "data" / "qbqtc").mkdir()
    rows = [{"query": p.query, "title": p.document.title, "label": min(int(p.level), 2)} for p in world.pairs]
    lines = [json.dumps({**row, "doc_id": str(number)}) + "\n" for number, row in enumerate(rows)]
    (folder / "data" / "qbqtc" / "train.jsonl").write_text("".join(lines))
    (folder / "data" / "queries").mkdir()
    (folder / "data" / "queries" / "video_search.txt").write_text("\n".join(q.text for q in world.queries))
    (folder / "models").mkdir()
    (folder / "models" / "me5-small-zh").symlink_to(checkpoint)
    return folder


@pytest.mark.slow
def test_real_at_toy_size(toy_checkpoint, tmp_path):
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    done = call(
        "bench.experiments.export_real", "--shared", shared, "--output", tmp_path / "out" / "real.json"
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "real.json").read_text())
    committed = json.loads((ROOT / "bench/results/real.json").read_text())
    assert result.keys() == committed.keys()
    assert {entry["variant"] for entry in result["evaluation"]} >= {"fp32", "int8_avx2", "int8_any"}
    assert all(value < 1e-6 for value in result["batch_invariance"].values())
    assert result["index_verified"]
    assert result["index_recall_at_10"]["own queries"]["256"] == 1.0
    assert str(tmp_path) not in json.dumps(result)


@pytest.mark.slow
def test_latency_at_toy_size(toy_bundle, tmp_path):
    output = tmp_path / "latency.json"
    done = run(
        "bench.run", "--output", output, "-k", "single_query or bulk", RELSDK_BENCH_BUNDLE=str(toy_bundle)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    names = {entry["name"]: entry for entry in result["benchmarks"]}
    assert set(names) >= {"test_single_query[fp32]", "test_single_query[int8]"}
    single = names["test_single_query[int8]"]
    assert single["p50_ms"] <= single["p90_ms"] <= single["p99_ms"]
    assert single["rounds"] == 400
    assert names["test_bulk[int8-queries]"]["finite"]


@pytest.mark.slow
def test_quantisation_at_toy_size(toy_checkpoint, tmp_path):
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    done = call(
        "bench.experiments.quantisation", "--shared", shared, "--output", tmp_path / "q.json", "--rounds", 20
    )
    assert done.exit_code == 0, done.output
    schemes = json.loads((tmp_path / "q.json").read_text())["schemes"]
    committed = json.loads((ROOT / "bench/results/quantisation.json").read_text())["schemes"]
    assert schemes.keys() == committed.keys()
    assert schemes["fp32"]["cosine_min"] > 0.99999
    for name in ("fp32", "relsdk int8 (avx512_vnni)", "relsdk int8 (avx2)"):
        assert schemes[name]["alone_vs_batch"] < 1e-6
        assert schemes[name].keys() == committed[name].keys()
    assert schemes["dynamic int8"]["alone_vs_batch"] > 1e-5  # the file under test encodes queries, too


def test_readmes_numbers_are_those_of_the_committed_results():
    done = call("bench.pages.readme", "--check")
    assert done.exit_code == 0, done.output


def test_a_stale_number_is_found(tmp_path, monkeypatch):
    page = (ROOT / "docs/benchmarks.md").read_text()
    latency, *others = readme.committed()
    assert readme.fill(page, readme.blocks(latency, *others)) == page
    next(b for b in latency["benchmarks"] if b["name"] == "test_single_query[int8]")["p50_ms"] += 1.0
    assert readme.fill(page, readme.blocks(latency, *others)) != page


def test_a_table_of_ssra_by_hand():
    def row(ap):
        return {"test": {"mean_ap": ap, "ndcg_at_10": 0.5}}

    rows = {
        row_key("vanilla SFT", 2000, 300, 0): row(0.25),
        row_key("SSRA", 2000, 300, 0): row(0.5),
        row_key("SSRA", 2000, 300, 1): row(0.75),
        row_key("SSRA", 2000, 100, 0): row(1.0),
        row_key("SSRA", 500, 300, 0): row(0.125),
    }
    assert readme._ssra_table(rows).splitlines()[2:] == [
        "| SSRA | 2 | 62.50 | 50.00 |",
        "| vanilla SFT | 1 | 25.00 | 50.00 |",
    ]


def test_fill_replaces_between_markers_only():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb <!-- y -->"
    assert readme.fill(page, {"x": "new\n", "z": "none"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb <!-- y -->"


def commands(content):
    """Every command that a result file names."""
    if not isinstance(content, dict):
        return []
    own = [content["command"]] if "command" in content else []
    return own + [command for value in content.values() for command in commands(value)]


# Results name the command as it was when they were made; where it is now.
MOVED = {
    "bench.real": "bench.experiments.export_real",
    "bench.train_real": "bench.experiments.graded_pairs",
    "bench.ssra_real": "bench.experiments.ssra",
    "bench.pool": "bench.experiments.pooled_scorer",
    "bench.quantisation": "bench.experiments.quantisation",
    "bench.student_latency": "bench.experiments.student_latency",
    "bench.train_speed": "bench.experiments.train_speed",
    "bench.index_open": "bench.serving.index_open",
    "bench.suites": "bench.serving",
}


def test_every_committed_result_says_where_it_comes_from():
    for path in (ROOT / "bench/results").glob("*.json"):
        found = commands(json.loads(path.read_text()))
        assert found, path
        for command in found:
            python, flag, module, *_ = shlex.split(command)
            assert (python, flag) == ("python", "-m"), f"{path.name}: {command}"
            assert find_spec(MOVED.get(module, module)), f"{path.name}: {command}"
    assert set(machine_record()) >= {"cpu", "cpus", "versions", "commit", "command", "seed", "date"}
    for name in ("latency.json", "real.json"):
        content = json.loads((ROOT / "bench/results" / name).read_text())
        assert set(content["machine"]) == set(machine_record())


def test_the_committed_results_keep_the_promises():
    """Bounds on results that were measured and committed, not on the machine that runs this test."""
    real = json.loads((ROOT / "bench/results/real.json").read_text())
    by_variant = {entry["variant"]: entry["ranking"]["mean_ap"] for entry in real["evaluation"]}
    assert set(by_variant) >= {"fp32", "int8_avx2", "int8_any"}
    for variant in by_variant:  # those that the machine it was measured on runs exactly
        parity = real["variants"][variant]
        assert by_variant["fp32"] - by_variant[variant] <= 0.01
        assert parity["mean_cosine"] >= (0.9999 if variant == "fp32" else 0.99)
        assert real["batch_invariance"][variant] <= 1e-5
    recall = real["index_recall_at_10"]
    assert recall["own queries"][str(recall["default ef_search"])] >= 0.98
    assert real["documents"] == real["index"]["count"] > 27_000
    timed = {
        b["name"]: b["p50_ms"]
        for b in json.loads((ROOT / "bench/results/latency.json").read_text())["benchmarks"]
    }
    assert timed["test_process[relsdk]"] - timed["test_process[numpy and onnxruntime]"] < 300


@pytest.mark.slow
def test_training_at_toy_size(checkpoint_factory, tmp_path, monkeypatch):
    """An encoder, its query tower and a score model: rows, resumption, report."""
    shared = toy_shared(tmp_path / "shared", checkpoint_factory(tmp_path / "wide", hidden=384))
    output = tmp_path / "train.json"
    names = ["embed", "query tower, 2 layers", "score categorical", "QBQTC: embed"]
    names += ["score categorical, mean of two runs", train_real.TAUGHT]
    monkeypatch.setattr(train_real, "TAUGHT_BY", [("embed", 0), ("score categorical", 0)])
    arguments = ["--shared", shared, "--output", output, "--work", tmp_path / "work", "--seed", 0]
    arguments += [part for name in names for part in ("--only", name)]
    arguments += ["--set", "run.max_steps=3", "--set", "run.evaluate_every=2", "--set", "run.precision=fp32"]
    done = call("bench.experiments.graded_pairs", *arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())
    assert set(rows) == {"untrained", "QBQTC: untrained", *(f"{name} / seed 0" for name in names)}
    for row in rows.values():
        assert 0 < row["test"]["mean_ap"] <= 1
        assert set(row["machine"]) == set(machine_record())
    one, mean = (rows[f"{name} / seed 0"] for name in (names[2], names[4]))
    assert mean["config"]["run"]["seed"] == one["config"]["run"]["seed"] + 1
    assert mean["test"]["log_loss"] != one["test"]["log_loss"]
    taught = rows[f"{train_real.TAUGHT} / seed 0"]["config"]["teacher"]
    assert taught["checkpoints"] == ["embed_-_seed_0/best", "score_categorical_-_seed_0/best"]
    assert taught["pairs"] == ["unlabelled.jsonl", "near_pairs.jsonl"]
    assert "mean_ap@32" in rows["query tower, 2 layers / seed 0"]["test"]
    assert str(tmp_path) not in json.dumps({key: row.get("config") for key, row in rows.items()})
    report = (tmp_path / "train.md").read_text()
    assert all(f"| {name} |" in report for name in names)
    latency = [
        "--shared",
        shared,
        "--work",
        tmp_path / "work",
        "--output",
        tmp_path / "student_latency.json",
        "--rounds",
        20,
    ]
    timed = call("bench.experiments.student_latency", *latency)
    assert timed.exit_code == 0, timed.output
    models = json.loads((tmp_path / "student_latency.json").read_text())["models"]
    assert set(models) == {"embed", "query tower, 2 layers"}
    assert models["embed"]["time_to_teacher"] == 1.0
    assert {model["weights"] for model in models.values()} == {"trained"}
    missing = call("bench.experiments.student_latency", *latency, "--seed", 1)
    assert missing.exit_code == 1
    assert "holds no 'embed' of seed 1; run: make train-real" in missing.output
    pool = call(
        "bench.experiments.pooled_scorer",
        *latency[:4],
        "--output",
        tmp_path / "pool.json",
        "--seed",
        0,
        "--fp32",
    )
    assert pool.exit_code == 0, pool.output
    (pooled,) = json.loads((tmp_path / "pool.json").read_text()).values()
    assert set(pooled["test"]) == {"encoder", "score model, taught", "both, pooled"}
    trained = rows[f"{train_real.TAUGHT} / seed 0"]["test"]
    served = pooled["test"]["score model, taught"]  # exported, calibrated on dev and evaluated
    for name in ("accuracy", "log_loss"):
        assert served[name] == pytest.approx(trained[f"{name}_by_dev"], abs=2e-3)
    before = output.read_text()
    again = call("bench.experiments.graded_pairs", *arguments)
    assert again.exit_code == 0, again.output
    assert output.read_text() == before  # nothing is run twice


def test_a_run_that_starts_from_another_names_it(tmp_path):
    starts = train_real.STARTS
    assert train_real.other_run(tmp_path, "embed", starts, 1) is None
    with pytest.raises(click.ClickException, match='--only "embed, levels 1 and 2 rare"'):
        train_real.other_run(tmp_path, "score categorical, levels 1 and 2 rare", starts, 1)
    trained = train_real.run_folder(tmp_path, "embed / seed 1") / "best"
    trained.mkdir(parents=True)
    for content in (None, {"stopped": "interrupted"}):  # still training; stopped half way
        if content is not None:
            (trained.parent / "result.json").write_text(json.dumps(content))
        with pytest.raises(click.ClickException, match="whose run has not ended"):
            train_real.other_run(tmp_path, "score categorical", starts, 1)
    (trained.parent / "result.json").write_text(json.dumps({"stopped": "finished"}))
    for name in ("score categorical", "score ordinal", "query tower, 2 layers"):
        assert train_real.other_run(tmp_path, name, starts, 1) == trained


def test_an_interrupted_run_is_no_row_and_keeps_its_state(tmp_path, monkeypatch):
    state = tmp_path / "run/state-00000005"
    state.mkdir(parents=True)
    stopped = TrainResult(5, 5, best={}, seconds=1.0, rows_per_second=1.0, stopped="interrupted")
    kind = train_real.KINDS["embed"][0]
    monkeypatch.setitem(train_real.KINDS, "embed", (kind, lambda *_, **__: stopped))
    with pytest.raises(click.ClickException, match="interrupted at step 5"):
        train_real.experiment("embed", [f"run.output={state.parent}"], tmp_path / "never read.jsonl", None)
    assert state.is_dir()


def test_queries_of_the_second_domain_are_in_one_split_only(tmp_path):
    rows = [{"query": f"q{n // 2}", "doc_id": str(n), "title": "t", "label": n % 3} for n in range(400)]
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = split_qbqtc(source, tmp_path / "splits")
    queries = {
        name: {json.loads(x)["query"] for x in path.read_text().splitlines()} for name, path in files.items()
    }
    assert sum(len(found) for found in queries.values()) == 200
    assert len(set.union(*queries.values())) == 200
    assert len(queries["train"]) > 120
    assert min(len(queries["dev"]), len(queries["test"])) > 5


def halved(checkpoint, folder):
    """A checkpoint's copy in half precision."""
    shutil.copytree(checkpoint, folder)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    return folder


@pytest.mark.slow
@pytest.mark.peers
def test_training_speed_at_toy_size(toy_checkpoint, tmp_path):
    """From a checkpoint in half precision, which the peer would train in half precision, too: slowly."""
    pytest.importorskip("datasets")
    shared = toy_shared(tmp_path / "shared", halved(toy_checkpoint, tmp_path / "halved"))
    arguments = ["--shared", shared, "--output", tmp_path / "s.json", "--rounds", 1, "--steps", 3]
    done = run("bench.experiments.train_speed", *arguments, "--batch-size", 8, "--threads", 1)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["precision"] == "torch.float32"
    runs = result["runs"]
    assert runs["sentence-transformers"]["speed_to_sentence_transformers"] == 1.0
    assert all(found["pairs_per_second_p50"] > 0 for found in runs.values())
