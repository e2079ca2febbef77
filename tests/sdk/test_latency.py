"""Verdicts by hand, and a whole run on a toy model with a clock that the test turns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceScorer
from relsdk.errors import InputError
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.latency import Facts, Parts, Plan, decide, run_benchmark
from relsdk.tools.latency.latencies import ENCODER, IN_BUDGET, SCORER, latency
from relsdk_sample import generate, write

FACTS = Facts(
    quantisation="int8",
    int8_variant="int8_avx2",
    query_tower=True,
    dimension=384,
    smaller_dimensions=(128, 64),
    threads=1,
    cpus=1,
    repeated=0.0,
    scorer_quantisation="int8",
    ef_search=256,
    documents=1000,
)
PARTS = Parts(encode=4.0, retrieve=1.0)


def row(mode, k, ms, scored=0, candidates=None, calls=200, budget_ms=20):
    return latency(
        mode,
        k,
        [ms / 1e3] * calls,
        threads=1,
        budget_ms=budget_ms,
        candidates=[k if candidates is None else candidates] * calls,
        scored=[scored] * calls,
    )


def test_a_latency_is_its_percentiles():
    seconds = np.random.default_rng(0).gamma(3.0, 0.002, size=500)
    found = latency(
        ENCODER, 10, list(seconds), threads=2, budget_ms=30, candidates=[10] * 500, scored=[0] * 500
    )
    expected = np.percentile(seconds * 1e3, [50, 90, 95, 99])
    np.testing.assert_allclose([found.p50, found.p90, found.p95, found.p99], expected)
    assert found.queries_per_second == pytest.approx(1 / seconds.mean() / 2)
    assert found.fits == (expected[-1] <= 30)


def test_all_fits():
    verdict = decide([row(ENCODER, 10, 5), row(ENCODER, 100, 8)], PARTS, FACTS, 20)
    assert (verdict.fits, verdict.k_without_scorer, verdict.k_with_scorer) == (True, 100, 0)
    assert verdict.summary == "Yes: within 20 ms at p99 up to k=100 without a scorer."
    assert verdict.advice == verdict.caution == ()


def test_a_larger_k_does_not_fit():
    verdict = decide([row(ENCODER, 10, 5), row(ENCODER, 100, 25)], PARTS, FACTS, 20)
    assert (verdict.fits, verdict.k_without_scorer) == (True, 10)
    assert verdict.advice[0] == "ask for fewer hits: k=10 fits"


def test_nothing_fits_and_the_larger_part_is_named_first():
    facts = replace(
        FACTS, quantisation="fp32", query_tower=False, cpus=4, repeated=0.3, smaller_dimensions=(128, 64)
    )
    slow = [row(ENCODER, 10, 30)]
    verdict = decide(slow, Parts(encode=25.0, retrieve=5.0), facts, 20)
    assert not verdict.fits
    assert verdict.summary == "No: k=10 without a scorer takes 30.0 ms at p99, 20 are allowed."
    wanted = [
        "--variant int8_avx2",
        "--query-tower",
        "--threads 4",
        "query_cache",
        "--dim 128",
        "ef_search=256",
    ]
    assert [next(i for i, text in enumerate(verdict.advice) if word in text) for word in wanted] == list(
        range(6)
    )
    verdict = decide(slow, Parts(encode=5.0, retrieve=25.0), facts, 20)
    assert "--dim 128" in verdict.advice[0]
    flat = replace(facts, ef_search=0, smaller_dimensions=(), int8_variant="")
    advice = " ".join(decide(slow, PARTS, flat, 20).advice)
    assert "Matryoshka" in advice
    assert "--kind hnsw" in advice
    assert "relsdk export encoder" in advice


def test_a_scorer_that_does_not_fit_is_told_how_many_candidates_do():
    rows = [
        row(ENCODER, 10, 4.0),
        row(SCORER, 10, 104.0, scored=50, candidates=50),  # 2 ms a candidate
        row(IN_BUDGET, 10, 18.0, scored=7, candidates=50),
    ]
    verdict = decide(rows, PARTS, replace(FACTS, scorer_quantisation="fp32"), 20)
    assert verdict.fits
    assert verdict.k_with_scorer == 0
    assert "scores about 7 of 50 at k=10" in verdict.summary
    advice = " ".join(verdict.advice)
    assert "budget_ms=20" in advice
    assert "one costs 2.00 ms, so about 8 fit" in advice
    assert "relsdk export scorer" in advice
    fitting = decide([rows[0], row(SCORER, 10, 15.0, scored=50, candidates=50)], PARTS, FACTS, 20)
    assert fitting.k_with_scorer == 10
    assert fitting.advice == ()


def test_a_larger_k_that_fits_by_chance_is_no_answer():
    rows = [row(ENCODER, 10, 5), row(ENCODER, 50, 25), row(ENCODER, 100, 19)]
    verdict = decide(rows, PARTS, FACTS, 20)
    assert (verdict.fits, verdict.k_without_scorer) == (True, 10)
    (caution,) = decide(rows, PARTS, replace(FACTS, documents=60), 20).caution
    assert "60 documents, fewer than the largest k" in caution


def test_a_budget_that_scores_nothing_is_no_advice():
    rows = [
        row(ENCODER, 10, 19.0),
        row(SCORER, 10, 119.0, scored=50, candidates=50),
        row(IN_BUDGET, 10, 19.5, scored=0, candidates=50),
    ]
    assert "budget_ms" not in " ".join(decide(rows, PARTS, FACTS, 20).advice)


def test_what_weakens_the_measurement_is_said():
    verdict = decide([row(ENCODER, 10, 5, calls=20)], PARTS, replace(FACTS, threads=4), 20)
    assert "only 20 times" in verdict.caution[0]
    assert "4 threads share 1 CPUs" in verdict.caution[1]


@pytest.mark.parametrize(
    "wrong", [{"budget_ms": 0}, {"budget_ms": float("nan")}, {"ks": ()}, {"ks": (0,)}, {"repeats": 0}]
)
def test_a_wrong_plan_is_an_error(wrong):
    with pytest.raises(InputError):
        Plan(**{"budget_ms": 20, **wrong})


@pytest.fixture(scope="module")
def made(toy_bundle, tmp_path_factory):
    import shutil

    folder = shutil.copytree(toy_bundle, tmp_path_factory.mktemp("calibrated") / "b")
    world = generate(seed=5, n_documents=120, n_queries=30)
    calibrate_bundle(folder, world.split("train"))
    return folder, world, write(world, tmp_path_factory.mktemp("world") / "w")


def test_a_run_searches_in_turns_and_is_timed_by_its_clock(made, tmp_path):
    folder, world, _ = made
    embedder = Embedder(folder, variant="fp32", threads=1)
    now, calls = [0.0], []

    class Noted(RelevanceScorer):
        def flow(self, pairs, **options):
            now[0] += 1e-3 * len(pairs)
            calls.append(len(pairs))
            return (yield from super().flow(pairs, **options))

    with Index.build(tmp_path / "i", world.documents, embedder) as index:
        found = run_benchmark(
            embedder,
            index,
            [query.text for query in world.queries[:5]],
            Plan(20, ks=(2, 10), repeats=2),
            scorer=Noted(embedder),
            clock=lambda: now[0],
        )
    kinds = [(one.mode, one.k, one.calls) for one in found.latencies]
    assert kinds == [(mode, k, 10) for mode in (ENCODER, SCORER, IN_BUDGET) for k in (2, 10)]
    by = {(one.mode, one.k): one for one in found.latencies}
    assert by[SCORER, 2].p99 == pytest.approx(10.0)
    assert by[SCORER, 10].p50 == pytest.approx(50.0)
    assert by[SCORER, 2].fits
    assert not by[SCORER, 10].fits
    assert 10 <= by[IN_BUDGET, 10].scored <= 20
    assert by[IN_BUDGET, 10].fits
    assert found.verdict.k_with_scorer == 2
    assert found.facts.documents == 120
    with pytest.raises(InputError, match="no queries"):
        run_benchmark(embedder, index, [], Plan(20))


def test_a_run_ends_when_its_time_is_used_up(made, tmp_path):
    folder, world, _ = made
    embedder = Embedder(folder, variant="fp32", threads=1)
    now = [0.0]

    def clock():
        now[0] += 0.01
        return now[0]

    with Index.build(tmp_path / "i", world.documents, embedder) as index:
        texts = [query.text for query in world.queries]
        found = run_benchmark(
            embedder, index, texts, Plan(20, ks=(2,), repeats=100, seconds=0.5), clock=clock
        )
    assert 1 <= found.latencies[0].calls <= 50


def test_the_command(made, relsdk, tmp_path):
    folder, _, files = made
    (tmp_path / "q.txt").write_text("红烧肉怎么做\n大理旅游\n")
    common = ["bench", "-m", folder, "-q", tmp_path / "q.txt", "--repeats", "1", "--variant", "fp32"]
    code, out, _ = relsdk(*common, "-d", files / "documents.jsonl", "-k", "3", "--json")
    assert code == 0
    report = json.loads(out)
    assert [(one["mode"], one["k"]) for one in report["latencies"]] == [("encoder", 3)]
    assert report["facts"]["documents"] == 120
    assert isinstance(report["verdict"]["fits"], bool)
    assert relsdk("index", "build", tmp_path / "i", "-m", folder, "-i", files / "documents.jsonl")[0] == 0
    scorer = Path(__file__).resolve().parents[1] / "fixtures" / "scorer-bundle-v1"
    code, out, _ = relsdk(*common, "--index", tmp_path / "i", "--scorer", scorer, "-k", "2", "-k", "5")
    assert code == 0
    assert "scorer within budget" in out
    assert "queries/s/core" in out
    assert out.count("\n") > 8
    code, _, err = relsdk(*common)
    assert code == 2
    assert "--documents" in err
    code, _, err = relsdk(*common, "--index", tmp_path / "i", "--budget-ms", "0")
    assert code == 2
    assert "budget_ms=0" in err
    assert "relsdk bench -m" in relsdk("bench", "--help")[1]
